"""What a reviewer finds on the parent run: predictions, tables and figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from experiments.console import say
from experiments.evaluation.estimates import is_regression
from experiments.evaluation.predictions import ALL_EXTERNAL, DEVELOPMENT, EXTERNAL
from experiments.evaluation.summary import markdown_table
from experiments.figures.html import Block
from experiments.figures.study import Cohort, Pretraining, Study, titled
from experiments.stages.classification import Classification
from experiments.stages.cohort import Roles
from experiments.stages.exams import Site, target_column
from experiments.stages.findings import Asked, Ceilings, Findings
from experiments.stages.pretrain import Pretrained
from experiments.stages.regression import Regression
from experiments.tracking import Tracking

SIMULATED = "Simulated data: the order of models here says nothing about hospitals."


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
    findings: Findings
    cohort: Cohort | None


def judge(
    asked: Asked,
    results: Results,
    sites: Mapping[str, Site],
    roles: Roles | None,
    ceilings: Ceilings | None,
    tracking: Tracking,
    run: str | None,
) -> Judged:
    """Leave what is found in the predictions on `run`: files, metrics and the note that MLflow
    shows, and metrics on a child run a model. `roles` say who was trained on.
    """
    findings = find(asked, results, ceilings)
    for path, content in findings.files.items():
        if isinstance(content, str):
            tracking.text(run, content, path)
        else:
            tracking.table(run, content, path)
    tracking.metrics(run, findings.metrics)
    for model, metrics in findings.of_models.items():
        tags = {"stage": "test", "model": model}
        with tracking.run(f"test {model}", parent=run, tags=tags) as of_model:
            tracking.metrics(of_model, metrics)
    simulated = f"{SIMULATED} {findings.ceiling}".strip() if asked.simulated else ""
    cohort = _cohort(asked, sites, roles, tracking, run) if sites else None
    caption = " ".join(text for text in (simulated, cohort.excerpt if cohort else "") if text)
    tracking.tags(run, {"mlflow.note.content": _note(asked, findings.tables, caption)})
    return Judged(
        Outcome(findings.title, findings.shown, caption),
        simulated,
        findings,
        cohort,
    )


def find(asked: Asked, results: Results, ceilings: Ceilings | None) -> Findings:
    """By the columns of the predictions: the one place that knows which kinds there are."""
    if is_regression(results.predictions):
        return Regression.of(asked, results.predictions, results.subsets, ceilings)
    return Classification.of(asked, results.predictions, results.subsets, ceilings)


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
    study = replace(
        known,
        target=titled(asked.labels),
        simulated=judged.simulated,
        limits=failed,
        cohort=judged.cohort,
        pretraining=_pretraining(pretrained),
        readers=readers,
    )
    evidence = judged.findings.evidence(study, [fold.predictions for fold in folds])
    tracking.text(run, evidence.html, "report.html")
    for name, text in evidence.tables.items():
        tracking.text(run, text, f"tables/{name}")
    for name, figure in evidence.figures.items():
        tracking.figure(run, figure, f"figures/{name}.png")


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


def _cohort(
    asked: Asked,
    sites: Mapping[str, Site],
    roles: Roles | None,
    tracking: Tracking,
    run: str | None,
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
    return Cohort(
        pd.concat(tables, ignore_index=True),
        flow,
        left_out,
        {label: target_column(label) for label in asked.labels},
        list(dict.fromkeys(note for site in sites.values() for note in site.notes)),
        " ".join(dict.fromkeys(site.excerpt for site in sites.values() if site.excerpt)),
    )


def _note(asked: Asked, tables: Mapping[str, pd.DataFrame], caption: str) -> str:
    """The text that the MLflow UI shows first on a run."""
    note = "".join(
        f"### {heading}\n\n{markdown_table(table)}\n\n" for heading, table in tables.items()
    )
    if asked.by_fold:
        note += f"*{ALL_EXTERNAL}* puts together exams that were scored by another model in each "
        note += "fold.\n"
    if caption:
        note += f"\n{caption}\n"
    return note + (
        "\nRole *development*: internal test, patients held out. Every pair of models is compared "
        "in comparisons.csv, on the exams that both have. Files: the Artifacts tab.\n"
    )
