"""A reader study: its tables and figure on the launch's run."""

from dataclasses import replace

import pandas as pd
from omegaconf import DictConfig

from experiments.config import plain
from experiments.evaluation.mrmc import sample_size
from experiments.evaluation.reader_study import analyse, results_table
from experiments.evaluation.simulated_readers import (
    ReaderPopulation,
    SimulatedTruth,
    recovery_table,
    simulate_readings,
    trust_reaching,
)
from experiments.evaluation.summary import markdown_table
from experiments.evaluation.threshold import youden_threshold
from experiments.figures.reader_study import reader_study_figure
from experiments.stages.report import Outcome
from experiments.tracking import Tracking

SIMULATED = (
    "SIMULATED READERS: no doctor read these cases. What is shown is whether the analysis finds "
    "the gain that was put in, and says nothing about readers."
)


def simulate_readers(
    config: DictConfig, predictions: pd.DataFrame
) -> tuple[pd.DataFrame, SimulatedTruth]:
    """Readings of simulated readers who are shown the fusion's probabilities, and their truth."""
    settings = config.readers.simulated
    model = predictions[predictions["model"] == config.fusion.name]
    validation = model[model["split"] == "val"]
    drawn = {
        "cases": settings.cases,
        "prevalence": settings.prevalence,
        "threshold": youden_threshold(validation["target"], validation["probability"]),
        "seed": config.seed,
    }
    population = ReaderPopulation(trust=0.0, **plain(settings.population))
    trust = trust_reaching(model, population, settings.accuracy_with, **drawn)
    return simulate_readings(
        model,
        replace(population, trust=trust),
        readers=settings.readers,
        answers=settings.answers,
        **drawn,
    )


def report_readers(
    config: DictConfig,
    readings: pd.DataFrame,
    truth: SimulatedTruth | None,
    tracking: Tracking,
    run: str | None,
) -> Outcome:
    """Analyse readings and leave everything on `run`; `truth` where the readers were simulated."""
    simulated = truth is not None
    folder = "readers_simulated" if simulated else "readers"
    confidence = config.statistics.confidence
    study = analyse(readings, threshold=config.readers.threshold, confidence=confidence)
    table = results_table(study)
    tables = {
        "readings": readings,
        "readers": study.readers,
        "paired": study.paired,
        "mrmc": study.mrmc,
        "gee": study.gee,
        "results": table,
    }
    if "accuracy" in study.components:
        tables["sample_size"] = sample_size(
            config.readers.wanted_gain,
            study.components["accuracy"],
            readers=config.readers.planned,
            wanted_power=config.readers.wanted_power,
            alpha=1 - confidence,
            max_cases=config.readers.max_cases,
        )
    if truth is not None:
        tables["recovery"] = recovery_table(truth, study)
        tables["true_readers"] = truth.readers
    for name, values in tables.items():
        tracking.table(run, values, f"{folder}/{name}.csv")
    title = f"{config.target}: readers without and with the model"
    figure = reader_study_figure(study, confidence=confidence, title=title, simulated=simulated)
    tracking.figure(run, figure, f"figures/{folder}.png")
    tracking.tags(run, {"simulated_readers": str(simulated).lower()})
    for row in study.paired.to_dict(orient="records"):
        for arm in ("without", "with"):
            tracking.metrics(run, {f"{folder}/{row['metric']}/{arm}": row[f"mean_{arm}"]})
    heading = f"Readers without and with the model{' (SIMULATED READERS)' if simulated else ''}"
    note = f"### {heading}\n\n{markdown_table(table)}\n\n"
    if truth is not None:
        shown = tables["recovery"].round(3)
        note = f"**{SIMULATED}**\n\n{note}### Is the simulated truth recovered?\n\n"
        note += f"{markdown_table(shown)}\n\n"
    if "sample_size" in tables:
        gain, power = config.readers.wanted_gain, config.readers.wanted_power
        note += f"### Cases for a gain in accuracy of {100 * gain:g} points, power {power:g}\n\n"
        note += f"{markdown_table(tables['sample_size'].round(3))}\n"
    tracking.tags(run, {"mlflow.note.content": note})
    return Outcome(heading, table, SIMULATED if simulated else "")
