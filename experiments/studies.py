"""The protocols: each puts the stages in order and leaves its results on the parent run."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf

from datamodules.errors import InputError
from datamodules.recordings import LEADS
from datamodules.simulation import ceiling
from datamodules.splits import Fold
from datamodules.splits import leave_site_out as folds_of
from experiments.config import plain
from experiments.stages.cohort import (
    Roles,
    Site,
    check_cohort,
    prepare,
    roles_of,
    simulated_institutions,
)
from experiments.stages.evaluate import evaluate
from experiments.stages.finetune import classifier, finetune
from experiments.stages.pretrain import (
    autoencoder,
    fit_preprocessing,
    pretrain,
    unfitted_preprocessing,
)
from experiments.stages.report import report
from experiments.stages.training import schedule, what_matters
from experiments.tracking import Tracking
from lightning_modules.networks.masking import sample_visible


def external_validation(config: DictConfig, tracking: Tracking, run: str | None) -> pd.DataFrame:
    """Train on development institutions, test on their held-out patients and on external ones."""
    sites = prepare(config)
    roles = roles_of(config, list(sites))
    _describe(config, tracking, run, sites, roles)
    development, external = _of(sites, roles.development), _of(sites, roles.external)
    check_cohort(config, development, external)
    predictions = _train_and_test(config, development, external, tracking, run)
    return report(config, predictions, sites, _ceiling(config), tracking, run)


def leave_site_out(config: DictConfig, tracking: Tracking, run: str | None) -> pd.DataFrame:
    """Every institution external once, everything fitted on the others; a child run a fold."""
    sites = prepare(config)
    folds = folds_of(list(sites))
    for name in config.folds or ():
        if name not in sites:
            raise InputError(
                f"folds: there is no institution {name!r}. There are {', '.join(sites)}."
            )
    chosen = [fold for fold in folds if config.folds is None or fold.name in config.folds]
    _describe(config, tracking, run, sites, Roles((), tuple(fold.name for fold in chosen)))
    for fold in chosen:
        check_cohort(config, _of(sites, fold.development), _of(sites, fold.external))
    best = _ceiling(config)
    tested = [_fold(config, fold, sites, best, tracking, run) for fold in chosen]
    predictions = pd.concat(tested, ignore_index=True)
    # Development exams come back in every fold, predicted by another model each time.
    predictions = predictions[predictions["split"] == "external"]
    return report(config, predictions, sites, best, tracking, run)


PROTOCOLS = {"external_validation": external_validation, "leave_site_out": leave_site_out}


# (lowest, highest, keys): outside, a setting would fail late or mean nothing.
RANGES = (
    (
        1,
        math.inf,
        [
            f"{s}.{k}"
            for s in ("pretrain", "finetune")
            for k in ("batch_size", "validate_every_steps")
        ]
        + ["finetune.patience", "trainer.test_batch_size", "ecg.statistics_exams"]
        + ["ecg.patch_samples", "ecg.filter_order", "statistics.resamples"],
    ),
    (0, math.inf, ["seed", "trainer.loading_workers", "pretrain.weight_decay"]),
    (2, math.inf, ["ecg.seconds"]),
    (10, math.inf, ["ecg.sampling_rate_hz", "ecg.limits.min_sampling_rate_hz"]),
    (0.5, 0.999, ["statistics.confidence"]),
    (0, 1, ["pretrain.warmup_fraction", "finetune.warmup_fraction"]),
)


def check_settings(config: DictConfig) -> None:
    """Build every network and schedule once, without memory, before anything long begins.

    Raises InputError for settings that do not fit together.
    """
    for low, high, keys in RANGES:
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
    for settings in (config.pretrain, config.finetune):
        schedule(settings)
    what_matters(config)
    try:
        preprocessing = unfitted_preprocessing(config)
        columns = preprocessing.samples // config.ecg.patch_samples
        sample_visible(1, len(LEADS), columns, config.pretrain.mask_ratio, config.pretrain.masking)
        with torch.device("meta"):
            autoencoder(config, preprocessing, torch.eye(len(LEADS), device="cpu"))
            for model in plain(config.models).values():
                classifier(config, model, preprocessing, np.array([0.0, 1.0]))
    except (ValueError, TypeError, AssertionError, ArithmeticError, IndexError) as error:
        raise InputError(f"The settings do not fit together: {error}.") from None


def _fold(
    config: DictConfig,
    fold: Fold,
    sites: Mapping[str, Site],
    best: Mapping[str, float] | None,
    tracking: Tracking,
    run: str | None,
) -> pd.DataFrame:
    with tracking.run(
        f"fold · held out: {fold.name}",
        parent=run,
        tags={
            "stage": "fold",
            "development": ", ".join(fold.development),
            "external": ", ".join(fold.external),
        },
    ) as of_fold:
        predictions = _train_and_test(
            config, _of(sites, fold.development), _of(sites, fold.external), tracking, of_fold
        )
        report(config, predictions, sites, best, tracking, of_fold)
    return predictions


def _train_and_test(
    config: DictConfig,
    development: Sequence[Site],
    external: Sequence[Site],
    tracking: Tracking,
    run: str | None,
) -> pd.DataFrame:
    preprocessing, lead_covariance = fit_preprocessing(config, development)
    models = plain(config.models)
    pretrained = None
    if any(model["pretrained"] for model in models.values()):
        pretrained = pretrain(config, development, preprocessing, lead_covariance, tracking, run)
    tables = []
    for name, model in models.items():
        checkpoint = finetune(
            config,
            name,
            model,
            development,
            preprocessing,
            pretrained if model["pretrained"] else None,
            tracking,
            run,
        )
        tables.append(evaluate(config, name, checkpoint, development, external))
    return pd.concat(tables, ignore_index=True)


def _of(sites: Mapping[str, Site], names: Sequence[str]) -> list[Site]:
    return [sites[name] for name in names]


def _describe(
    config: DictConfig,
    tracking: Tracking,
    run: str | None,
    sites: Mapping[str, Site],
    roles: Roles,
) -> None:
    """Who takes part: roles and datasets on the parent run, store digests on every run."""
    tracking.common = {
        **tracking.common,
        **{f"store_digest.{name}": site.store.digest for name, site in sites.items()},
    }
    roles_told = {
        "development": ", ".join(roles.development),
        "external": ", ".join(roles.external),
    }
    tracking.tags(run, {**tracking.common, **roles_told})
    for name, site in sites.items():
        context = "development" if name in roles.development else "external"
        tracking.dataset(run, site.exams, name=name, digest=site.digest[:16], context=context)


def _ceiling(config: DictConfig) -> dict[str, float] | None:
    """The best possible AUROC at each institution, where the cohort is simulated."""
    if config.cohort.source != "simulated" or config.target != "lvsd":
        return None
    return ceiling(
        simulated_institutions(config),
        seed=config.cohort.seed,
        lvef_below_percent=config.lvsd.lvef_below_percent,
    )
