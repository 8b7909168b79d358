"""What a checkpoint may name: nothing of a stranger's is imported before it is allowed."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import VIT, classifier, exams, trainer
from torch import nn

from lightning_modules.checkpoint import load_classifier
from lightning_modules.classifier import Classifier
from lightning_modules.networks.vit import ViT
from lightning_modules.target import check_allowed, name_of, resolve, targets_in


def test_a_name_and_what_it_names() -> None:
    assert resolve("lightning_modules.networks.vit.ViT") is ViT
    assert name_of(Classifier) == "lightning_modules.classifier.Classifier"
    assert resolve(name_of(Classifier)) is Classifier
    assert resolve("torch.nn.Linear") is nn.Linear


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("ViT", "write it as package.module.Class"),
        ("lightning_modules.networks.vit.VitB", "lightning_modules.networks.vit has no VitB"),
        ("lightning_modules.vit.ViT", "can't be imported"),
        ("nowhere_at_all.Net", "can't be imported"),
        ("lightning_modules.networks.vit.POOLING", "neither a class nor a function"),
    ],
)
def test_a_name_of_nothing(target: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as error:
        resolve(target)
    assert str(error.value).startswith(f"_target_={target}")


def test_targets_are_found_however_deep() -> None:
    values = {
        "_target_": "a.A",
        "list": [{"_target_": "b.B"}, ({"inner": {"_target_": "c.C"}},)],
        "text": "_target_",
        "number": {"_target_": 3},
    }
    assert list(targets_in(values)) == ["a.A", "b.B", "c.C"]


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "torch.nn.Linear",
        "lightning_modules.networks.vit.torch",
        "lightning_modules.networks.vit.VisionTransformer",
        "lightning_modules.target.importlib",
        "lightning_modules.networks.vit.nn.Linear",
        "lightning_modules_of_mine.Net",
        "datamodules.provenance.version",
    ],
)
def test_a_strangers_name_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match="not this software's|can't be imported|neither a class"):
        check_allowed({"network": {"_target_": target}})
    check_allowed({"network": {"_target_": "lightning_modules.networks.vit.ViT"}})


def test_a_name_without_a_module_is_refused() -> None:
    with pytest.raises(ValueError, match="_target_=Net: write it as package.module.Class"):
        check_allowed({"network": {"_target_": "Net"}})


def test_what_is_allowed_is_a_module_or_all_of_a_package() -> None:
    values = {"_target_": "torch.nn.Linear"}
    check_allowed(values, ["torch"])
    check_allowed(values, ["torch.nn"])
    for other in ("torch.nn.Linear", "torch.n", "tor"):
        with pytest.raises(ValueError, match=r"names torch.nn.Linear.*allow=\[torch\]"):
            check_allowed(values, [other])
    with pytest.raises(ValueError, match="names os.system"):
        check_allowed([values, {"_target_": "os.system"}], ["torch"])


STRANGER = """
from pathlib import Path

import torch

Path(__file__).with_name("imported").touch()


class Net(torch.nn.Module):
    def __init__(self, *, leads: int, samples: int, outputs: int) -> None:
        super().__init__()
        self.head = torch.nn.Linear(leads * samples, outputs)

    def forward(self, ecg: torch.Tensor) -> torch.Tensor:
        return self.head(ecg.flatten(1))
"""


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path whose module `a_strangers` leaves a file when it is imported."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "a_strangers.py").write_text(STRANGER)
    monkeypatch.syspath_prepend(folder)
    yield folder
    sys.modules.pop("a_strangers", None)


def forget(stranger: Path) -> None:
    sys.modules.pop("a_strangers", None)
    (stranger / "imported").unlink(missing_ok=True)


NET = {"_target_": "a_strangers.Net", "settings": {}, "shape": {"leads": 12, "samples": 100}}


def saved(path: Path, **changes: Any) -> dict[str, Any]:
    """A checkpoint of a model with the stranger's network."""
    module = classifier(NET, **changes)
    fit = trainer(path.parent, max_steps=1, num_sanity_val_steps=0)
    fit.fit(module, exams())
    fit.save_checkpoint(path, weights_only=True)
    return dict(torch.load(path, weights_only=True))


