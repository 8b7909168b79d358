"""The protocols: each puts the stages in order and leaves its results on the parent run."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig

from datamodules.errors import InputError
from datamodules.simulation import ceiling, ph_ceiling
from datamodules.splits import Fold
from datamodules.splits import leave_site_out as folds_of
from experiments.config import plain
from experiments.evaluation.predictions import read_several
from experiments.evaluation.reader_study import read_readings
from experiments.stages.cohort import (
    Roles,
    Site,
    check_cohort,
    inputs_of,
    prepare,
    roles_of,
    simulated_institutions,
)
from experiments.stages.evaluate import evaluate
from experiments.stages.fuse import check_fusion, fuse
from experiments.stages.pretrain import Pretrained
from experiments.stages.readers import judge_readers, report_readers, simulate_readers
from experiments.stages.report import Ceilings, Judged, Outcome, Results, judge, report
from experiments.stages.train import train_models
from experiments.tracking import Tracking
from lightning_modules.checkpoint import CLASSIFIERS

SUFFIX = {"ecg": "", "cxr": ".cxr"}


def external_validation(config: DictConfig, tracking: Tracking, run: str | None) -> Outcome:
    """Train on development institutions, test on their held-out patients and on external ones."""
    results, judged = _external_validation(config, tracking, run)
    report(config, judged, tracking, run, pretrained=_by_fold({"": results}))
    return judged.outcome


def _external_validation(
    config: DictConfig, tracking: Tracking, run: str | None
) -> tuple[Results, Judged]:
    sites = prepare(config)
    roles = roles_of(config, list(sites))
    _describe(config, tracking, run, sites, roles)
    development, external = _of(sites, roles.development), _of(sites, roles.external)
    check_cohort(config, development, external)
    if config.fusion is not None:
        check_fusion(config, development, external)
    results = _train_and_test(config, development, external, tracking, run)
    return results, judge(config, results, sites, roles, _ceilings(config), tracking, run)


def leave_site_out(config: DictConfig, tracking: Tracking, run: str | None) -> Outcome:
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
        in_fold = _of(sites, fold.development), _of(sites, fold.external)
        check_cohort(config, *in_fold)
        if config.fusion is not None:
            check_fusion(config, *in_fold)
    best = _ceilings(config)
    results = {fold.name: _fold(config, fold, sites, best, tracking, run) for fold in chosen}
    of_folds = list(results.values())
    # Development exams come back in every fold, predicted by another model each time.
    held_out = {name: sites[name] for name in results}
    judged = judge(config, Results.external_of(of_folds), held_out, None, best, tracking, run)
    report(config, judged, tracking, run, folds=of_folds, pretrained=_by_fold(results))
    return judged.outcome


def compare(config: DictConfig, tracking: Tracking, run: str | None) -> Outcome:
    """Judge predictions tables, whoever made them; nothing is trained.

    Raises InputError where there is nothing to judge, or two models have no exam in common.
    """
    predictions = read_several(config.predictions)
    tested = predictions[predictions["split"] != "val"]
    if tested.empty:
        raise InputError("The predictions hold no exams of split test or external to judge.")
    keys = {
        str(model): set(zip(exams["institution"], exams["split"], exams["exam_id"], strict=True))
        for model, exams in tested.groupby("model", sort=False)
    }
    for (one, of_one), (other, of_other) in combinations(keys.items(), 2):
        if not of_one & of_other:
            raise InputError(
                f"{one} and {other} have no tested exam in common (by institution, split and "
                "exam_id): there is nothing to compare. Predict the same exams with both."
            )
    judged = judge(config, Results(predictions), {}, None, None, tracking, run)
    report(config, judged, tracking, run)
    return judged.outcome


def reader_study(config: DictConfig, tracking: Tracking, run: str | None) -> Outcome:
    """Readers without and with the model: a table of readings, or readers simulated on the study's
    own predictions."""
    if config.readers.table is not None:
        readings = read_readings(Path(config.readers.table))
        of_readers = judge_readers(config, readings, None, tracking, run)
        report_readers(config, of_readers, tracking, run)
        return of_readers.outcome
    results, judged = _external_validation(config, tracking, run)
    with tracking.run(
        "readers (simulated)",
        parent=run,
        tags={"stage": "readers", "model": config.fusion.name},
    ) as child:
        readings, truth = simulate_readers(config, results.predictions)
        of_readers = judge_readers(config, readings, truth, tracking, child)
    simulated = f"{judged.simulated} {of_readers.outcome.caption}".strip()
    report(
        config,
        replace(judged, simulated=simulated),
        tracking,
        run,
        pretrained=_by_fold({"": results}),
        readers=of_readers.blocks,
    )
    return of_readers.outcome


PROTOCOLS = {
    "external_validation": external_validation,
    "leave_site_out": leave_site_out,
    "compare": compare,
    "reader_study": reader_study,
}


def _fold(
    config: DictConfig,
    fold: Fold,
    sites: Mapping[str, Site],
    best: Ceilings | None,
    tracking: Tracking,
    run: str | None,
) -> Results:
    with tracking.run(
        f"fold · held out: {fold.name}",
        parent=run,
        tags={
            "stage": "fold",
            "development": ", ".join(fold.development),
            "external": ", ".join(fold.external),
        },
    ) as of_fold:
        results = _train_and_test(
            config, _of(sites, fold.development), _of(sites, fold.external), tracking, of_fold
        )
        roles = Roles(fold.development, fold.external)
        judge(config, results, sites, roles, best, tracking, of_fold)
    return results


def _train_and_test(
    config: DictConfig,
    development: Sequence[Site],
    external: Sequence[Site],
    tracking: Tracking,
    run: str | None,
) -> Results:
    trained = train_models(config, plain(config.models), development, tracking, run)
    tested = [
        evaluate(config, name, of.checkpoint, development, external) for name, of in trained.items()
    ]
    predictions = pd.concat(tested, ignore_index=True)
    pretrained = next((of.pretrained for of in trained.values() if of.pretrained), None)
    if config.fusion is None:
        return Results(predictions, pretrained=pretrained)
    fused, subsets = fuse(config, trained, predictions, development, tracking, run)
    return Results(pd.concat([predictions, fused], ignore_index=True), subsets, pretrained)


def _by_fold(results: Mapping[str, Results]) -> dict[str, Pretrained]:
    """What was pretrained, by the institution held out."""
    return {name: of.pretrained for name, of in results.items() if of.pretrained is not None}


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
    digests = {
        f"store_digest.{name}{SUFFIX[input]}": store.digest
        for name, site in sites.items()
        for input, store in site.stores.items()
    }
    tracking.common = {**tracking.common, **digests}
    roles_told = {
        "development": ", ".join(roles.development),
        "external": ", ".join(roles.external),
    }
    tracking.tags(run, {**tracking.common, **roles_told})
    for name, site in sites.items():
        context = "development" if name in roles.development else "external"
        tracking.dataset(run, site.exams, name=name, digest=site.digest[:16], context=context)


def _ceilings(config: DictConfig) -> Ceilings | None:
    """The best possible AUROC of each model at each institution, where the cohort is simulated."""
    if config.cohort.source != "simulated" or config.target not in ("lvsd", "ph"):
        return None
    institutions, seed = simulated_institutions(config), config.cohort.seed
    if config.target == "lvsd":
        if inputs_of(config) != ("ecg",):
            return None
        threshold = config.lvsd.lvef_below_percent
        best = ceiling(institutions, seed=seed, lvef_below_percent=threshold)
        return dict.fromkeys(config.models, best)
    sees = {name: {CLASSIFIERS[of.classifier].input} for name, of in config.models.items()}
    if config.fusion is not None:
        sees[config.fusion.name] = set(inputs_of(config))
    return {
        name: ph_ceiling(institutions, seed=seed, ph=plain(config.ph), modalities=modalities)
        for name, modalities in sees.items()
    }
