"""A stage's key is the hash of exactly what its builder is given."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose
from omegaconf import DictConfig, OmegaConf

from datamodules.errors import InputError
from datamodules.splits import assign_splits
from experiments import plan as planning
from experiments.arguments import read_arguments
from experiments.config import configs
from experiments.evaluation.predictions import EXAM_KEYS
from experiments.plan import Plan, plan_of
from experiments.processes import Processes
from experiments.schema import Config
from experiments.stages import evaluate, fit_input, fuse, pretrain, train
from experiments.stages.exams import Site, target_column
from experiments.stages.key import key_of, plain_values
from experiments.stages.pretrain import Pretrain
from experiments.stages.stage import Lab, Made, Stage
from experiments.stages.train import Finetune, Train
from experiments.stages.training import schedule
from experiments.tracking import Tracking

STUDIES = {
    "lvsd": (
        "experiment=lvsd",
        "network=vit_micro",
        "network@baseline=resnet1d_small",
        "pretrain=mae_small",
    ),
    "ph": (
        "experiment=ph",
        "network=vit_micro",
        "pretrain=mae_small",
    ),  # pretrains, trains three ways and fuses
}
# What the cohort is made of: stages are given the digests of what was made.
OF_THE_COHORT = ("cohort.every_institution", "cohort.institutions", "cohort.root", "cohort.seed")
# timm's networks have no head by the name that a frozen encoder leaves learning.
FROZEN = {"lvsd": [], "ph": ["cxr_finetune.frozen_encoder"]}
# What belongs to no stage: it tells, tracks and judges.
IN_NO_STAGE = (
    "statistics",
    "tracking",
    "cache",
    "workers",
    "folds",
    "predictions",
    "readers",
    "sweep",
)
# Leaves without a second value that is allowed on this machine, or by itself, or that name code.
NAMES = ("_target_", "classifier", ".input", "target", "protocol", "cohort.source")
ALONE = ("splits", "trainer", "statistics", "readers", "cohort", "fusion", "models", "published")
ALONE += ("sweep",)


@cache
def unresolved(study: str) -> DictConfig:
    with configs(read_arguments([])):
        composed = compose("run", overrides=list(STUDIES[study]))
    assert isinstance(composed, DictConfig)
    return composed


def validated(config: DictConfig) -> Config:
    resolved = copy.deepcopy(config)
    OmegaConf.resolve(resolved)
    return Config.model_validate(OmegaConf.to_container(resolved))


def leaves(config: Any, prefix: str = "") -> Iterator[str]:
    """Every value that is written, and not taken from another."""
    for name in config:
        key = f"{prefix}{name}"
        if OmegaConf.is_interpolation(config, name) or OmegaConf.is_missing(config, name):
            continue
        value = config._get_node(name)
        if OmegaConf.is_dict(value) and not value._is_none() and len(value):
            yield from leaves(value, f"{key}.")
        else:
            yield key


def others(value: Any) -> list[Any]:
    """Values to try in place of a leaf's."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1, 2 * value, 5]
    if isinstance(value, float):
        return [value * 0.5 or 0.25, value * 1.1, value + 1]
    if value is None:
        return [3, 0.5, [3.0], ["thistlemere"], ["II", "V5"], "x"]
    if isinstance(value, Mapping | DictConfig):  # an empty group
        return [{"batch_size": 3}]
    if isinstance(value, list):
        return [[*of, *value[1:]] for of in ([o] for o in others(value[0]))] if value else [["x"]]
    choices = {
        "development": "exam",
        "random": "lead",
        "32-true": "bf16-mixed",
        "mean": "class_token",
        "resnet18": "resnet34",
    }
    return [choices.get(value, f"{value}x"), "nt_probnp_pg_ml"]


@dataclass(frozen=True)
class Given:
    """One stage as it was asked for: what it is, its fields, its key, and what it builds."""

    name: str
    values: str
    key: str
    built: str


