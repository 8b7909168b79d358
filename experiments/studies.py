"""The protocols: each puts the stages in order and leaves its results on the parent run."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pandas as pd

from datamodules.errors import InputError
from datamodules.simulation import MODALITIES, ceiling, ph_ceiling
from datamodules.splits import Fold
from datamodules.splits import leave_site_out as folds_of
from experiments.config import plain
from experiments.evaluation.estimates import read_several
from experiments.evaluation.predictions import LABEL, VAL
from experiments.evaluation.reader_study import read_readings
from experiments.plan import Plan
from experiments.schema import Config
from experiments.stages.cohort import (
    Roles,
    check_cohort,
    prepare,
    roles_of,
    simulated_institutions,
)
from experiments.stages.describe import describe
from experiments.stages.evaluate import evaluate
from experiments.stages.exams import Site
from experiments.stages.findings import Asked, Ceilings
from experiments.stages.fuse import check_fusion, fuse
from experiments.stages.labels import with_few_labels
from experiments.stages.pretrain import Pretrained
from experiments.stages.readers import judge_readers, report_readers, simulate_readers
from experiments.stages.regression import least_errors
from experiments.stages.report import Judged, Outcome, Results, judge, report
from experiments.stages.stage import Lab
from experiments.tracking import Tracking


def external_validation(config: Config, plan: Plan, lab: Lab, run: str | None) -> Outcome:
    """Train on development institutions, test on their held-out patients and on external ones."""
    results, judged = _external_validation(config, plan, lab, run)
    known = describe(config, plan, lab.tracking)
    pretrained = _by_fold({"": results})
    report(Asked.by(config), known, judged, lab.tracking, run, pretrained=pretrained)
    return judged.outcome


def _external_validation(
    config: Config, plan: Plan, lab: Lab, run: str | None
) -> tuple[Results, Judged]:
    sites = lab.processes.decided(lambda: prepare(config, plan.question))
    roles = roles_of(config, list(sites))
    _describe(plan, lab, run, sites, roles)
    development = _development(config, plan, sites, roles.development)
    external = _of(sites, roles.external)
    _check(config, plan, development, external)
    results = _train_and_test(plan, development, external, lab, run)
    sites = sites | {site.name: site for site in development}
    judged = judge(
        Asked.by(config), results, sites, roles, _ceilings(config, plan), lab.tracking, run
    )
    return results, judged


def leave_site_out(config: Config, plan: Plan, lab: Lab, run: str | None) -> Outcome:
    """Every institution external once, everything fitted on the others; a child run a fold."""
    sites = lab.processes.decided(lambda: prepare(config, plan.question))
    folds = folds_of(list(sites))
    for name in config.folds or ():
        if name not in sites:
            raise InputError(
                f"folds: there is no institution {name!r}. There are {', '.join(sites)}."
            )
    chosen = [fold for fold in folds if config.folds is None or fold.name in config.folds]
    _describe(plan, lab, run, sites, Roles((), tuple(fold.name for fold in chosen)))
    for fold in chosen:
        development = _development(config, plan, sites, fold.development)
        _check(config, plan, development, _of(sites, fold.external))
    best = _ceilings(config, plan)
    results = {fold.name: _fold(config, plan, fold, sites, best, lab, run) for fold in chosen}
    of_folds = list(results.values())
    # Development exams come back in every fold, predicted by another model each time.
    held_out = {name: sites[name] for name in results}
    together = Results.external_of(of_folds)
    asked, known = Asked.by(config), describe(config, plan, lab.tracking)
    judged = judge(asked, together, held_out, None, best, lab.tracking, run)
    pretrained = _by_fold(results)
    report(asked, known, judged, lab.tracking, run, folds=of_folds, pretrained=pretrained)
    return judged.outcome


def compare(config: Config, tracking: Tracking, run: str | None) -> Outcome:
    """Judge predictions tables, whoever made them; nothing is trained.

    Raises InputError where there is nothing to judge, or two models have no exam in common.
    """
    predictions = read_several(config.predictions)
    tested = predictions[predictions["split"] != VAL]
    if tested.empty:
        raise InputError("The predictions hold no exams of split test or external to judge.")
    exam = ["label", "institution", "split", "exam_id"]
    keys = {
        str(model): set(exams[exam].itertuples(index=False, name=None))
        for model, exams in tested.groupby("model", sort=False)
    }
    for (one, of_one), (other, of_other) in combinations(keys.items(), 2):
        if not of_one & of_other:
            raise InputError(
                f"{one} and {other} have no tested exam in common (by label, institution, "
                "split and exam_id): there is nothing to compare. Predict the same exams with both."
            )
    asked = Asked.by(config)
    labels = tuple(map(str, predictions["label"].unique()))
    if labels == (LABEL,) and len(asked.labels) == 1:  # the files don't say what they are of
        predictions = predictions.assign(label=asked.labels[0])
    else:
        asked = replace(asked, labels=labels)
    judged = judge(asked, Results(predictions), {}, None, None, tracking, run)
    report(asked, describe(config, None, tracking), judged, tracking, run)
    return judged.outcome


def readings(config: Config, tracking: Tracking, run: str | None) -> Outcome:
    """Readers without and with the model: a table of their readings; nothing is trained."""
    assert config.readers is not None
    assert config.readers.table is not None
    table, asked = Path(config.readers.table), Asked.by(config)
    of_readers = judge_readers(config.readers, asked, read_readings(table), None, tracking, run)
    known = describe(config, None, tracking)
    report_readers(config.readers, table, known, of_readers, tracking, run)
    return of_readers.outcome


def reader_study(config: Config, plan: Plan, lab: Lab, run: str | None) -> Outcome:
    """Readers simulated on the study's own predictions, without and with the model."""
    if len(config.target) > 1 or not plan.question.task.classed:
        raise InputError(
            "experiment=reader_study simulates readers of one yes or no: give one target, and "
            "task=binary."
        )
    results, judged = _external_validation(config, plan, lab, run)
    assert config.readers is not None
    assert config.fusion is not None
    asked, of_model = Asked.by(config), results.predictions["model"] == config.fusion.name
    with lab.tracking.run(
        "readers (simulated)",
        parent=run,
        tags={"stage": "readers", "model": config.fusion.name},
    ) as child:
        simulated, truth = simulate_readers(
            config.readers.simulated, results.predictions[of_model], config.seed
        )
        of_readers = judge_readers(config.readers, asked, simulated, truth, lab.tracking, child)
    report(
        asked,
        describe(config, plan, lab.tracking),
        replace(judged, simulated=f"{judged.simulated} {of_readers.outcome.caption}".strip()),
        lab.tracking,
        run,
        pretrained=_by_fold({"": results}),
        readers=of_readers.blocks,
    )
    return of_readers.outcome


