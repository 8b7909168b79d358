from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_modules.mae import MaskedAutoencoder
from lightning_modules.networks.vit import patchify, unpatchify


def build(**changes: object) -> MaskedAutoencoder:
    torch.manual_seed(0)
    settings = {
        "leads": 12,
        "samples": 100,
        "patch_samples": 10,
        "encoder": {"width": 16, "depth": 1, "heads": 2},
        "decoder": {"width": 16, "depth": 1, "heads": 2},
        "mask_ratio": 0.75,
        "masking": "random",
        "normalise_targets": False,
        "base_learning_rate": 1e-3,
        "effective_batch": 8,
        "betas": [0.9, 0.95],
        "weight_decay": 0.05,
        "warmup_fraction": 0.1,
        "seed": 3,
        "lead_covariance": np.eye(12).tolist(),
        "preprocessing": {"sampling_rate_hz": 10},
    }
    return MaskedAutoencoder(**{**settings, **changes})  # type: ignore[arg-type]


def loader(ecg: torch.Tensor) -> DataLoader[dict[str, torch.Tensor]]:
    return DataLoader([{"ecg": e} for e in ecg], batch_size=8)  # type: ignore[arg-type]


def trainer(folder: Path, **settings: object) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
        **settings,  # type: ignore[arg-type]
    )


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
        patches, predicted = patchify(batch, 10), module.network(batch, visible)
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
    whole = patchify(visible.float(), 10)
    torch.testing.assert_close(unpatchify(whole.round(), 12), visible.float())


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
