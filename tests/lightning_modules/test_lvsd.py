from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score
from test_mae_module import build as build_mae
from test_mae_module import trainer
from torch.utils.data import DataLoader

from lightning_modules.lvsd import LVSDClassifier

VIT = {"width": 16, "depth": 1, "heads": 2, "pooling": "mean", "drop_path": 0.0}
CNN = {"widths": [8, 16], "blocks": 1, "kernel": 5, "dropout": 0.0}


def build(architecture: str = "vit", **changes: Any) -> LVSDClassifier:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "architecture": architecture,
        "settings": VIT if architecture == "vit" else CNN,
        "leads": 12,
        "samples": 100,
        "patch_samples": 10,
        "frozen_encoder": False,
        "layer_decay": 0.5,
        "weight_decay": 0.05,
        "positive_weight": 1.0,
        "base_learning_rate": 0.1,
        "effective_batch": 16,
        "betas": [0.9, 0.999],
        "warmup_fraction": 0.1,
        "preprocessing": {"sampling_rate_hz": 10, "mean": [0.0] * 12},
    }
    return LVSDClassifier(**{**settings, **changes})


def exams(n: int = 32, repeat: int = 0) -> DataLoader[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(5)
    ecg = torch.randn(n, 12, 100, generator=generator)
    rows = [
        {"ecg": ecg[i], "target": torch.tensor(float(i % 3 == 0)), "exam": torch.tensor(i)}
        for i in [*range(n), *[0] * repeat]
    ]
    return DataLoader(rows, batch_size=16)  # type: ignore[arg-type]


@pytest.mark.parametrize("architecture", ["vit", "resnet1d"])
def test_it_overfits_one_batch(architecture: str, tmp_path: Path) -> None:
    module = build(architecture, base_learning_rate=0.16, layer_decay=1.0)
    loader = exams(16)
    trainer(tmp_path, max_steps=150, max_epochs=-1, num_sanity_val_steps=0).fit(module, loader)
    (batch,) = loader
    module.eval()
    loss = module.loss(module(batch), batch["target"])
    assert loss < 0.1


def test_the_weighted_loss_is_least_at_the_unweighted_log_odds() -> None:
    # 100 exams alike, 20 of them positive: whatever the weight, the best probability is 0.2.
    target = torch.tensor([1.0] * 20 + [0.0] * 80)
    module = build(positive_weight=4.0)
    logit = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.LBFGS([logit], max_iter=100)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = module.loss(logit.expand(100), target)
        loss.backward()
        return loss

    optimiser.step(closure)
    assert logit.sigmoid().item() == pytest.approx(0.2, abs=1e-3)


def test_validation_counts_an_exam_once_however_often_it_comes(tmp_path: Path) -> None:
    module = build()
    (logged,) = trainer(tmp_path).validate(module, exams(repeat=24), verbose=False)
    module.eval()
    batches = list(exams())
    with torch.no_grad():
        logit = torch.cat([module(batch) for batch in batches])
    target = torch.cat([batch["target"] for batch in batches])
    assert logged["val/auroc"] == pytest.approx(roc_auc_score(target, logit), abs=1e-6)
    assert logged["val/loss"] == pytest.approx(module.loss(logit, target).item(), rel=1e-5)


def test_a_checkpoint_gives_back_network_preprocessing_and_threshold(tmp_path: Path) -> None:
    module = build(positive_weight=3.0)
    fit = trainer(tmp_path, max_steps=2)
    fit.fit(module, exams())
    module.set_threshold(0.25)
    fit.save_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    raw = torch.load(tmp_path / "model.ckpt", weights_only=True)
    assert "optimizer_states" not in raw
    again = LVSDClassifier.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    assert again.threshold.item() == 0.25
    assert again.hparams["preprocessing"] == module.hparams["preprocessing"]
    batch = next(iter(exams()))
    module.eval(), again.eval()
    torch.testing.assert_close(again(batch), module(batch), rtol=0, atol=0)


def test_learning_rates_decay_layer_by_layer(tmp_path: Path) -> None:
    module = build(settings={**VIT, "depth": 3})
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
    mae = build_mae()
    module = build(settings={**VIT, "pooling": pooling})
    before = module.network.head.weight.clone()
    module.load_encoder(mae.state_dict())
    torch.testing.assert_close(module.network.head.weight, before)
    ecg = torch.randn(2, 12, 100)
    everything = torch.arange(120).expand(2, -1)
    expected = mae.network.encode(ecg, everything)
    features = module.network.forward_features(ecg)
    if pooling == "mean":  # its norm comes after pooling, so the encoder's last one is left out
        features = mae.network.encoder.norm(features)
    torch.testing.assert_close(features, expected)


def test_an_encoder_of_another_size_is_refused_by_name() -> None:
    mae = build_mae(encoder={"width": 32, "depth": 1, "heads": 2})
    with pytest.raises(ValueError, match=r"cls_token is \(1, 1, 32\), here \(1, 1, 16\)"):
        build().load_encoder(mae.state_dict())
    deeper = build_mae(encoder={"width": 16, "depth": 2, "heads": 2})
    with pytest.raises(ValueError, match=r"blocks\.1"):
        build().load_encoder(deeper.state_dict())


def test_a_linear_probe_moves_nothing_but_the_head(tmp_path: Path) -> None:
    module = build(frozen_encoder=True)
    before = {name: p.detach().clone() for name, p in module.network.named_parameters()}
    trainer(tmp_path, max_epochs=2, num_sanity_val_steps=0).fit(module, exams())
    moved = {n for n, p in module.network.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"head.weight", "head.bias", "fc_norm.weight", "fc_norm.bias"}


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(ValueError, match="vit, resnet1d"):
        build("lstm")
