"""The protocols: each puts the stages in order and leaves its results on the parent run."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig

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
from experiments.stages.training import schedule
from experiments.tracking import Tracking


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
    tested = [_fold(config, fold, sites, tracking, run) for fold in chosen]
    predictions = pd.concat(tested, ignore_index=True)
    # Development exams come back in every fold, predicted by another model each time.
    predictions = predictions[predictions["split"] == "external"]
    return report(config, predictions, sites, _ceiling(config), tracking, run)


PROTOCOLS = {"external_validation": external_validation, "leave_site_out": leave_site_out}


def check_settings(config: DictConfig) -> None:
    """Build every network and schedule once, without memory, before anything long begins.

    Raises InputError for settings that do not fit together.
    """
    if config.ecg.limits.min_seconds < config.ecg.seconds:
        raise InputError(
            f"ecg.limits.min_seconds={config.ecg.limits.min_seconds}: recordings must be at least "
            f"as long as the network's input, ecg.seconds={config.ecg.seconds}."
        )
    for settings in (config.pretrain, config.finetune):
        schedule(settings)
    try:
        preprocessing = unfitted_preprocessing(config)
        with torch.device("meta"):
            autoencoder(config, preprocessing, torch.eye(len(LEADS), device="cpu"))
            for model in plain(config.models).values():
                classifier(config, model, preprocessing, np.array([0.0, 1.0]))
    except ValueError as error:
        raise InputError(f"The settings do not fit together: {error}.") from None


def _fold(
    config: DictConfig, fold: Fold, sites: Mapping[str, Site], tracking: Tracking, run: str | None
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
        report(config, predictions, sites, _ceiling(config), tracking, of_fold)
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
    """Who takes part, on the parent run: tags, and each institution's table as a dataset."""
    tracking.tags(
        run,
        {
            "development": ", ".join(roles.development),
            "external": ", ".join(roles.external),
            **{f"store_digest.{name}": site.store.digest for name, site in sites.items()},
        },
    )
    for name, site in sites.items():
        context = "development" if name in roles.development else "external"
        tracking.dataset(run, site.exams, name=name, digest=site.digest[:16], context=context)


def _ceiling(config: DictConfig) -> dict[str, float] | None:
    if config.cohort.source != "simulated" or config.target != "lvsd":
        return None
    return ceiling(
        simulated_institutions(config),
        seed=config.cohort.seed,
        lvef_below_percent=config.lvsd.lvef_below_percent,
    )
