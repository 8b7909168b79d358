"""A reader study: its tables, figure and report on the launch's run."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.config import plain
from experiments.evaluation.mrmc import sample_size
from experiments.evaluation.predictions import VAL
from experiments.evaluation.reader_study import ReaderStudy, analyse, results_table
from experiments.evaluation.simulated_readers import (
    ReaderPopulation,
    SimulatedTruth,
    recovery_table,
    simulate_readings,
    trust_reaching,
)
from experiments.evaluation.summary import markdown_table
from experiments.figures.html import (
    Block,
    Facts,
    Listing,
    Paragraph,
    Picture,
    Report,
    Section,
    render,
)
from experiments.figures.readers_report import (
    SIMULATED_READERS,
    Plan,
    reader_blocks,
    reader_limits,
    size_of,
)
from experiments.figures.study import Study, titled
from experiments.schema import Readers, SimulatedReaders
from experiments.stages.findings import Asked
from experiments.stages.key import file_digest
from experiments.stages.report import Outcome
from experiments.tracking import Tracking
from lightning_modules.tasks.decision import youden_threshold


@dataclass(frozen=True)
class JudgedReaders:
    """What `judge_readers` found: for the terminal, and for a report its results and limits."""

    outcome: Outcome
    study: ReaderStudy
    results: list[Block]
    limits: list[str]

    @property
    def blocks(self) -> list[Block]:
        """Results and limits as one section of a report on more than the readers."""
        return [*self.results, Paragraph("Limits of the reader study:"), Listing(self.limits)]


def simulate_readers(
    settings: SimulatedReaders, predictions: pd.DataFrame, seed: int
) -> tuple[pd.DataFrame, SimulatedTruth]:
    """Readings of simulated readers who are shown a model's probabilities, and their truth."""
    validation = predictions[predictions["split"] == VAL]
    drawn: dict[str, Any] = {
        "cases": settings.cases,
        "prevalence": settings.prevalence,
        "threshold": youden_threshold(validation["target"], validation["probability"]),
        "seed": seed,
    }
    population = ReaderPopulation(trust=0.0, **plain(settings.population))
    trust = trust_reaching(predictions, population, settings.accuracy_with, **drawn)
    return simulate_readings(
        predictions,
        replace(population, trust=trust),
        readers=settings.readers,
        answers=settings.answers,
        **drawn,
    )


def judge_readers(
    wanted: Readers,
    asked: Asked,
    readings: pd.DataFrame,
    truth: SimulatedTruth | None,
    tracking: Tracking,
    run: str | None,
) -> JudgedReaders:
    """Analyse a checked table of readings; tables, figure, metrics and a note are left on `run`.

    `truth` where the readers were simulated: everything is then marked and named so.
    """
    simulated = truth is not None
    folder = "readers_simulated" if simulated else "readers"
    confidence = asked.settings.confidence
    study = analyse(readings, threshold=wanted.threshold, confidence=confidence)
    table = results_table(study)
    tables = {
        "readings": readings,
        "readers": study.readers,
        "paired": study.paired,
        "mrmc": study.mrmc,
        "gee": study.gee,
        "results": table,
    }
    plan = _plan(wanted, study, confidence)
    if plan is not None:
        tables["sample_size"] = plan.table
    recovery = None
    if truth is not None:
        recovery = tables["recovery"] = recovery_table(truth, study)
        tables["true_readers"] = truth.readers
    for name, values in tables.items():
        tracking.table(run, values, f"{folder}/{name}.csv")
    results = reader_blocks(
        study,
        target=titled(asked.labels),
        threshold=wanted.threshold,
        confidence=confidence,
        plan=plan,
        recovery=recovery,
    )
    for block in results:
        if isinstance(block, Picture):
            tracking.figure(run, block.figure, f"figures/{block.name}.png")
    tracking.tags(run, {"simulated_readers": str(simulated).lower()})
    for row in study.paired.to_dict(orient="records"):
        for arm in ("without", "with"):
            tracking.metrics(run, {f"{folder}/{row['metric']}/{arm}": row[f"mean_{arm}"]})
    heading = f"Readers without and with the model{' (SIMULATED READERS)' if simulated else ''}"
    note = f"### {heading}\n\n{markdown_table(table)}\n\n"
    if recovery is not None:
        note = f"**{SIMULATED_READERS}**\n\n{note}### Is the simulated truth recovered?\n\n"
        note += f"{markdown_table(recovery.round(3))}\n\n"
    if plan is not None:
        note += f"### Cases for a gain in accuracy of {100 * plan.gain:g} points, "
        note += f"power {plan.power:g}\n\n{markdown_table(plan.table.round(3))}\n"
    tracking.tags(run, {"mlflow.note.content": note})
    outcome = Outcome(heading, table, SIMULATED_READERS if simulated else "")
    limits = reader_limits(study, confidence=confidence, simulated=simulated)
    return JudgedReaders(outcome, study, results, limits)


def report_readers(
    wanted: Readers,
    table: Path,
    known: Study,
    judged: JudgedReaders,
    tracking: Tracking,
    run: str | None,
) -> None:
    """Leave report.html of a `table` of readings that was handed in on `run`, beside it its tables
    (`tables/`)."""
    if run is None:
        return
    size = size_of(judged.study)
    asked = {
        "Question": "Are readers more accurate with the model's help?",
        "Study": known.name,
        "Target": known.target,
        "Readings": f"{table.name}, kept as readers/readings.csv of the run",
        "Readers and cases": size,
        "A yes": f"a reading of {wanted.threshold:g} or more",
    }
    repeat = {"Command": known.command, "Commit": known.commit, "Seed": "none: nothing is drawn"}
    repeat[f"SHA-256 of {table.name}"] = file_digest(table)
    repeat |= {f"Version of {name}": number for name, number in known.versions.items()}
    report = Report(
        f"{known.target}: {known.name}",
        f"{judged.outcome.title}: {size}",
        {},
        [
            Section("question", "What was asked", [Facts(asked)]),
            Section("readers", "Reader study", judged.results),
            Section("limits", "Limits", [Listing(judged.limits)]),
            Section("repeat", "How to repeat it", [Facts(repeat, code=True)]),
        ],
    )
    tracking.text(run, render(report), "report.html")
    for shown in report.tables:
        for name, text in shown.files().items():
            tracking.text(run, text, f"tables/{name}")


def _plan(wanted: Readers, study: ReaderStudy, confidence: float) -> Plan | None:
    """The next study's sample sizes, where the accuracy's variance components are estimable."""
    if "accuracy" not in study.components:
        return None
    table = sample_size(
        wanted.wanted_gain,
        study.components["accuracy"],
        readers=wanted.planned,
        wanted_power=wanted.wanted_power,
        alpha=1 - confidence,
        max_cases=wanted.max_cases,
    )
    return Plan(wanted.wanted_gain, wanted.wanted_power, wanted.max_cases, table)