def manifest(site: str, exams: int) -> pd.DataFrame:
    rng = np.random.default_rng(len(site))
    lvef = rng.uniform(20, 70, exams).round()
    return pd.DataFrame(
        {
            "institution": site,
            "patient_id": [f"{site}{i // 2}" for i in range(exams)],
            "exam_id": [f"{site}-{i}" for i in range(exams)],
            "lvef_percent": lvef,
            "pasp_mmhg": rng.uniform(20, 70, exams).round(),
            "tr_velocity_m_s": rng.uniform(2, 4, exams).round(1),
            "bnp_pg_ml": rng.uniform(10, 900, exams).round(),
            "nt_probnp_pg_ml": rng.uniform(10, 900, exams).round(),
            "age_years": rng.uniform(30, 90, exams).round(),
            "sex": rng.choice(["male", "female"], exams),
            "ecg_time": pd.Timestamp("2021-01-01"),
            "echo_time": pd.Timestamp("2021-01-01") + pd.to_timedelta(np.arange(exams), "D"),
        }
    )


def site(plan: Plan, config: Config, name: str, exams: int = 120) -> Site:
    table = manifest(name, exams)
    table = table.assign(
        **{
            target_column(label): plan.question.target_of(table, label)
            for label in plan.question.task.labels
        },
        split=assign_splits(table["patient_id"], config.splits.shares, config.seed),
        **{f"{input}_row": range(exams) for input in plan.reads},
    )
    return Site(name, table, plan.question.inputs, {}, {}, plan.question.task.labels)


def built(stage: Stage) -> str:
    """What the stage's builder makes of what it is given, before it begins to fit."""
    if isinstance(stage, Pretrain):
        module: Any = stage.module()
    elif isinstance(stage, Train):
        module = stage.module(np.array([[0.0], [1.0], [1.0]]))
    else:
        return ""
    parts = [dict(module.hparams)]
    recipe = stage.settings if isinstance(stage, Pretrain) else stage.model.recipe
    if isinstance(stage, Pretrain | Finetune):
        parts += [schedule(recipe), recipe["batch_size"], recipe.get("patience")]
        parts += [repr(stage.fitted.input.augmentation(recipe["augmentation"]))]
        parts += [stage.compute, stage.seed]
    return repr(parts)


def stages_of(config: Config, folder: Path, patch: pytest.MonkeyPatch) -> list[Given]:
    """Every stage that the study asks for, none of them made."""
    patch.setattr(planning, "_check_model", lambda *_: None)
    plan = plan_of(config)
    given: list[Given] = []

    def asked(stage: Stage, lab: Lab, parent: str | None) -> Made:
        key = key_of(stage)
        with torch.device("meta"):
            of_stage = Given(
                f"{stage.kind} {stage.name}", repr(plain_values(stage)), key, built(stage)
            )
        given.append(of_stage)
        path = folder / f"{stage.kind}-{key}"
        path.mkdir(exist_ok=True)
        (path / "model.ckpt").write_text(of_stage.key)
        record: dict[str, Any] = {"exams": 1, "metrics": {}}
        if isinstance(stage, fit_input.FitInput):
            fitted = stage.input.as_dict() | (
                {"mean": [0.0] * 12, "deviation": [1.0] * 12} if stage.exams.reads == "ecg" else {}
            )
            statistics = stage.input.example_statistics()
            record = {"input": fitted, "ranges": {}, "statistics": statistics}
        elif isinstance(stage, Pretrain):
            record["metrics"] = dict.fromkeys(
                pretrain.pretraining_class(stage.settings).numbers, 0.5
            )
        elif isinstance(stage, evaluate.Evaluate):
            exams = pd.concat([s.exams for s in stage.development.sites])
            exams = exams[exams["split"] != "train"]
            task = plan.question.task
            targets = exams[[target_column(label) for label in task.labels]].to_numpy(float)
            rows = task.rows(exams[list(EXAM_KEYS)], targets, np.zeros(targets.shape))
            rows.to_parquet(path / evaluate.TABLE)
        elif isinstance(stage, fuse.Fuse):
            raise _AllAskedForError
        return Made(path, record, None)

    for module in (fit_input, pretrain, train, evaluate, fuse):
        patch.setattr(module, "run_stage", asked)
    tracking = Tracking("sqlite:///unused.db", "unused", "unused", enabled=False)
    lab = plan.lab(config, tracking, Processes())
    development, external = [site(plan, config, "alpha")], [site(plan, config, "beta")]
    trained = plan.models.train(development, lab, None)
    labels = plan.question.task.labels
    tested = pd.concat(
        evaluate.evaluate(name, of.checkpoint, of.key, of.reads, development, external, labels, lab)
        for name, of in trained.items()
    )
    if plan.fusion is not None:
        with pytest.raises(_AllAskedForError):
            fuse.fuse("fusion", plan.fusion, plan.models, trained, tested, development, lab, None)
    return given


