from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score
from tiny import CNN, LVSD, VIT, autoencoder, classifier, exams, trainer, with_settings

from lightning_modules.classifier import Classifier
from lightning_modules.pretraining.masked_autoencoder import MaskedAutoencoder


@pytest.mark.parametrize("network", [VIT, CNN], ids=["vit", "resnet1d"])
def test_it_overfits_one_batch(network: dict[str, Any], tmp_path: Path) -> None:
    module = classifier(network, base_learning_rate=0.16, layer_decay=1.0)
    loader = exams(16)
    trainer(tmp_path, max_steps=150, max_epochs=-1, num_sanity_val_steps=0).fit(module, loader)
    (batch,) = loader
    module.eval()
    loss = module.task.loss(module(batch), batch["target"])
    assert loss < 0.1


def test_the_weighted_loss_is_least_at_the_unweighted_log_odds() -> None:
    # 100 exams alike, 20 of them positive: whatever the weight, the best probability is 0.2.
    target = torch.tensor([1.0] * 20 + [0.0] * 80)[:, None]
    module = classifier(task={**LVSD, "positive_weights": [4.0]})
    logit = torch.zeros(1, 1, requires_grad=True)
    optimiser = torch.optim.LBFGS([logit], max_iter=100)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = module.task.loss(logit.expand(100, 1), target)
        loss.backward()
        return loss

    optimiser.step(closure)
    assert logit.sigmoid().item() == pytest.approx(0.2, abs=1e-3)


def test_validation_counts_an_exam_once_however_often_it_comes(tmp_path: Path) -> None:
    module = classifier()
    (logged,) = trainer(tmp_path).validate(module, exams(repeat=24), verbose=False)
    module.eval()
    batches = list(exams())
    with torch.no_grad():
        logit = torch.cat([module(batch) for batch in batches])
    target = torch.cat([batch["target"] for batch in batches])
    assert logged["val/auroc"] == pytest.approx(roc_auc_score(target, logit), abs=1e-6)
    assert logged["val/loss"] == pytest.approx(module.task.loss(logit, target).item(), rel=1e-5)


def test_validation_tells_apart_exams_that_single_precision_would_not(tmp_path: Path) -> None:
    """A float32 holds 2**24 and 2**24 + 2, and nothing between them."""
    module = classifier()
    (logged,) = trainer(tmp_path).validate(module, exams(repeat=24, first=2**24), verbose=False)
    (expected,) = trainer(tmp_path).validate(module, exams(), verbose=False)
    assert logged == pytest.approx(expected, abs=1e-7)


def test_a_checkpoint_gives_back_network_input_and_threshold(tmp_path: Path) -> None:
    module = classifier(task={**LVSD, "positive_weights": [3.0]})
    fit = trainer(tmp_path, max_steps=2)
    fit.fit(module, exams())
    module.set_threshold([0.25])
    fit.save_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    raw = torch.load(tmp_path / "model.ckpt", weights_only=True)
    assert "optimizer_states" not in raw
    again = Classifier.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    assert again.threshold.item() == 0.25
    assert again.hparams["input"] == module.hparams["input"]
    assert again.task.positive_weights == (3.0,)
    batch = next(iter(exams()))
    module.eval(), again.eval()
    torch.testing.assert_close(again(batch), module(batch), rtol=0, atol=0)


def test_learning_rates_decay_layer_by_layer(tmp_path: Path) -> None:
    module = classifier(with_settings(VIT, depth=3))
    fit = trainer(tmp_path, max_steps=1)
    fit.fit(module, exams())
    of = {id(p): g["lr_scale"] for g in fit.optimizers[0].param_groups for p in g["params"]}
    network = module.network
    scales = [
        of[id(parameter)]
        for parameter in (
            network.pos_embed,
            *(block.attn.qkv.weight for block in network.blocks),
            network.head.weight,
        )
    ]
    assert scales == pytest.approx([0.5**4, 0.5**3, 0.5**2, 0.5, 1.0])


@pytest.mark.parametrize("pooling", ["mean", "class_token"])
def test_a_classifier_starts_from_the_pretrained_encoder(pooling: str) -> None:
    mae = autoencoder()
    module = classifier(with_settings(VIT, pooling=pooling))
    before = module.network.head.weight.clone()
    module.load_encoder(MaskedAutoencoder.encoder(mae.state_dict(), module.network))
    torch.testing.assert_close(module.network.head.weight, before)
    ecg = torch.randn(2, 12, 100)
    everything = torch.arange(120).expand(2, -1)
    expected = mae.network.encode(mae.network.encoder.patch_embed.cut(ecg), everything)
    features = module.network.forward_features(ecg)
    if pooling == "mean":  # its norm comes after pooling, so the encoder's last one is left out
        features = mae.network.encoder.norm(features)
    torch.testing.assert_close(features, expected)


def test_an_encoder_of_another_size_is_refused_by_name() -> None:
    module = classifier()

    def load(mae: MaskedAutoencoder) -> None:
        module.load_encoder(MaskedAutoencoder.encoder(mae.state_dict(), module.network))

    wider = autoencoder(encoder={"width": 32, "depth": 1, "heads": 2})
    with pytest.raises(ValueError, match=r"cls_token is \(1, 1, 32\), here \(1, 1, 16\)"):
        load(wider)
    deeper = autoencoder(encoder={"width": 16, "depth": 2, "heads": 2})
    with pytest.raises(ValueError, match=r"blocks\.1"):
        load(deeper)


def test_a_linear_probe_moves_nothing_but_the_head(tmp_path: Path) -> None:
    module = classifier(frozen_encoder=True)
    before = {name: p.detach().clone() for name, p in module.network.named_parameters()}
    trainer(tmp_path, max_epochs=2, num_sanity_val_steps=0).fit(module, exams())
    moved = {n for n, p in module.network.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"head.weight", "head.bias", "fc_norm.weight", "fc_norm.bias"}


def test_a_network_that_cannot_be_had_is_refused() -> None:
    with pytest.raises(ValueError, match="vit has no LSTM"):
        classifier({**VIT, "_target_": "lightning_modules.networks.vit.LSTM"})
    with pytest.raises(ValueError, match=r"ViT can't be built \(.*colour"):
        classifier(with_settings(VIT, colour=1))
    timms = {
        "_target_": "lightning_modules.networks.cxr.TimmNetwork",
        "settings": {"model": "resnet18", "dropout": 0.0},
        "shape": {"channels": 1, "size": 32},
    }
    with pytest.raises(ValueError, match=r"TimmNetwork has no parameters called head\.\* or"):
        classifier(timms, frozen_encoder=True)
