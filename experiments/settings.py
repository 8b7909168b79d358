"""What can be known of a launch's settings before anything long begins."""

import math
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from datamodules.errors import InputError
from datamodules.institution import Fitted
from datamodules.recordings import LEADS
from datamodules.transforms import ECGPreprocessing
from experiments.config import plain
from experiments.stages.cohort import inputs_of
from experiments.stages.finetune import classifier
from experiments.stages.preprocess import unfitted_preprocessing
from experiments.stages.pretrain import autoencoder
from experiments.stages.training import AUGMENTATIONS, schedule, what_matters
from lightning_modules.checkpoint import CLASSIFIERS
from lightning_modules.networks.masking import sample_visible

TRAININGS = ("pretrain", "finetune", "cxr_finetune")
# (lowest, highest, keys): outside, a setting would fail late or mean nothing.
RANGES = (
    (
        1,
        math.inf,
        [f"{s}.{k}" for s in TRAININGS for k in ("batch_size", "validate_every_steps")]
        + ["finetune.patience", "cxr_finetune.patience", "trainer.test_batch_size"]
        + ["ecg.statistics_exams", "ecg.patch_samples", "ecg.filter_order"],
    ),
    (20, math.inf, ["statistics.resamples", "statistics.report_resamples"]),
    (0, math.inf, ["seed", "trainer.loading_workers", "bnp.penalty"]),
    (0, math.inf, [f"{training}.weight_decay" for training in TRAININGS]),
    (2, math.inf, ["ecg.seconds"]),
    (10, math.inf, ["ecg.sampling_rate_hz", "ecg.limits.min_sampling_rate_hz"]),
    (32, 4096, ["cxr.size"]),
    (0.5, 0.999, ["statistics.confidence"]),
    (0.01, 1, ["statistics.sensitivity"]),
    (0.01, 0.99, ["statistics.partial_auroc_from"]),
    (0, 1, [f"{training}.warmup_fraction" for training in TRAININGS]),
)
FUSION_RANGES = (
    (2, 100, ["fusion.folds"]),
    (1, math.inf, ["fusion.max_epochs", "fusion.patience", "fusion.batch_size"]),
    (0, 0.95, ["fusion.modality_dropout"]),
    (1e-6, math.inf, ["fusion.base_learning_rate", "fusion.stacking_penalty"]),
    (0, math.inf, ["fusion.weight_decay"]),
    (0, 1, ["fusion.warmup_fraction"]),
)
READER_RANGES = (
    (0.001, 1, ["readers.threshold"]),
    (0.001, 0.5, ["readers.wanted_gain"]),
    (0.05, 0.999, ["readers.wanted_power"]),
    (2, math.inf, ["readers.max_cases"]),
)


def check_settings(config: DictConfig) -> None:
    """Build every network and schedule once, without memory.

    Raises InputError for settings that do not fit together.
    """
    ranges = RANGES + (() if config.fusion is None else FUSION_RANGES)
    for low, high, keys in ranges + (() if config.readers is None else READER_RANGES):
        for key in keys:
            value = OmegaConf.select(config, key)
            if value is None or not low <= value <= high:
                raise InputError(f"{key}={value}: it must lie between {low:g} and {high:g}.")
    shortest = config.ecg.limits.min_seconds
    if shortest is None or shortest < config.ecg.seconds:
        raise InputError(
            f"ecg.limits.min_seconds={shortest}: recordings must be at least as long as the "
            f"network's input, ecg.seconds={config.ecg.seconds}."
        )
    if config.protocol == "leave_site_out" and config.folds is not None and not config.folds:
        raise InputError("folds=[]: name the institutions to hold out, or leave it out for all.")
    _check_statistics(config)
    models = plain(config.models)
    for name, model in models.items():
        _check_model(name, model)
    for settings in (config.pretrain, config.finetune, config.cxr_finetune):
        schedule(settings)
    what_matters(config)
    try:
        _build(config, models)
    except (ValueError, TypeError, AssertionError, ArithmeticError, IndexError) as error:
        raise InputError(f"The settings do not fit together: {error}.") from None


def _check_statistics(config: DictConfig) -> None:
    edges, grid = plain(config.statistics.age_edges), plain(config.statistics.decision_thresholds)
    if not edges or sorted(set(edges)) != edges:
        raise InputError(f"statistics.age_edges={edges}: give ages in rising order, such as [65].")
    if len(grid) != 3 or not (0 < grid[0] < grid[1] < 1 and 0 < grid[2] < 1):
        raise InputError(
            f"statistics.decision_thresholds={grid}: give the lowest, the highest and the step, "
            "all between 0 and 1."
        )
    if config.statistics.subgroups and not config.models:
        raise InputError(
            f"statistics.subgroups={plain(config.statistics.subgroups)}: these are columns of the "
            "manifests, and predictions that are handed in come without. Leave it out."
        )
    taken = {"institution", "exam_id", "patient_id", "split", "target", "age_years", "age", "sex"}
    taken |= {"model", "logit", "probability"}
    for column in config.statistics.subgroups:
        if column in taken:
            raise InputError(f"statistics.subgroups: {column} can't be a further subgroup.")


def _check_model(name: str, model: Mapping[str, Any]) -> None:
    kind = model.get("classifier")
    if kind not in CLASSIFIERS:
        near = get_close_matches(str(kind), CLASSIFIERS, 1)
        raise InputError(
            f"models.{name}.classifier={kind}: it is one of {', '.join(CLASSIFIERS)}."
            + (f" Did you mean {near[0]}?" if near else "")
        )
    if CLASSIFIERS[kind].input == "ecg" and model["pretrained"]:
        network = model["network"]
        if not network["pretrainable"]:
            raise InputError(
                f"models.{name}.pretrained=true: {network['name']} can't be pretrained as a masked "
                "autoencoder. Choose a network=vit_*, or set it to false."
            )


def _build(config: DictConfig, models: Mapping[str, Any]) -> None:
    preprocessing = {input: unfitted_preprocessing(config, input) for input in inputs_of(config)}
    both = np.array([0.0, 1.0])
    if config.fusion is not None and len(config.fusion.widths) != 2:
        raise ValueError(f"fusion.widths={config.fusion.widths} must be two, of three layers")
    for name, model in models.items():
        input = CLASSIFIERS[model["classifier"]].input
        if input == "bnp":
            continue
        settings = config.finetune if input == "ecg" else config.cxr_finetune
        AUGMENTATIONS[input](**plain(settings.augmentation))
        try:
            # ImageNet weights can't be had on no device: where they are asked for, fetch them now.
            with torch.device("cpu" if input == "cxr" and model["pretrained"] else "meta"):
                classifier(config, model, preprocessing[input], both)
        except RuntimeError as error:
            raise InputError(f"models.{name}: {error}.") from None
        if input == "ecg" and model["pretrained"]:
            ecg = preprocessing[input]
            assert isinstance(ecg, ECGPreprocessing)
            columns = ecg.samples // config.ecg.patch_samples
            mask = config.pretrain
            sample_visible(1, len(LEADS), columns, mask.mask_ratio, mask.masking)
            with torch.device("meta"):
                autoencoder(config, Fitted(ecg, {}, torch.eye(len(LEADS), device="cpu")))