# Those that train, and those that judge what is handed in.
TRAINING = {
    "external_validation": external_validation,
    "leave_site_out": leave_site_out,
    "reader_study": reader_study,
}
JUDGING = {"compare": compare, "reader_study": readings}


def _check(
    config: Config, plan: Plan, development: Sequence[Site], external: Sequence[Site]
) -> None:
    check_cohort(config, plan.question, development, external)
    if plan.fusion is not None:
        folds = plan.fusion["folds"]
        check_fusion(folds, config.seed, plan.question.task, development, external)


def _fold(
    config: Config,
    plan: Plan,
    fold: Fold,
    sites: Mapping[str, Site],
    best: Ceilings | None,
    lab: Lab,
    run: str | None,
) -> Results:
    with lab.tracking.run(
        f"fold · held out: {fold.name}",
        parent=run,
        tags={
            "stage": "fold",
            "development": ", ".join(fold.development),
            "external": ", ".join(fold.external),
        },
    ) as of_fold:
        development = _development(config, plan, sites, fold.development)
        results = _train_and_test(plan, development, _of(sites, fold.external), lab, of_fold)
        roles = Roles(fold.development, fold.external)
        judge(Asked.by(config), results, sites, roles, best, lab.tracking, of_fold)
    return results


def _train_and_test(
    plan: Plan,
    development: Sequence[Site],
    external: Sequence[Site],
    lab: Lab,
    run: str | None,
) -> Results:
    trained, labels = plan.models.train(development, lab, run), plan.models.task.labels
    tested = [
        evaluate(name, of.checkpoint, of.key, of.reads, development, external, labels, lab)
        for name, of in trained.items()
    ]
    predictions = pd.concat(tested, ignore_index=True)
    pretrained = next((of.pretrained for of in trained.values() if of.pretrained), None)
    subsets, truth = None, plan.models.task.truth
    if plan.fusion is not None:
        fused, subsets = fuse(
            plan.fusion["name"],
            plan.fusion,
            plan.models,
            trained,
            predictions,
            development,
            lab,
            run,
        )
        predictions = pd.concat([predictions, fused], ignore_index=True)
        subsets = subsets.dropna(subset=truth)
    return Results(predictions.dropna(subset=truth), subsets, pretrained)


