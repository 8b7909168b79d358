"""What a reviewer finds on the parent run: predictions, tables and figures."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from experiments.console import say
from experiments.evaluation.analysis import Aurocs, Settings, analyse, aurocs
from experiments.evaluation.auroc import NOT_ESTIMABLE
from experiments.evaluation.comparison import common_exams, comparison_table, comparisons_json
from experiments.evaluation.predictions import (
    ALL_EXTERNAL,
    DEVELOPMENT,
    EXTERNAL,
    check_predictions,
)
from experiments.evaluation.summary import (
    markdown_table,
    results_table,
    summarise,
    summary_json,
)
from experiments.figures.html import Block
from experiments.figures.report import build
from experiments.figures.study import LEAVE_SITE_OUT, Cohort, Pretraining, Study, Subsets
from experiments.schema import Config
from experiments.stages.cohort import Roles
from experiments.stages.exams import Site
from experiments.stages.fuse import SUBSET
from experiments.stages.pretrain import Pretrained
from experiments.tracking import Tracking

SIMULATED = "Simulated data: the order of models here says nothing about hospitals."
CEILING = (
    "The ceiling is the AUROC of an ideal observer of what the simulated inputs were made from."
)

METRICS = {"auroc": "auroc", "auroc_low": "auroc_low", "auroc_high": "auroc_high", "n": "exams"}


@dataclass(frozen=True)
class Asked:
    """What predictions are judged for: the target, and the statistics' settings.

    models, fusion: the study's own, if it trained some, and how they are put together, if they are.
    by_fold: whether exams were scored by another model in each fold. simulated: whether the cohort
    is.
    """

    target: str
    settings: Settings
    models: tuple[str, ...] = ()
    fusion: str = ""
    by_fold: bool = False
    simulated: bool = False

    @staticmethod
    def by(config: Config) -> "Asked":
        """By a launch's configuration."""
        statistics = config.statistics
        low, high, step = statistics.decision_thresholds
        return Asked(
            config.target,
            Settings(
                confidence=statistics.confidence,
                resamples=statistics.report_resamples,
                auroc_resamples=statistics.resamples,
                seed=config.seed,
                sensitivity=statistics.sensitivity,
                partial_auroc_from=statistics.partial_auroc_from,
                age_edges=tuple(statistics.age_edges),
                decision_thresholds=np.arange(low, high + step / 2, step).tolist(),
                subgroups=tuple(statistics.subgroups),
            ),
            tuple(config.models),
            "" if config.fusion is None else config.fusion.name,
            config.protocol == LEAVE_SITE_OUT,
            bool(config.models) and config.cohort.source == "simulated",
        )


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
            return table[table["split"] == EXTERNAL]

        subsets = [results.subsets for results in several if results.subsets is not None]
        return Results(
            joined([results.predictions for results in several]),
            joined(subsets) if subsets else None,
        )


@dataclass(frozen=True)
class Judged:
    """What `judge` found, for the terminal and for `report`. `simulated` says what is, for the
    banner.
    """

    outcome: Outcome
    simulated: str
    aurocs: Aurocs
    subsets: Subsets | None
    cohort: Cohort | None
    ceilings: Ceilings | None


