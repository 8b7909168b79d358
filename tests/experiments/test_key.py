"""A stage's key changes with what its builder is given, and with nothing else."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from places import REPOSITORY

from datamodules import provenance
from datamodules.inputs.input import Fitted
from experiments.config import compose_config
from experiments.plan import plan_of
from experiments.stages.exams import Exams, Site
from experiments.stages.key import key_of, plain_values
from experiments.stages.stage import Stage

FILMS = (
    "models.film={classifier: lightning_modules.ph.PHCXRClassifier, input: cxr, "
    "network: '${cxr_network}'}"
)


VIT = ("network=vit_micro", "network@baseline=resnet1d_small", "pretrain=mae_small")


def stages(*overrides: str) -> dict[str, Stage]:
    """The quickstart's stages by name, of a ViT, one institution and one exam."""
    models = plan_of(compose_config([*VIT, *overrides])).models
    exams = {"exam_id": ["e"], "patient_id": ["p"], "split": ["train"], "target lvsd": [1.0]}
    for reads in models.inputs:
        exams |= {f"{reads}_row": [0], f"{reads}_values": ["0"]}
    site = Site("alpha", pd.DataFrame(exams), models.inputs, {}, {}, ("lvsd",))
    made: dict[str, Stage] = {}
    for name, model in models.models.items():
        fitted = Fitted(models.inputs[model.reads], {}, {})
        made[name] = models.stage(name, model, fitted, [site])
        if models.starts_from_pretraining(model):
            made["pretrain"] = models.pretrain_stage(model, fitted, [site])
    return made


def keys(*overrides: str) -> dict[str, str]:
    return {name: key_of(stage) for name, stage in stages(*overrides).items()}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


ALL = {"pretrain", "pretrained", "scratch", "cnn"}
VITS = ALL - {"cnn"}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("tokens.patch_samples=50", VITS),
        ("network.settings.depth=3", VITS),
        ("baseline.settings.widths=[8]", {"cnn"}),
        ("pretrain.mask_ratio=0.5", {"pretrain"}),
        ("finetune.max_steps=7", {"scratch", "cnn"}),
        ("finetune.from_pretrained.max_steps=7", {"pretrained"}),
        ("seed=3", ALL),
        ("ecg.low_pass_hz=30", ALL),
        ("trainer.precision=bf16-mixed", ALL),
        # Neither what judges a pretraining, nor where and beside what else a model is trained.
        ("pretrain.plateau_explained_variance=0.3", set()),
        ("trainer.loading_workers=1", set()),
        ("trainer.log_every_n_steps=1", set()),
        ("tracking.uri=http://elsewhere", set()),
        ("statistics.resamples=50", set()),
        (FILMS, set()),
    ],
)
def test_a_setting_changes_what_it_is_given_to(override: str, expected: set[str]) -> None:
    assert changed(keys(), keys(override)) == expected


def test_an_upgraded_library_is_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before, version = keys(), provenance._version
    monkeypatch.setattr(
        provenance, "_version", lambda name: "0.0.1" if name == "timm" else version(name)
    )
    assert changed(before, keys()) >= VITS


@pytest.fixture
def edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], dict[str, str]]:
    """The keys after a line was added to a file of a copy of the code."""
    for package in ("datamodules", "lightning_modules", "experiments"):
        shutil.copytree(REPOSITORY / package, tmp_path / package)
    found = provenance._file

    def file(name: str) -> Path | None:
        path = found(name)
        if path is None or not path.is_relative_to(REPOSITORY):
            return path
        return tmp_path / path.relative_to(REPOSITORY)

    def edit(path: str, line: str) -> dict[str, str]:
        with (tmp_path / path).open("a") as code:
            code.write(f"\n{line}\n")
        return read()

    def read() -> dict[str, str]:
        provenance._source.cache_clear()
        provenance._closure.cache_clear()
        return keys()

    monkeypatch.setattr(provenance, "_file", file)
    yield edit
    provenance._source.cache_clear()
    provenance._closure.cache_clear()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("lightning_modules/networks/vit.py", VITS),
        ("lightning_modules/networks/resnet1d.py", {"cnn"}),
        ("lightning_modules/pretraining/masked_autoencoder.py", {"pretrain"}),
        ("datamodules/inputs/ecg.py", ALL),
        ("datamodules/inputs/cxr.py", set()),
        ("datamodules/simulation/cxr.py", set()),
        ("experiments/stages/cohort.py", set()),
        ("experiments/figures/report.py", set()),
    ],
)
def test_code_counts_where_a_result_passes_through_it(
    edited: Callable[[str, str], dict[str, str]], path: str, expected: set[str]
) -> None:
    before = edited(path, "")
    assert changed(before, edited(path, "# A comment.")) == set()
    assert changed(before, edited(path, "CHANGED = 1")) == expected


def test_what_cant_be_told_by_its_content_is_refused() -> None:
    with pytest.raises(TypeError, match="object can't be told by its content"):
        plain_values({"a": [object()]})


def test_exams_are_told_with_their_targets_only_where_these_are_learned() -> None:
    def digest(labels: tuple[str, ...], **cells: Any) -> list[str]:
        exams = {"exam_id": "e", "patient_id": "p", "split": "train"} | cells
        table = pd.DataFrame([{"target ph": 1.0, **exams, "ecg_row": 0}])
        inputs = plan_of(compose_config([])).question.inputs
        return Exams((Site("alpha", table, inputs, {}, {}, ("ph",)),), "ecg", labels).digest

    for labels in (("ph",), ()):
        same = digest(labels) == digest(labels, **{"target ph": 0.0})
        assert same == (not labels)
        assert digest(labels) != digest(labels, split="val")


def test_no_training_passes_through_a_model_that_it_does_not_train() -> None:
    passed = provenance._closure(("experiments.stages.train",))
    for other in ("fusion", "ph", "lvsd"):
        assert f"lightning_modules.{other}" not in passed
    assert "lightning_modules.classifier" in passed
