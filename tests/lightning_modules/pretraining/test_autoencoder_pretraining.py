from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import CNN, TIME, VIT, trainer, with_settings
from tiny import autoencoder as build
from tiny import ecgs as loader

from lightning_modules.networks.network import build_network
from lightning_modules.pretraining.masked_autoencoder import MaskedAutoencoder


@pytest.fixture
def ecg() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    dipole = torch.randn(20, 100, 3, generator=generator)
    leads = torch.randn(3, 12, generator=generator)
    return (dipole @ leads).transpose(1, 2) / 2


def test_explained_variance_is_of_masked_samples_only(ecg: torch.Tensor, tmp_path: Path) -> None:
    module = build()
    (logged,) = trainer(tmp_path).validate(module, loader(ecg), verbose=False)
    # By hand: the same masks, one batch after another as they were drawn.
    generator = torch.Generator().manual_seed(3)
    error = variance = 0.0
    for batch in ecg.split(8):
        visible = module.visible_patches(len(batch), generator)
        pieces = module.network.tokens.cut(batch)
        patches = batch.reshape(len(batch), 120, 10)
        predicted = module.network(pieces, visible)
        for exam in range(len(batch)):
            hidden = sorted(set(range(120)) - set(visible[exam].tolist()))
            error += float((patches[exam, hidden] - predicted[exam, hidden]).square().sum())
            variance += float(patches[exam, hidden].square().sum())
    assert logged["val/explained_variance"] == pytest.approx(1 - error / variance, abs=1e-5)
    assert logged["val/loss"] == pytest.approx(error / (20 * 90 * 10), rel=1e-4)


def test_least_squares_uses_the_leads_covariance(ecg: torch.Tensor, tmp_path: Path) -> None:
    flat = ecg.transpose(1, 2).reshape(-1, 12)
    covariance = (flat.T @ flat / len(flat)).tolist()
    (told,) = trainer(tmp_path).validate(
        build(lead_covariance=covariance), loader(ecg), verbose=False
    )
    (untold,) = trainer(tmp_path).validate(build(), loader(ecg), verbose=False)
    # Three dimensions and three visible leads on average: much follows from them.
    assert told["val/explained_variance_least_squares"] > 0.5
    assert untold["val/explained_variance_least_squares"] == pytest.approx(0, abs=1e-4)


def test_normalised_targets_give_the_yardstick_the_same_knowledge(
    ecg: torch.Tensor, tmp_path: Path
) -> None:
    flat = ecg.transpose(1, 2).reshape(-1, 12)
    covariance = (flat.T @ flat / len(flat)).tolist()
    plain = build(lead_covariance=covariance)
    normalised = build(lead_covariance=covariance, normalise_targets=True)
    (a,) = trainer(tmp_path).validate(plain, loader(ecg), verbose=False)
    (b,) = trainer(tmp_path).validate(normalised, loader(ecg), verbose=False)
    key = "val/explained_variance_least_squares"
    assert b[key] > 0.5
    assert b[key] != a[key]


def test_a_figures_reconstruction_says_what_was_visible(ecg: torch.Tensor) -> None:
    visible, reconstruction = build().reconstruct(ecg[:2])
    assert visible.shape == reconstruction.shape == (2, 12, 100)
    assert visible.float().mean() == pytest.approx(0.25)
    torch.testing.assert_close(reconstruction[visible], ecg[:2][visible])
    whole = visible.view(2, 120, 10)
    torch.testing.assert_close(whole.all(2), whole.any(2))


def test_weight_decay_spares_positions_and_tokens(ecg: torch.Tensor, tmp_path: Path) -> None:
    module = build()
    fit = trainer(tmp_path, max_steps=1)
    fit.fit(module, loader(ecg))
    decayed = {
        id(p) for g in fit.optimizers[0].param_groups if g["weight_decay"] for p in g["params"]
    }
    network = module.network
    spared = [network.encoder.pos_embed, network.encoder.cls_token, network.mask_token]
    assert not decayed & {id(p) for p in [*spared, network.decoder_position]}
    assert id(network.encoder.blocks[0].attn.qkv.weight) in decayed


def test_an_unknown_masking_is_refused() -> None:
    with pytest.raises(ValueError, match="random, time, lead, mixed"):
        build(masking="blocks")


def explained(by_it: float, by_least_squares: float) -> dict[str, float]:
    return {
        "val/explained_variance": by_it,
        "val/explained_variance_least_squares": by_least_squares,
    }


@pytest.mark.parametrize("pooling", ["mean", "class_token"])
def test_its_encoder_by_the_models_own_names(pooling: str) -> None:
    mae = build()
    vit = with_settings(VIT, pooling=pooling)
    network = build_network(vit, vit["shape"], 1)
    encoder = MaskedAutoencoder.encoder(mae.state_dict(), network)
    own = network.state_dict()
    # After mean pooling a norm of the model's own follows: the encoder's last one has no place.
    own_last = {"fc_norm.weight", "fc_norm.bias"} if pooling == "mean" else set()
    assert encoder.keys() == own.keys() - {"head.weight", "head.bias"} - own_last
    assert ("norm.weight" in encoder) == (pooling == "class_token")
    theirs = mae.network.encoder.state_dict()
    for name, weight in encoder.items():
        assert weight.shape == own[name].shape
        torch.testing.assert_close(weight, theirs[name], rtol=0, atol=0)


