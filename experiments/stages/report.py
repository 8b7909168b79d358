"""What a reviewer finds on the parent run: predictions, tables and figures."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig

from experiments.console import say
from experiments.evaluation.auroc import NOT_ESTIMABLE
from experiments.evaluation.comparison import (
    common_exams,
    comparable,
    compare,
    comparison_table,
    comparisons_json,
)
from experiments.evaluation.predictions import POOLED, check_predictions
from experiments.evaluation.summary import (
    markdown_table,
    results_table,
    summarise,
    summary_json,
)
from experiments.figures.html import Block
from experiments.figures.study import Cohort, Pretraining, Settings, Subsets, build
from experiments.stages.cohort import Roles, Site
from experiments.stages.describe import describe
from experiments.stages.fuse import SUBSET
from experiments.stages.pretrain import Pretrained
from experiments.tracking import Tracking

SIMULATED = "Simulated data: the order of models here says nothing about hospitals."
CEILING = (
    "The ceiling is the AUROC of an ideal observer of what the simulated inputs were made from."
)

METRICS = {"auroc": "auroc", "auroc_low": "auroc_low", "auroc_high": "auroc_high", "n": "exams"}

# Model -> institution -> the best possible AUROC, known in a simulation.
Ceilings = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Outcome:
    """What a launch tells on the terminal when it is done."""

    title: str
    table: pd.DataFrame
    caption: str = ""


@dataclass(frozen=True)
class Results:
    """What a study's models said: `predictions`, and where they are fused `subsets`, the fusion's
    with each subset of its inputs as a model, on exams that have all of them. `pretrained` is what
    models started from, if any did.
    """

    predictions: pd.DataFrame
    subsets: pd.DataFrame | None = None
    pretrained: Pretrained | None = None

    @staticmethod
    def external_of(several: Sequence["Results"]) -> "Results":
        """The external exams of several folds, as one test set."""

        def joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
            table = pd.concat(tables, ignore_index=True)
            return table[table["split"] == "external"]

        subsets = [results.subsets for results in several if results.subsets is not None]
        return Results(
            joined([results.predictions for results in several]),
            joined(subsets) if subsets else None,
        )


@dataclass(frozen=True)
class Judged:
    """What `judge` computed, for the terminal and for `report`; see `build`. `simulated` says what
    is, for the banner.
    """

    outcome: Outcome
    simulated: str
    tested: pd.DataFrame
    summary: pd.DataFrame
    own_summary: pd.DataFrame | None
    comparisons: pd.DataFrame
    subsets: Subsets | None
    cohort: Cohort | None
    ceilings: Ceilings | None


def judge(
    config: DictConfig,
    results: Results,
    sites: Mapping[str, Site],
    roles: Roles | None,
    ceilings: Ceilings | None,
    tracking: Tracking,
    run: str | None,
) -> Judged:
    """Leave predictions, summary, comparisons, metrics and the note that MLflow shows on `run`.

    Where models have different exams (fused ones, of which each has its own input), the table is of
    those that all have, one test set for all; each model on all its exams stands beside it, and in
    summary.json. `roles` say who was trained on.
    """
    predictions = results.predictions
    check_predictions(predictions, "this launch's predictions")
    statistics = config.statistics
    settings: dict[str, Any] = {
        "confidence": statistics.confidence,
        "resamples": statistics.resamples,
        "seed": config.seed,
    }
    tracking.table(run, predictions, "predictions.parquet")
    summary = summarise(predictions, **settings)
    tracking.text(run, json.dumps(summary_json(summary), indent=2), "summary.json")
    heading = f"AUROC for {config.target} ({statistics.confidence:.0%} interval)"
    simulated = _what_is_simulated(config, ceilings)
    fused = results.subsets is not None and not results.subsets.empty
    tested = _tested(results, whole=False) if fused else comparable(predictions)
    shown, table, tables = summary, results_table(summary, ceilings), {}
    own_summary = subsets = None
    if fused or len(tested) < len(predictions):
        own_summary, shown = summary, summarise(tested, **settings)
        own = results_table(summary, None)
        table = _with_every_institution(results_table(shown, ceilings), own)
        tables = {f"{heading}, each model on all its exams": own}
        tracking.text(run, json.dumps(summary_json(shown), indent=2), "common/summary.json")
        tracking.table(run, own, "results_own_exams.csv")
        heading += ", exams that all models have"
    if results.subsets is not None and fused:
        subsets = _subsets(results.subsets, settings, tracking, run)
        of_subsets = f"{config.fusion.name} with each subset of its inputs, exams with all of them"
        tables[of_subsets] = results_table(subsets.summary, None)
    tables = {heading: table, **tables}
    tracking.table(run, table, "results.csv")
    comparisons = compare(tested if fused else predictions, **settings)
    tracking.text(run, json.dumps(comparisons_json(comparisons), indent=2), "comparisons.json")
    tracking.table(run, comparison_table(comparisons), "comparisons.csv")
    _log_metrics(summary, ceilings, tracking, run)
    tracking.tags(run, {"mlflow.note.content": _note(config, tables, simulated)})
    shown_table = table if config.fusion is None else _narrow(config, table)
    return Judged(
        Outcome(heading, shown_table, simulated),
        simulated,
        tested,
        shown,
        own_summary,
        comparisons,
        subsets,
        _cohort(sites, roles, tracking, run) if sites else None,
        ceilings,
    )


def report(
    config: DictConfig,
    judged: Judged,
    tracking: Tracking,
    run: str | None,
    *,
    folds: Sequence[Results] = (),
    pretrained: Mapping[str, Pretrained] | None = None,
    readers: Sequence[Block] = (),
) -> None:
    """Leave report.html on `run`, beside it its tables (`tables/`) and figures (`figures/`).

    `folds` are those of a leave-site-out study; `pretrained` what its models started from, by the
    institution held out ("" where there is one set of models); `readers` the section on a reader
    study.
    """
    if run is None:
        return
    say("report: figures and tables")
    pretrained = pretrained or {}
    plateaus = [of.plateau_text(held_out) for held_out, of in pretrained.items() if of.plateau]
    evidence = build(
        judged.tested,
        summary=judged.summary,
        comparisons=judged.comparisons,
        study=describe(config, tracking, judged.simulated, plateaus),
        settings=_settings(config),
        cohort=judged.cohort,
        ceilings=judged.ceilings,
        own_summary=judged.own_summary,
        subsets=judged.subsets,
        folds=[_tested(of_fold, whole=judged.subsets is None) for of_fold in folds],
        pretraining=_pretraining(config, pretrained),
        readers=readers,
    )
    tracking.text(run, evidence.html, "report.html")
    for name, text in evidence.tables.items():
        tracking.text(run, text, f"tables/{name}")
    for name, figure in evidence.figures.items():
        tracking.figure(run, figure, f"figures/{name}.png")


def _log_metrics(
    summary: pd.DataFrame, ceilings: Ceilings | None, tracking: Tracking, run: str | None
) -> None:
    """Every AUROC on `run`, and on a child run a model."""
    for model, rows in summary.groupby("model", sort=False):
        aurocs = dict(zip(rows["institution"], rows["auroc"], strict=True))
        tracking.metrics(run, {f"test/auroc/{name}/{model}": v for name, v in aurocs.items()})
        with tracking.run(
            f"test {model}", parent=run, tags={"stage": "test", "model": str(model)}
        ) as of:
            for column, metric in METRICS.items():
                values = zip(rows["institution"], rows[column], strict=True)
                tracking.metrics(of, {f"test/{metric}/{name}": value for name, value in values})
    for model, of_model in (ceilings or {}).items():
        tracking.metrics(run, {f"ceiling/auroc/{k}/{model}": v for k, v in of_model.items()})


def _pretraining(config: DictConfig, pretrained: Mapping[str, Pretrained]) -> Pretraining | None:
    """What the pretrainings learned, and an exam that the first of them reconstructed."""
    if not pretrained:
        return None
    rows = [
        {
            "held out": held_out,
            "ECGs": of.ecgs,
            "explained_variance": of.explained_variance,
            "least_squares": of.least_squares,
        }
        for held_out, of in pretrained.items()
    ]
    first, of = next(iter(pretrained.items()))
    title = f"{config.network.name} · a validation exam"
    figure = of.figure(f"{title} · held out: {first}" if first else title)
    return Pretraining(pd.DataFrame(rows), figure)


def _tested(results: Results, *, whole: bool) -> pd.DataFrame:
    """All predictions, or those on exams that every model has."""
    table = results.predictions
    return table if whole else common_exams(table, table["model"].unique().tolist())


def _what_is_simulated(config: DictConfig, ceilings: Ceilings | None) -> str:
    if not config.models or config.cohort.source != "simulated":
        return ""
    return SIMULATED if ceilings is None else f"{SIMULATED} {CEILING}"


def _settings(config: DictConfig) -> Settings:
    statistics = config.statistics
    low, high, step = statistics.decision_thresholds
    return Settings(
        confidence=statistics.confidence,
        resamples=statistics.report_resamples,
        auroc_resamples=statistics.resamples,
        seed=config.seed,
        sensitivity=statistics.sensitivity,
        partial_auroc_from=statistics.partial_auroc_from,
        age_edges=tuple(statistics.age_edges),
        decision_thresholds=np.arange(low, high + step / 2, step).tolist(),
        subgroups=tuple(statistics.subgroups),
    )


def _cohort(
    sites: Mapping[str, Site], roles: Roles | None, tracking: Tracking, run: str | None
) -> Cohort:
    """Who the exams were; the flow and what was left out go to `run` too."""
    flow = pd.DataFrame([{"institution": name, **site.flow} for name, site in sites.items()])
    left_out = pd.concat([site.left_out for site in sites.values()], ignore_index=True)
    tracking.table(run, flow, "cohort/flow.csv")
    tracking.table(run, left_out, "cohort/left_out.csv")
    tables = []
    for name, site in sites.items():
        if roles is not None and name in roles.development:
            tables.append(site.exams.assign(role="development"))
        else:
            tables.append(site.exams.assign(role="external", split="external"))
    return Cohort(pd.concat(tables, ignore_index=True), flow, left_out)


def _subsets(
    predictions: pd.DataFrame, settings: Mapping[str, Any], tracking: Tracking, run: str | None
) -> Subsets:
    """The fusion with each subset of its inputs: predictions, summary and table on `run`."""
    check_predictions(predictions, "this launch's predictions with subsets of the inputs")
    summary = summarise(predictions, **settings)
    tracking.table(run, predictions, "subsets/predictions.parquet")
    tracking.text(run, json.dumps(summary_json(summary), indent=2), "subsets/summary.json")
    tracking.table(run, results_table(summary, None), "subsets/results.csv")
    names = predictions["model"].unique()
    return Subsets(summary, {name: tuple(name.split(SUBSET)) for name in names})


def _with_every_institution(table: pd.DataFrame, own: pd.DataFrame) -> pd.DataFrame:
    """Institutions without an exam that has every input are in the table too, and say so."""
    missing = own[~own["institution"].isin(table["institution"])].assign(exams=0, prevalence="")
    missing = missing.reindex(columns=table.columns, fill_value="")
    models = [name for name in own.columns[4:] if name in table]
    missing[models] = NOT_ESTIMABLE
    everything = pd.concat([table, missing], ignore_index=True)
    order = {institution: place for place, institution in enumerate(own["institution"])}
    return everything.sort_values("institution", key=lambda names: names.map(order))


def _narrow(config: DictConfig, table: pd.DataFrame) -> pd.DataFrame:
    """The fusion beside its submodels, and its ceiling: what fits a terminal."""
    ours = [*config.models, config.fusion.name]
    columns = ["institution", "role", "exams", "prevalence", *ours, f"ceiling ({ours[-1]})"]
    return table[[column for column in columns if column in table]]


def _note(config: DictConfig, tables: Mapping[str, pd.DataFrame], simulated: str) -> str:
    """The text that the MLflow UI shows first on a run."""
    note = "".join(
        f"### {heading}\n\n{markdown_table(table)}\n\n" for heading, table in tables.items()
    )
    if config.protocol == "leave_site_out":
        note += f"*{POOLED}* puts together exams that were scored by another model in each fold.\n"
    if simulated:
        note += f"\n{simulated}\n"
    return note + (
        "\nRole *development*: internal test, patients held out. Every pair of models is compared "
        "in comparisons.csv, on the exams that both have. Files: the Artifacts tab.\n"
    )