def _by_fold(results: Mapping[str, Results]) -> dict[str, Pretrained]:
    """What was pretrained, by the institution held out."""
    return {name: of.pretrained for name, of in results.items() if of.pretrained is not None}


def _of(sites: Mapping[str, Site], names: Sequence[str]) -> list[Site]:
    return [sites[name] for name in names]


def _development(
    config: Config, plan: Plan, sites: Mapping[str, Site], names: Sequence[str]
) -> list[Site]:
    return with_few_labels(_of(sites, names), plan.question.task, config.labels, config.seed)


def _describe(
    plan: Plan, lab: Lab, run: str | None, sites: Mapping[str, Site], roles: Roles
) -> None:
    """Who takes part: roles and datasets on the parent run, store digests on every run."""
    contents = {name: input.contents for name, input in plan.question.inputs.items()}
    tracking = lab.tracking
    digests = {
        f"store_digest.{name}{of.suffix.replace('-', '.') if (of := contents[input]) else ''}": (
            store.digest
        )
        for name, site in sites.items()
        for input, store in site.stores.items()
    }
    tracking.common = {**tracking.common, **digests}
    roles_told = {
        "development": ", ".join(roles.development),
        "external": ", ".join(roles.external),
    }
    excerpts = {f"excerpt.{name}": site.excerpt for name, site in sites.items() if site.excerpt}
    tracking.tags(run, {**tracking.common, **roles_told, **excerpts})
    for name, site in sites.items():
        context = "development" if name in roles.development else "external"
        tracking.dataset(run, site.exams, name=name, digest=site.digest[:16], context=context)


def _ceilings(config: Config, plan: Plan) -> Ceilings | None:
    """The best possible AUROCs and errors, where the cohort is simulated."""
    if config.cohort.source != "simulated":
        return None
    institutions, seed = simulated_institutions(config), config.cohort.seed
    sees = {name: {model.reads} for name, model in plan.models.models.items()}
    if plan.fusion is not None:
        sees[plan.fusion["name"]] = set(plan.reads)
    if not plan.question.task.classed:
        of_ecgs = [name for name, inputs in sees.items() if inputs == {"ecg"}]
        least: Ceilings = {}
        for label in config.target:
            cuts = config.statistics.truth_thresholds.get(label, ())
            least = {**least, **least_errors(label, of_ecgs, institutions, cuts, seed)}
        return least or None
    best: dict[str, dict[str, Mapping[str, float]]] = {}
    if "lvsd" in config.target:
        threshold = config.lvsd.lvef_below_percent
        of_ecg = ceiling(institutions, seed=seed, lvef_below_percent=threshold)
        best["lvsd"] = {name: of_ecg for name, inputs in sees.items() if inputs == {"ecg"}}
    if "ph" in config.target:
        best["ph"] = {
            name: ph_ceiling(institutions, seed=seed, ph=plain(config.ph), modalities=modalities)
            for name, modalities in sees.items()
            if modalities <= set(MODALITIES)
        }
    return {label: of for label, of in best.items() if of} or None