class _AllAskedForError(Exception):
    pass


@pytest.mark.parametrize("study", STUDIES)
def test_every_leaf_of_the_configuration_changes_the_keys_of_those_it_is_given_to(
    study: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stages_of(validated(unresolved(study)), tmp_path, monkeypatch)
    assert len({stage.key for stage in before}) == len(before)
    again = stages_of(validated(unresolved(study)), tmp_path, monkeypatch)
    assert again == before
    changed_by: dict[str, set[str]] = {}
    stuck = []
    for leaf in leaves(unresolved(study)):
        if leaf.startswith(OF_THE_COHORT):
            continue
        after, value = None, OmegaConf.select(unresolved(study), leaf)
        for other in others(list(value) if OmegaConf.is_list(value) else value):
            changed = copy.deepcopy(unresolved(study))
            OmegaConf.update(changed, leaf, other, merge=False)
            try:
                after = stages_of(validated(changed), tmp_path, monkeypatch)
            except (InputError, ValueError, AssertionError, ModuleNotFoundError):
                continue
            break
        if after is None:
            stuck.append(leaf)
            continue
        now = {stage.name: stage for stage in after}
        for old in before:
            new = now.get(old.name)
            if new is None:  # a model that is not pretrained any more, say
                continue
            assert (old.values == new.values) == (old.key == new.key), (leaf, old.name)
            if old.built != new.built:
                assert old.key != new.key, f"{leaf} changes what {old.name} builds, not its key"
        keys = {stage.key for stage in after}
        changed_by[leaf] = {stage.name for stage in before if stage.key not in keys}
    assert len(changed_by) > 60
    stuck = [leaf for leaf in stuck if not leaf.startswith(ALONE) and not leaf.endswith(NAMES)]
    assert stuck == FROZEN[study]
    for leaf, names in changed_by.items():
        assert not (leaf.startswith(IN_NO_STAGE) and names), leaf
    if study == "lvsd":
        networks = {"finetune pretrained", "finetune scratch", "finetune linear_probe"}
        cnn = changed_by["baseline.settings.kernel"]
        assert {"finetune cnn"} == {s for s in cnn if s.startswith("finetune")}
        for leaf in ("tokens.patch_samples", "network.settings.width"):
            trained = {s for s in changed_by[leaf] if not s.startswith("evaluate")}
            assert trained == networks | {"pretrain pretrain"}, leaf
        assert "pretrain pretrain" not in changed_by["network.settings.drop_path"]
        assert networks | {"finetune cnn"} <= changed_by["lvsd.lvef_below_percent"]
        assert "pretrain pretrain" not in changed_by["lvsd.lvef_below_percent"]
        assert not changed_by["pretrain.plateau_explained_variance"]
        assert not changed_by["trainer.loading_workers"]
        assert "fit fit ecg" not in changed_by["finetune.max_steps"]