def judge(
    asked: Asked,
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
    predictions = check_predictions(
        results.predictions, "this launch's predictions", label=asked.target
    )
    settings = asked.settings
    confidence = settings.confidence
    tracking.table(run, predictions, "predictions.parquet")
    heading = f"AUROC for {asked.target} ({confidence:.0%} interval)"
    simulated = _what_is_simulated(asked, ceilings)
    subsets = _subsets(asked, results.subsets, tracking, run)
    found = aurocs(predictions, settings, common=subsets is not None)
    table, tables = results_table(found.summary, ceilings), {}
    if found.own_summary is not None:
        own = results_table(found.own_summary, None)
        table = _with_every_institution(table, own)
        tables = {f"{heading}, each model on all its exams": own}
        tracking.text(run, json.dumps(summary_json(found.summary), indent=2), "common/summary.json")
        tracking.table(run, own, "results_own_exams.csv")
        heading += ", exams that all models have"
    if subsets is not None:
        of_subsets = f"{asked.fusion} with each subset of its inputs, exams with all of them"
        tables[of_subsets] = results_table(subsets.summary, None)
    tables = {heading: table, **tables}
    summary = found.summary if found.own_summary is None else found.own_summary
    tracking.text(run, json.dumps(summary_json(summary), indent=2), "summary.json")
    tracking.table(run, table, "results.csv")
    comparisons = found.comparisons
    tracking.text(run, json.dumps(comparisons_json(comparisons), indent=2), "comparisons.json")
    tracking.table(run, comparison_table(comparisons), "comparisons.csv")
    _log_metrics(summary, ceilings, tracking, run)
    tracking.tags(run, {"mlflow.note.content": _note(asked, tables, simulated)})
    shown_table = _narrow(asked, table) if asked.fusion else table
    return Judged(
        Outcome(heading, shown_table, simulated),
        simulated,
        found,
        subsets,
        _cohort(sites, roles, tracking, run) if sites else None,
        ceilings,
    )


def report(
    asked: Asked,
    known: Study,
    judged: Judged,
    tracking: Tracking,
    run: str | None,
    *,
    folds: Sequence[Results] = (),
    pretrained: Mapping[str, Pretrained] | None = None,
    readers: Sequence[Block] = (),
) -> None:
    """Leave report.html on `run`, beside it its tables (`tables/`) and figures (`figures/`).

    `known` is what the configuration tells of the study. `folds` are those of a leave-site-out
    study; `pretrained` what its models started from, by the institution held out ("" where there is
    one set of models); `readers` the section on a reader study.
    """
    if run is None:
        return
    say("report: figures and tables")
    pretrained = pretrained or {}
    failed = [of.limit(held_out) for held_out, of in pretrained.items() if of.verdict.failed]
    tables = [of_fold.predictions for of_fold in folds]
    if judged.subsets is not None:
        tables = [common_exams(table, table["model"].unique().tolist()) for table in tables]
    exams = None if judged.cohort is None else judged.cohort.exams
    study = replace(
        known,
        simulated=judged.simulated,
        limits=failed,
        cohort=judged.cohort,
        ceilings=judged.ceilings,
        subsets=judged.subsets,
        pretraining=_pretraining(pretrained),
        readers=readers,
    )
    evidence = build(analyse(judged.aurocs, asked.settings, exams=exams, folds=tables), study)
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


def _pretraining(pretrained: Mapping[str, Pretrained]) -> Pretraining | None:
    """What the pretrainings learned, and an exam that the first of them was shown."""
    if not pretrained:
        return None
    rows = [
        {
            "held out": held_out,
            "exams": of.exams,
            **{column: of.metrics[name] for name, (column, _) in of.kind.numbers.items()},
        }
        for held_out, of in pretrained.items()
    ]
    first, of = next(iter(pretrained.items()))
    title = f"{of.network} · a validation exam"
    return Pretraining(
        pd.DataFrame(rows),
        dict(of.kind.numbers.values()),
        of.kind.summary([each.metrics for each in pretrained.values()]),
        of.figure(f"{title} · held out: {first}" if first else title),
        of.kind.example_caption,
    )


def _what_is_simulated(asked: Asked, ceilings: Ceilings | None) -> str:
    if not asked.simulated:
        return ""
    return SIMULATED if ceilings is None else f"{SIMULATED} {CEILING}"


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
            tables.append(site.exams.assign(role=DEVELOPMENT))
        else:
            tables.append(site.exams.assign(role=EXTERNAL, split=EXTERNAL))
    return Cohort(pd.concat(tables, ignore_index=True), flow, left_out)


def _subsets(
    asked: Asked,
    predictions: pd.DataFrame | None,
    tracking: Tracking,
    run: str | None,
) -> Subsets | None:
    """The fusion with each subset of its inputs, if any: predictions and tables on `run`."""
    if predictions is None or predictions.empty:
        return None
    source = "this launch's predictions with subsets of the inputs"
    checked = check_predictions(predictions, source, label=asked.target)
    summary = summarise(checked, **asked.settings.of_aurocs)
    tracking.table(run, checked, "subsets/predictions.parquet")
    tracking.text(run, json.dumps(summary_json(summary), indent=2), "subsets/summary.json")
    tracking.table(run, results_table(summary, None), "subsets/results.csv")
    names = checked["model"].unique()
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


def _narrow(asked: Asked, table: pd.DataFrame) -> pd.DataFrame:
    """The fusion beside its submodels, and its ceiling: what fits a terminal."""
    ours = [*asked.models, asked.fusion]
    columns = ["institution", "role", "exams", "prevalence", *ours, f"ceiling ({ours[-1]})"]
    return table[[column for column in columns if column in table]]


def _note(asked: Asked, tables: Mapping[str, pd.DataFrame], simulated: str) -> str:
    """The text that the MLflow UI shows first on a run."""
    note = "".join(
        f"### {heading}\n\n{markdown_table(table)}\n\n" for heading, table in tables.items()
    )
    if asked.by_fold:
        note += f"*{ALL_EXTERNAL}* puts together exams that were scored by another model in each "
        note += "fold.\n"
    if simulated:
        note += f"\n{simulated}\n"
    return note + (
        "\nRole *development*: internal test, patients held out. Every pair of models is compared "
        "in comparisons.csv, on the exams that both have. Files: the Artifacts tab.\n"
    )
