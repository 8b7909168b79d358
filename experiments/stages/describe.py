"""What a report says of a study beyond its predictions, from the configuration that ran it."""

import platform
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from datamodules.manifest import OF_THE_ECHO
from experiments.config import plain
from experiments.figures.study import EXTERNAL_VALIDATION, LEAVE_SITE_OUT, Study, titled
from experiments.plan import Plan, rule_of
from experiments.schema import Config
from experiments.stages.key import file_digest
from experiments.stages.pretrain import pretraining_class
from experiments.tracking import Tracking
from lightning_modules.tasks.task import Task

PACKAGES = (
    "torch", "lightning", "timm", "mlflow", "numpy", "pandas", "scipy", "scikit-learn",
    "statsmodels",
)  # fmt: skip


def describe(
    config: Config,
    plan: Plan | None,
    tracking: Tracking,
) -> Study:
    """The study as its report tells it; `plan` where it trains."""
    digests = {
        name.removeprefix("store_digest."): value
        for name, value in tracking.common.items()
        if name.startswith("store_digest.")
    }
    digests |= {path: file_digest(Path(path)) for path in config.predictions}
    versions = {"Python": platform.python_version()}
    versions |= {package: version(package) for package in PACKAGES}
    known = Study(
        name=config.study,
        target=titled(config.target),
        command=tracking.command,
        commit=tracking.common["mlflow.source.git.commit"],
        digests=digests,
        versions=versions,
    )
    return known if plan is None else _trained(config, plan, known)


def _trained(config: Config, plan: Plan, known: Study) -> Study:
    fusion, split_by = config.fusion, _split_by(config)
    return replace(
        known,
        published=published_for(config),
        rule=_rules(config, plan.question.task),
        protocol=LEAVE_SITE_OUT if config.protocol == LEAVE_SITE_OUT else EXTERNAL_VALIDATION,
        models={name: _model(plan, name) for name in plan.models.models}
        | _fused(config, plan.question.task),
        main="" if fusion is None else fusion.name,
        fusion=""
        if fusion is None
        else (
            "The fusion learned from outputs that were cross-fitted by patient in "
            f"{fusion.folds} folds: preprocessing, pretraining, weights and epoch of the "
            "submodels that scored a training patient came from other patients."
        ),
        splits={} if split_by else config.splits.shares,
        split_by=split_by,
        preprocessing={name: input.describe() for name, input in plan.question.inputs.items()},
    )


def _split_by(config: Config) -> str:
    """Who put development patients into their splits, if it was not the hash of their ids."""
    if config.cohort.source == "ptbxl":
        return "as published: folds 1 to 8 train, 9 validation, 10 internal test"
    column = config.splits.column
    return "" if column is None else f"as the manifests' column {column} says"


def published_for(config: Config) -> pd.DataFrame | None:
    """The published results for what is asked, best first."""
    cohort = config.cohort
    asked = cohort.asked if cohort.source == "ptbxl" else config.target
    rows = [plain(of) for of in config.published if [of.target] == list(asked)]
    if not rows:
        return None
    table = pd.DataFrame(rows)[["model", "auroc", "source"]]
    return table.sort_values("auroc", ascending=False, kind="stable", ignore_index=True)


def _rules(config: Config, task: Task) -> str:
    """How targets follow from measurements; of several labels, those that are derived."""
    if len(config.target) == 1 or config.cohort.source == "ptbxl":
        return rule_of(config, task, config.target[0])
    derived = [label for label in config.target if label in ("lvsd", "ph", *OF_THE_ECHO)]
    told = [f"{label}: {rule_of(config, task, label)}" for label in derived]
    others = len(config.target) - len(derived)
    return "; ".join(told + ["the others: the manifest's columns of these names"] * bool(others))


def _model(plan: Plan, name: str) -> str:
    models, model = plan.models, plan.models.models[name]
    if model.network is None:
        label, task = plan.question.inputs[model.reads].label, type(plan.question.task)
        return model.kind.described(label, task, model.recipe)
    origin = "from published weights" if model.pretrained else "from scratch"
    if models.starts_from_pretraining(model):
        kind = pretraining_class(models.pretraining or {})
        origin = f"pretrained as {kind.name} on the development institutions' exams"
    frozen = ", encoder frozen" if model.recipe.get("frozen_encoder") else ""
    return f"{model.network['name']}, {origin}{frozen}"


def _fused(config: Config, task: Task) -> dict[str, str]:
    if config.fusion is None:
        return {}
    names = ", ".join(config.models)
    return {
        config.fusion.name: f"three fully connected layers on the {task.value}s of {names}",
        f"mean_of_{task.value}s": f"the mean of the {task.value}s that are there",
        f"{task.linear.split()[0]}_stacking": (
            f"{task.linear} on the {task.value}s and on which of them are there"
        ),
        "best_submodel": "the submodel, of those whose input is there, best in validation",
    }
