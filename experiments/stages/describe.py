"""What a report says of a study beyond its predictions, from the configuration that ran it."""

import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from experiments.config import plain
from experiments.figures.study_text import Study
from experiments.stages.cohort import inputs_of
from experiments.stages.finetune import settings_of
from experiments.stages.folder import file_digest
from experiments.tracking import Tracking
from lightning_modules.checkpoint import CLASSIFIERS

PACKAGES = (
    "torch", "lightning", "timm", "mlflow", "numpy", "pandas", "scipy", "scikit-learn",
    "statsmodels",
)  # fmt: skip


def describe(
    config: DictConfig, tracking: Tracking, simulated: str, limits: Sequence[str] = ()
) -> Study:
    """The study as its report tells it; `simulated` says what is, for the banner."""
    digests = {
        name.removeprefix("store_digest."): value
        for name, value in tracking.common.items()
        if name.startswith("store_digest.")
    }
    digests |= {path: file_digest(Path(path)) for path in config.predictions}
    versions = {"Python": platform.python_version()}
    versions |= {package: version(package) for package in PACKAGES}
    trained = bool(config.models)
    return Study(
        name=config.study,
        target=config.target,
        rule=rule_of(config),
        protocol=(
            "leave_site_out" if config.protocol == "leave_site_out" else "external_validation"
        )
        if trained
        else "",
        models={name: _model(config, model) for name, model in plain(config.models).items()}
        | _fused(config),
        main=config.fusion.name if config.fusion is not None else "",
        fusion="" if config.fusion is None else _fusion(config),
        splits=plain(config.splits) if trained else {},
        preprocessing={name: _preprocessing(config, name) for name in inputs_of(config)},
        simulated=simulated,
        limits=limits,
        command=tracking.command,
        commit=tracking.common["mlflow.source.git.commit"],
        digests=digests,
        versions=versions,
    )


def rule_of(config: DictConfig) -> str:
    """How the target follows from measurements, in words; empty where none was read."""
    if not config.models:
        return ""
    if config.target == "lvsd":
        rule = f"LVEF below {config.lvsd.lvef_below_percent:g} %"
        return rule + _window(config.lvsd.echo_within_days)
    if config.target == "ph":
        return (
            "the manifest's column ph, or where that is empty PASP of "
            f"{config.ph.pasp_at_least_mmhg:g} mmHg or more, or TR velocity above "
            f"{config.ph.tr_velocity_above_m_s:g} m/s" + _window(config.ph.echo_within_days)
        )
    return f"the manifest's column {config.target}"


def _window(days: float | None) -> str:
    return "" if days is None else f", echocardiogram within {days:g} days of the exam"


def _model(config: DictConfig, model: dict[str, Any]) -> str:
    kind = CLASSIFIERS[model["classifier"]]
    if kind.input == "bnp":
        blood = [config.bnp.marker, *["age"] * config.bnp.age, *["sex"] * config.bnp.sex]
        return (
            f"logistic regression on log {', '.join(blood)}, ridge penalty {config.bnp.penalty:g}"
        )
    network = model["network"]["name"]
    if not model["pretrained"]:
        origin = "from scratch"
    elif kind.input == "ecg":
        origin = "pretrained as a masked autoencoder on the development institutions' ECGs"
    else:
        origin = "from ImageNet weights"
    frozen = ", encoder frozen" if settings_of(config, model).get("frozen_encoder") else ""
    return f"{network}, {origin}{frozen}"


def _fused(config: DictConfig) -> dict[str, str]:
    if config.fusion is None:
        return {}
    names = ", ".join(config.models)
    return {
        config.fusion.name: f"three fully connected layers on the logits of {names}",
        "mean_of_logits": "the mean of the logits that are there",
        "logistic_stacking": "logistic regression on the logits and on which of them are there",
        "best_submodel": "the submodel, of those whose input is there, best in validation",
    }


def _fusion(config: DictConfig) -> str:
    return (
        "The fusion learned from outputs that were cross-fitted by patient in "
        f"{config.fusion.folds} folds: preprocessing, pretraining, weights and epoch of the "
        "submodels that scored a training patient came from other patients."
    )


def _preprocessing(config: DictConfig, name: str) -> str:
    if name == "cxr":
        size = config.cxr.size
        return f"film padded to a square of {size} x {size} pixels, standardised film by film"
    if name == "bnp":
        return (
            f"natural logarithm of {config.bnp.marker}, standardised on development training exams"
        )
    ecg = config.ecg
    bands = {"high_pass_hz": "high-pass", "low_pass_hz": "low-pass"}
    filters = [f"{word} {ecg[key]:g} Hz" for key, word in bands.items() if ecg[key] is not None]
    scale = {
        "development": "each lead divided by its deviation over development training exams",
        "exam": "each exam divided by its own deviation",
        "none": "in millivolts",
    }[ecg.normalisation]
    return (
        f"12 leads x {ecg.seconds} s at {ecg.sampling_rate_hz} Hz; "
        f"{', '.join(filters) or 'no filter'} (zero-phase Butterworth); {scale}"
    )