def test_another_choice_of_the_rest_is_the_same_pretraining() -> None:
    network = {**VIT, "layer_decay": 0.65, "name": "vit"}
    taken = MaskedAutoencoder.of_network(network)
    assert taken == {
        "_target_": VIT["_target_"],
        "settings": {"width": 16, "depth": 1, "heads": 2, "tokens": TIME},
        "shape": {"leads": 12, "samples": 100},
    }
    for same in (
        with_settings(network, drop_path=0.2, pooling="class_token"),
        {**network, "layer_decay": 1.0, "name": "another"},
    ):
        assert MaskedAutoencoder.of_network(same) == taken
    for other in (
        with_settings(network, tokens={**TIME, "patch_samples": 20}),
        with_settings(network, depth=2),
        {**network, "shape": {"leads": 12, "samples": 200}},
    ):
        assert MaskedAutoencoder.of_network(other) != taken


SETTINGS = {
    "decoder": {"width": 16, "depth": 1, "heads": 2},
    "mask_ratio": 0.75,
    "masking": "random",
    "normalise_targets": False,
    "base_learning_rate": 1e-3,
    "betas": [0.9, 0.95],
    "weight_decay": 0.05,
    "warmup_fraction": 0.1,
    "plateau_explained_variance": 0.05,
}


def made(network: dict[str, Any] = VIT, **changes: Any) -> MaskedAutoencoder:
    return MaskedAutoencoder.build(
        {**SETTINGS, **changes},
        reads="ecg",
        network=MaskedAutoencoder.of_network(network),
        statistics={"lead_covariance": torch.eye(12).tolist()},
        effective_batch=8,
        seed=3,
    )


def test_it_is_made_of_settings_and_a_network() -> None:
    module = made()
    assert dict(module.hparams) == dict(build().hparams)
    assert "plateau_explained_variance" in MaskedAutoencoder.judging
    with pytest.raises(ValueError, match="ResNet1d can't be pretrained as a masked autoencoder"):
        made(CNN)
    with pytest.raises(ValueError, match="tokens visible"):
        made(mask_ratio=1.0)
    with pytest.raises(ValueError, match="whole number of 30-patches"):
        made(with_settings(VIT, tokens={**TIME, "patch_samples": 30}))


def test_an_examples_three_panels(ecg: torch.Tensor) -> None:
    example = build().example(ecg[:1], lambda prepared: 2 * prepared)
    arrays = {name: values.numpy() for name, values in example.items()}
    torch.testing.assert_close(example["original"], 2 * ecg[0])
    seen = arrays["visible"]
    assert seen.mean() == pytest.approx(0.25)
    original, masked, reconstructed = MaskedAutoencoder.sheets(arrays)
    assert original.title == "Original"
    assert list(original.signals) == ["original"]
    assert original.hidden is None
    assert masked.title == "Masked: what the encoder saw (25%; grey is hidden)"
    np.testing.assert_array_equal(masked.hidden, ~seen)
    np.testing.assert_array_equal(np.isnan(masked.signals["visible"]), ~seen)
    np.testing.assert_array_equal(masked.signals["visible"][seen], arrays["original"][seen])
    drawn = reconstructed.signals
    assert list(drawn) == ["hidden", "visible", "reconstruction"]
    np.testing.assert_array_equal(drawn["hidden"][~seen], arrays["original"][~seen])
    np.testing.assert_array_equal(drawn["reconstruction"][~seen], arrays["reconstruction"][~seen])
    assert np.isnan(drawn["reconstruction"][seen]).all()
    assert np.isnan(drawn["hidden"][seen]).all()


def test_its_verdict() -> None:
    failed = MaskedAutoencoder.verdict(explained(0.049, 0.01), SETTINGS)
    assert failed.failed == (
        "ended on its plateau: it explains 4.9 % of the masked samples' variance"
    )
    assert "pretrain.max_steps" in " ".join(failed.advice)
    behind = MaskedAutoencoder.verdict(explained(0.6, 0.7), SETTINGS)
    assert not behind.failed
    assert behind.remark.startswith("it has not learned more than lead algebra yet")
    good = MaskedAutoencoder.verdict(explained(0.7, 0.6), SETTINGS)
    assert (good.failed, good.advice, good.remark) == ("", (), "")
    assert MaskedAutoencoder.told(explained(0.7, 0.6)) == (
        "explained variance 0.700, least squares from the visible leads 0.600"
    )


def test_its_summary_counts_those_that_learned_more() -> None:
    good, behind = explained(0.7, 0.6), explained(0.5, 0.6)
    for pretrainings, ending in (
        ([good, behind, good], ": 2 of 3 autoencoders learned more than that."),
        ([good], ": the autoencoder has learned more than that."),
        ([behind], ": the autoencoder has not learned more than that."),
    ):
        summary = MaskedAutoencoder.summary(pretrainings)
        assert summary.startswith("Explained is the share of the masked samples' variance")
        assert summary.endswith(ending)
