from pathlib import Path

import pytest
import torch
from tiny import RESNET, trainer
from tiny import film_classifier as build
from torch.utils.data import DataLoader

from lightning_modules.checkpoint import load_classifier
from lightning_modules.networks.cxr import TimmNetwork
from lightning_modules.networks.network import load_published_weights


def exams(n: int = 16) -> DataLoader[dict[str, torch.Tensor]]:
    """Positive ones are brighter on the left."""
    generator = torch.Generator().manual_seed(5)
    rows = []
    for i in range(n):
        image, positive = torch.randn(1, 32, 32, generator=generator), i % 2 == 0
        image[..., :16] += positive
        image[..., 16:] += not positive
        rows.append(
            {"cxr": image, "target": torch.tensor([float(positive)]), "exam": torch.tensor(i)}
        )
    return DataLoader(rows, batch_size=8)  # type: ignore[arg-type]


def test_it_learns_what_a_mirror_would_undo(tmp_path: Path) -> None:
    module = build()
    trainer(tmp_path, max_epochs=8, num_sanity_val_steps=0).fit(module, exams())
    module.eval()
    for batch in exams():
        positive = batch["target"] == 1
        assert ((module(batch) > 0) == positive).all()
        mirrored = {**batch, "cxr": batch["cxr"].flip(3)}
        assert ((module(mirrored) > 0) != positive).all()


def test_weight_decay_spares_norms_and_biases(tmp_path: Path) -> None:
    module = build()
    fit = trainer(tmp_path, max_steps=1, num_sanity_val_steps=0)
    fit.fit(module, exams())
    decayed = {
        id(p) for g in fit.optimizers[0].param_groups if g["weight_decay"] for p in g["params"]
    }
    for name, parameter in module.network.named_parameters():
        assert (id(parameter) in decayed) == (parameter.ndim > 1), name


def test_weight_decay_spares_what_timm_spares() -> None:
    settings = {"model": "test_vit", "dropout": 0.0}
    module = build(network={**RESNET, "settings": settings, "shape": {"channels": 1, "size": 160}})
    decayed = {id(p) for g in module.parameter_groups() if g["weight_decay"] for p in g["params"]}
    spared = {"pos_embed", "cls_token"}
    assert spared <= module.network.model.no_weight_decay()
    for name, parameter in module.network.model.named_parameters():
        assert (id(parameter) in decayed) == (parameter.ndim > 1 and name not in spared), name


def test_logits_are_single_precision_under_autocast() -> None:
    module = build().eval()
    (batch, *_) = exams()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = module(batch)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())


def test_a_checkpoint_of_a_pretrained_network_downloads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(TimmNetwork, "load_published_weights", lambda self: asked.append(self))
    module = build()
    load_published_weights(module.network)
    assert asked == [module.network]
    fit = trainer(tmp_path, max_steps=1, num_sanity_val_steps=0)
    fit.fit(module, exams())
    fit.save_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    again = load_classifier(tmp_path / "model.ckpt")
    assert asked == [module.network]
    (batch, *_) = exams()
    torch.testing.assert_close(again(batch), module.eval()(batch), rtol=0, atol=0)
