"""The protocols: each puts the stages in order and leaves its results on the parent run."""

from collections.abc import Mapping, Sequence

import pandas as pd
from omegaconf import DictConfig

from datamodules.errors import InputError
from datamodules.simulation import ceiling
from datamodules.splits import Fold
from datamodules.splits import leave_site_out as folds_of
from experiments.config import plain
from experiments.stages.cohort import Roles, Site, prepare, roles_of, simulated_institutions
from experiments.stages.evaluate import evaluate
from experiments.stages.finetune import finetune
from experiments.stages.pretrain import fit_preprocessing, pretrain
from experiments.stages.report import report
from experiments.tracking import Tracking


def external_validation(config: DictConfig, tracking: Tracking, run: str | None) -> pd.DataFrame:
    """Train on development institutions, test on their held-out patients and on external ones."""
    sites = prepare(config)
    roles = roles_of(config, list(sites))
    _describe(config, tracking, run, sites, roles)
    predictions = _train_and_test(
        config, _of(sites, roles.development), _of(sites, roles.external), tracking, run
    )
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
    tested = [_fold(config, fold, sites, tracking, run) for fold in chosen]
    predictions = pd.concat(tested, ignore_index=True)
    # Development exams come back in every fold, predicted by another model each time.
    predictions = predictions[predictions["split"] == "external"]
    return report(config, predictions, sites, _ceiling(config), tracking, run)


PROTOCOLS = {"external_validation": external_validation, "leave_site_out": leave_site_out}


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
