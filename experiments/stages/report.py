"""What a reviewer finds on the parent run: predictions, tables and figures."""

import json
from collections.abc import Mapping

import pandas as pd
from omegaconf import DictConfig

from experiments.evaluation.predictions import POOLED, check_predictions
from experiments.evaluation.summary import (
    markdown_table,
    results_table,
    summarise,
    summary_json,
)
from experiments.figures.forest import forest_figure
from experiments.figures.roc import roc_figure
from experiments.stages.cohort import Site
from experiments.tracking import Tracking

SIMULATED = (
    "Simulated data: the order of models here says nothing about hospitals. "
    "The ceiling is the AUROC of an ideal observer of the simulated ECG's latents."
)

METRICS = {"auroc": "auroc", "auroc_low": "auroc_low", "auroc_high": "auroc_high", "n": "exams"}


def report(
    config: DictConfig,
    predictions: pd.DataFrame,
    sites: Mapping[str, Site],
    ceiling: Mapping[str, float] | None,
    tracking: Tracking,
    run: str | None,
) -> pd.DataFrame:
    """Leave predictions, summary, figures and the description on `run`; the table for people."""
    check_predictions(predictions, "this launch's predictions")
    summary = summarise(
        predictions,
        confidence=config.statistics.confidence,
        resamples=config.statistics.resamples,
        seed=config.seed,
    )
    table = results_table(summary, ceiling)
    title = f"{config.target}: {config.study}"
    tracking.table(run, predictions, "predictions.parquet")
    tracking.text(run, json.dumps(summary_json(summary), indent=2), "summary.json")
    tracking.table(run, table, "results.csv")
    tracking.figure(
        run,
        forest_figure(
            summary, confidence=config.statistics.confidence, title=title, ceiling=ceiling
        ),
        "figures/forest.png",
    )
    if (predictions["split"] == "external").any():
        tracking.figure(run, roc_figure(predictions, title=title), "figures/roc.png")
    flow = pd.DataFrame([{"institution": name, **site.flow} for name, site in sites.items()])
    tracking.table(run, flow, "cohort/flow.csv")
    left_out = [site.store.skipped.assign(institution=name) for name, site in sites.items()]
    tracking.table(run, pd.concat(left_out), "cohort/left_out.csv")
    for model, rows in summary.groupby("model", sort=False):
        aurocs = dict(zip(rows["institution"], rows["auroc"], strict=True))
        tracking.metrics(run, {f"test/auroc/{name}/{model}": v for name, v in aurocs.items()})
        with tracking.run(
            f"test {model}", parent=run, tags={"stage": "test", "model": str(model)}
        ) as of:
            for column, metric in METRICS.items():
                values = zip(rows["institution"], rows[column], strict=True)
                tracking.metrics(of, {f"test/{metric}/{name}": value for name, value in values})
    if ceiling is not None:
        tracking.metrics(run, {f"ceiling/auroc/{name}": v for name, v in ceiling.items()})
    percent = f"{config.statistics.confidence:.0%}"
    note = f"### AUROC for {config.target} ({percent} interval)\n\n{markdown_table(table)}\n"
    if config.protocol == "leave_site_out":
        note += (
            f"\n*{POOLED}* puts together exams that were scored by another model in each fold.\n"
        )
    if ceiling is not None:
        note += f"\n{SIMULATED}\n"
    note += "\nRole *development*: internal test, patients held out. Files: the Artifacts tab.\n"
    tracking.tags(run, {"mlflow.note.content": note})
    return table