def test_a_strangers_network_is_loaded_only_where_it_is_allowed(
    tmp_path: Path, stranger: Path
) -> None:
    path = tmp_path / "model.ckpt"
    saved(path)
    for allowed in ((), ["elsewhere"], ["a_stranger"]):
        forget(stranger)
        with pytest.raises(ValueError, match=r"model\.ckpt: it names a_strangers\.Net") as error:
            load_classifier(path, allowed)
        assert "allow=[a_strangers]" in str(error.value)
        assert not (stranger / "imported").exists()
        assert "a_strangers" not in sys.modules
    module = load_classifier(path, ["a_strangers"])
    assert (stranger / "imported").exists()
    assert type(module.network).__name__ == "Net"
    (batch, *_) = exams()
    assert module(batch).shape == (16, 1)


def test_nothing_of_a_strangers_is_imported_wherever_it_is_named(
    tmp_path: Path, stranger: Path
) -> None:
    path = tmp_path / "model.ckpt"
    good = saved(path)
    values = {**good["hyper_parameters"], "network": VIT}
    planted = {"_target_": "a_strangers.Net"}
    submodel = {"_target_": "lightning_modules.classifier.Classifier", "hyper_parameters": values}
    for name, hyper_parameters in {
        "the task": {**values, "task": {**planted, "labels": ["lvsd"]}},
        "the input": {**values, "input": planted},
        "a setting": {**values, "network": {**VIT, "settings": {"inner": [planted]}}},
        "what it was trained on": {**values, "about": {"deep": [[planted]]}},
        "a submodel": {"submodels": {"ecg": {**planted, "hyper_parameters": values}}},
        "a submodel's network": {
            "submodels": {"ecg": {**submodel, "hyper_parameters": {**values, "network": planted}}}
        },
    }.items():
        torch.save({**good, "hyper_parameters": hyper_parameters}, path)
        forget(stranger)
        with pytest.raises(ValueError, match=r"names a_strangers\.Net"):
            load_classifier(path)
        assert not (stranger / "imported").exists(), name
    torch.save({**good, "classifier": "a_strangers.Net"}, path)
    with pytest.raises(ValueError, match=r"names a_strangers\.Net"):
        load_classifier(path)
    assert not (stranger / "imported").exists()


def test_this_softwares_functions_do_not_import_a_strangers_code(
    tmp_path: Path, stranger: Path
) -> None:
    """One as task or submodel would be called with whatever values the checkpoint holds."""
    path = tmp_path / "model.ckpt"
    good = saved(path)
    values = {**good["hyper_parameters"], "network": VIT}
    name = "lightning_modules.target.resolve"
    fusion = {
        "task": values["task"],
        "mean": [[0.0]],
        "deviation": [[1.0]],
        "widths": [2, 2],
        "modality_dropout": 0.0,
        "weight_decay": 0.0,
        "base_learning_rate": 0.1,
        "effective_batch": 1,
        "betas": [0.9, 0.99],
        "warmup_fraction": 0.1,
        "submodels": {"ecg": {"_target_": name, "hyper_parameters": {"target": "a_strangers.Net"}}},
    }
    for kind, hyper_parameters, says in (
        (
            "classifier.Classifier",
            {**values, "task": {"_target_": name, "target": "a_strangers.Net"}},
            "resolve is not a Task",
        ),
        ("fusion.Fusion", fusion, "resolve is not a model"),
    ):
        planted = {"classifier": f"lightning_modules.{kind}", "hyper_parameters": hyper_parameters}
        torch.save({**good, **planted}, path)
        forget(stranger)
        with pytest.raises(ValueError, match=says):
            load_classifier(path)
        assert not (stranger / "imported").exists(), kind


@pytest.mark.parametrize(
    "name",
    ["lightning_modules.networks.vit.ViT", "lightning_modules.classifier.build_task"],
)
def test_a_model_is_a_model(name: str, tmp_path: Path, stranger: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({**saved(path), "classifier": name, "hyper_parameters": {}}, path)
    with pytest.raises(ValueError, match="not a checkpoint of a model that this software"):
        load_classifier(path)
