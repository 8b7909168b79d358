"""The analysis of a regression: every table that its report is made of, from predictions alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import pandas as pd

from datamodules.errors import InputError
from experiments.evaluation.agreement import (
    compare_errors,
    error_gaps,
    error_subgroups,
    pooled_errors,
    summarise_estimates,
    threshold_predictions,
)
from experiments.evaluation.analysis import Aurocs, Settings, aurocs, patient_groups
from experiments.evaluation.comparison import common_exams, comparable
from experiments.evaluation.heterogeneity import pooled_aurocs
from experiments.evaluation.predictions import EXTERNAL

POOLED_STATISTICS = ("mae", "bias")
LVEF = "lvef_percent"  # the configuration has thresholds for it, whatever a study's labels are


@dataclass(frozen=True)
class Errors:
    """The errors of one label's models, and their comparisons.

    `summary` is that of `summarise_estimates` on `predictions`: where models have different exams,
    those that all have, and `own_summary` is of each model on all its exams. `comparisons` are of
    `compare_errors`; `thresholds`, by name, the AUROCs of `threshold_predictions`.
    """

    label: str
    predictions: pd.DataFrame
    summary: pd.DataFrame
    own_summary: pd.DataFrame | None
    comparisons: pd.DataFrame
    thresholds: Mapping[str, Aurocs]

    @property
    def models(self) -> list[str]:
        return [str(model) for model in self.summary["model"].unique()]

    @property
    def has_external(self) -> bool:
        return bool((self.summary["role"] == EXTERNAL).any())


@dataclass(frozen=True)
class ErrorAnalysis(Errors):
    """Every table of one label's estimates.

    `development` and `external` are the institutions. `pooled`: statistic -> `pooled_errors`, and
    `pooled_thresholds`: name -> `pooled_aurocs`. `subgroups` and `gaps` are None where nothing is
    known of the patients, or no exam is external.
    """

    settings: Settings
    development: list[str]
    external: list[str]
    pooled: Mapping[str, pd.DataFrame]
    pooled_thresholds: Mapping[str, pd.DataFrame]
    subgroups: pd.DataFrame | None
    gaps: pd.DataFrame | None


def errors(predictions: pd.DataFrame, settings: Settings, *, common: bool) -> Errors:
    """What is told of every fold too, from one label's checked estimates.

    `common`: models are judged on nothing but exams that all have, and InputError where there is
    none; else the pairs' own comparisons are of all that a pair has.
    """
    label, options = str(predictions["label"].iloc[0]), settings.of_aurocs
    tested = comparable(predictions)
    if common:
        tested = common_exams(predictions, predictions["model"].unique().tolist())
    summary, own_summary = summarise_estimates(predictions, **options), None
    if common or len(tested) < len(predictions):
        own_summary, summary = summary, summarise_estimates(tested, **options)
    asked = settings.truth_thresholds.get(label, ())
    return Errors(
        label,
        tested,
        summary,
        own_summary,
        compare_errors(tested if common else predictions, **options),
        {
            name: aurocs(table, settings, common=common)
            for name, table in threshold_predictions(predictions, asked).items()
        },
    )


def check_thresholds(thresholds: Mapping[str, Sequence[float]], labels: Sequence[str]) -> None:
    """InputError where thresholds on the truth are given for none of these labels."""
    known = list(dict.fromkeys((*labels, LVEF)))
    for name in thresholds:
        if name not in known:
            near = get_close_matches(name, known, 3, 0.4)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise InputError(
                f"statistics.truth_thresholds: {name} is no label here. "
                f"The labels are {', '.join(labels)}.{hint}"
            )


def analyse_errors(
    found: Errors, settings: Settings, *, exams: pd.DataFrame | None = None
) -> ErrorAnalysis:
    """All else that `found.predictions` tell; `exams` as of `analyse`."""
    predictions, confidence = found.predictions, settings.confidence
    groups = patient_groups(predictions, exams, settings)
    subgroups = None
    if groups is not None:
        subgroups = error_subgroups(predictions, groups, **settings.bootstrap)
    external = predictions["split"] == EXTERNAL
    known: dict[str, Any] = vars(found)
    return ErrorAnalysis(
        **known,
        settings=settings,
        development=[str(name) for name in predictions.loc[~external, "institution"].unique()],
        external=[str(name) for name in predictions.loc[external, "institution"].unique()],
        pooled={
            name: pooled_errors(found.summary, name, confidence=confidence)
            for name in POOLED_STATISTICS
        },
        pooled_thresholds={
            name: pooled_aurocs(of.summary, confidence=confidence)
            for name, of in found.thresholds.items()
        },
        subgroups=subgroups,
        gaps=None if subgroups is None else error_gaps(subgroups, confidence=confidence),
    )
