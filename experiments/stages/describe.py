"""What a report says of a study beyond its predictions, from the configuration that ran it."""

import platform
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from experiments.config import plain
from experiments.figures.study import EXTERNAL_VALIDATION, LEAVE_SITE_OUT, Study
from experiments.plan import Plan, rule_of
from experiments.schema import Config
from experiments.stages.key import file_digest
from experiments.stages.pretrain import pretraining_class
from experiments.tracking import Tracking

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
        target=config.target,
        command=tracking.command,
        commit=tracking.common["mlflow.source.git.commit"],
        digests=digests,
        versions=versions,
    )
    return known if plan is None else _trained(config, plan, known)


def _trained(config: Config, plan: Plan, known: Study) -> Study:
    fusion = config.fusion
    return replace(
        known,
        rule=rule_of(config),
        protocol=LEAVE_SITE_OUT if config.protocol == LEAVE_SITE_OUT else EXTERNAL_VALIDATION,
        models={name: _model(plan, name) for name in plan.models.models} | _fused(config),
        main="" if fusion is None else fusion.name,
        fusion=""
        if fusion is None
        else (
            "The fusion learned from outputs that were cross-fitted by patient in "
            f"{fusion.folds} folds: preprocessing, pretraining, weights and epoch of the "
            "submodels that scored a training patient came from other patients."
        ),
        splits=plain(config.splits),
        preprocessing={name: input.describe() for name, input in plan.question.inputs.items()},
    )


def _model(plan: Plan, name: str) -> str:
    models, model = plan.models, plan.models.models[name]
    if model.network is None:
        return model.kind.described(plan.question.inputs[model.reads].label, model.recipe)
    origin = "from published weights" if model.pretrained else "from scratch"
    if models.starts_from_pretraining(model):
        kind = pretraining_class(models.pretraining or {})
        origin = f"pretrained as {kind.name} on the development institutions' exams"
    frozen = ", encoder frozen" if model.recipe.get("frozen_encoder") else ""
    return f"{model.network['name']}, {origin}{frozen}"


def _fused(config: Config) -> dict[str, str]:
    if config.fusion is None:
        return {}
    names = ", ".join(config.models)
    return {
        config.fusion.name: f"three fully connected layers on the logits of {names}",
        "mean_of_logits": "the mean of the logits that are there",
        "logistic_stacking": "logistic regression on the logits and on which of them are there",
        "best_submodel": "the submodel, of those whose input is there, best in validation",
    }
