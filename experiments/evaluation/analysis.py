"""A study's analysis: every table that its report is made of, from predictions alone.

Every table has a column `label`.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from datamodules.errors import InputError
from experiments.evaluation.calibration import calibration_table, reliability_curves
from experiments.evaluation.comparison import common_exams, comparable, compare
from experiments.evaluation.decision import decision_curves
from experiments.evaluation.folds import calibration_of_folds, operating_points_of_folds
from experiments.evaluation.heterogeneity import pooled_aurocs
from experiments.evaluation.macro import (
    compare_macro,
    macro_measures,
    macro_summary,
    pooled_macro,
    shared_labels,
)
from experiments.evaluation.operating import operating_points
from experiments.evaluation.predictions import EXAM, EXTERNAL, MACRO, label_of
from experiments.evaluation.ranking import ranking_table
from experiments.evaluation.roc_bands import roc_bands
from experiments.evaluation.subgroups import age_bands, largest_gaps, subgroup_table
from experiments.evaluation.summary import summarise


@dataclass(frozen=True)
class Settings:
    """The numbers of the analysis that a person might change.

    `auroc_resamples` are drawn for AUROCs and their comparisons, `resamples` for all else.
    `sensitivity` is that of the second operating point, `partial_auroc_from` the lowest specificity
    and sensitivity that partial AUROCs are over, `age_edges` part the age bands,
    `decision_thresholds` are those of the decision curves, and `subgroups` further columns of the
    cohort's exams to group by, beside sex and age. `thresholds` are given ones, by label, for which
    none is chosen. Of more than `label_sections` labels a report has no section each.
    `truth_thresholds`: label -> numbers, below each of which a regression's truth is made a class.
    """

    confidence: float
    resamples: int
    auroc_resamples: int
    seed: int
    sensitivity: float
    partial_auroc_from: float
    age_edges: Sequence[float]
    decision_thresholds: Sequence[float]
    subgroups: Sequence[str] = ()
    thresholds: Mapping[str, float] = field(default_factory=dict)
    label_sections: int = 6
    truth_thresholds: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def check(self, labels: Sequence[str]) -> None:
        """InputError where a threshold is given for none of these labels."""
        unknown = [label for label in self.thresholds if label not in labels]
        if unknown:
            raise InputError(
                f"statistics.thresholds: there are no predictions of {', '.join(unknown)}. "
                f"The labels are {', '.join(labels)}."
            )

    @property
    def of_aurocs(self) -> dict[str, Any]:
        return self.bootstrap | {"resamples": self.auroc_resamples}

    @property
    def bootstrap(self) -> dict[str, Any]:
        return {"confidence": self.confidence, "resamples": self.resamples, "seed": self.seed}


@dataclass(frozen=True)
class Aurocs:
    """The AUROCs of one label's models, and their comparisons; or of the macro average.

    `summary` is that of `summarise` on `predictions`: where models have different exams, those that
    all have, and `own_summary` is of each model on all its exams. `comparisons` are of `compare`.
    """

    label: str
    predictions: pd.DataFrame
    summary: pd.DataFrame
    own_summary: pd.DataFrame | None
    comparisons: pd.DataFrame

    @property
    def models(self) -> list[str]:
        return [str(model) for model in self.summary["model"].unique()]

    @property
    def has_external(self) -> bool:
        return bool((self.summary["role"] == EXTERNAL).any())


@dataclass(frozen=True)
class Analysis(Aurocs):
    """Every table of one label's predictions; see the function that each is named after.

    `development` and `external` are the institutions. `subgroups` and `gaps` are None where nothing
    is known of the patients, or no exam is external.
    """

    settings: Settings
    development: Sequence[str]
    external: Sequence[str]
    pooled: pd.DataFrame
    ranking: pd.DataFrame
    decision: pd.DataFrame
    bands: pd.DataFrame
    operating: pd.DataFrame
    calibration: pd.DataFrame
    reliability: pd.DataFrame
    subgroups: pd.DataFrame | None
    gaps: pd.DataFrame | None


@dataclass(frozen=True)
class Several:
    """The analysis of several labels.

    `overall` is that of the macro average, by `macro_summary` and `compare_macro`, whose further
    tables hold those of all labels, one below the other; `measures` are of `macro_measures`. Both
    are over the labels that all models have (`shared_labels`).
    """

    overall: Analysis
    measures: pd.DataFrame
    labels: Mapping[str, Analysis]


def aurocs(predictions: pd.DataFrame, settings: Settings, *, common: bool) -> Aurocs:
    """What is told of every fold too, from one label's checked predictions.

    `common`: models are judged, and get their thresholds, on nothing but exams that all have, and
    InputError where there is none; else validation exams, and the pairs' own comparisons, are of
    all that a model or pair has.
    """
    label, options = label_of(predictions), settings.of_aurocs
    tested = comparable(predictions)
    if common:
        tested = common_exams(predictions, predictions["model"].unique().tolist())
    summary, own_summary = summarise(predictions, **options), None
    if common or len(tested) < len(predictions):
        own_summary, summary = summary, summarise(tested, **options)
    comparisons = compare(tested if common else predictions, **options)
    return Aurocs(label, tested, summary, own_summary, comparisons)


def macro_aurocs(
    predictions: pd.DataFrame, found: Mapping[str, Aurocs], settings: Settings, *, common: bool
) -> Aurocs:
    """The macro average over the labels of `found`, each on the exams that it is judged on.

    `summary` is of the labels that all models have, `own_summary` of each model's own.
    """
    confidence = settings.confidence
    tested = pd.concat([of.predictions for of in found.values()], ignore_index=True)
    shared = shared_labels(tested)
    own = len(shared) < len(tested) or any(of.own_summary is not None for of in found.values())
    return Aurocs(
        MACRO,
        tested,
        macro_summary(shared, confidence=confidence),
        macro_summary(predictions, confidence=confidence) if own else None,
        compare_macro(shared if common else predictions, confidence=confidence),
    )


def analyse_several(
    macro: Aurocs,
    found: Mapping[str, Aurocs],
    settings: Settings,
    *,
    exams: pd.DataFrame | None = None,
    folds: Mapping[str, Sequence[pd.DataFrame]],
) -> Several:
    """`analyse` of every label, on its own `folds`, and what the macro average adds."""
    with ThreadPoolExecutor(1) as pool:
        measures = pool.submit(
            macro_measures, shared_labels(macro.predictions), **settings.bootstrap
        )
        labels = {
            label: analyse(of_label, settings, exams=exams, folds=folds[label])
            for label, of_label in found.items()
        }
    pooled = pooled_macro(macro.summary, confidence=settings.confidence)
    pooled.insert(0, "label", MACRO)

    def joined(name: str) -> Any:
        tables = [getattr(analysis, name) for analysis in labels.values()]
        known = [table for table in tables if table is not None and len(table)]
        return pd.concat(known, ignore_index=True) if known else tables[0]

    names = [of.name for of in fields(Analysis)]
    further = names[names.index("ranking") :]
    development, external = (
        list(dict.fromkeys(name for of in labels.values() for name in getattr(of, role)))
        for role in ("development", "external")
    )
    overall = Analysis(
        **vars(macro),
        settings=settings,
        development=development,
        external=external,
        pooled=pooled,
        **{name: joined(name) for name in further},
    )
    return Several(overall, measures.result(), labels)


def analyse(
    found: Aurocs,
    settings: Settings,
    *,
    exams: pd.DataFrame | None = None,
    folds: Sequence[pd.DataFrame] = (),
) -> Analysis:
    """All else that `found.predictions` tell.

    `exams`, a row an exam of the cohort, has institution, exam_id and what to group patients by:
    sex, age_years and the settings' columns. `folds` are the leave-site-out folds' predictions with
    their validation exams, from which thresholds and recalibration come.
    """
    predictions, options = found.predictions, settings.bootstrap
    lowest, sensitivity = settings.partial_auroc_from, settings.sensitivity
    # numpy lets other threads run while it works
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ranking = pool.submit(
            ranking_table, predictions, specificity=lowest, sensitivity=lowest, **options
        )
        cuts = np.asarray(settings.decision_thresholds)
        decision = pool.submit(decision_curves, predictions, thresholds=cuts, **options)
        bands = pool.submit(roc_bands, predictions, **options)
        subgroups = pool.submit(_subgroups, predictions, exams, settings)
        given = settings.thresholds.get(found.label)
        points = partial(operating_points, predictions, sensitivity=sensitivity)
        if given is not None:
            points = partial(points, thresholds=dict.fromkeys(found.models, given))
        elif folds:
            points = partial(operating_points_of_folds, folds, sensitivity=sensitivity)
        if folds:
            calibrations = pool.submit(calibration_of_folds, folds, **options)
        else:
            calibrations = pool.submit(
                lambda: (
                    calibration_table(predictions, **options),
                    reliability_curves(predictions, **options),
                )
            )
        operating = pool.submit(points, **options)
        calibration, reliability = calibrations.result()
        grouped = subgroups.result()
    confidence = settings.confidence
    known = [table[table["split"] != EXTERNAL] for table in folds or [predictions]]
    tables: dict[str, Any] = {
        "pooled": pooled_aurocs(found.summary, confidence=confidence),
        "ranking": ranking.result(),
        "decision": decision.result(),
        "bands": bands.result(),
        "operating": operating.result(),
        "calibration": calibration,
        "reliability": reliability,
        "subgroups": grouped,
        "gaps": None if grouped is None else largest_gaps(grouped, confidence=confidence),
    }
    for table in tables.values():
        if table is not None:
            table.insert(0, "label", found.label)
    return Analysis(
        **vars(found),
        settings=settings,
        development=_institutions(pd.concat(known)),
        external=_institutions(predictions[predictions["split"] == EXTERNAL]),
        **tables,
    )


def _institutions(exams: pd.DataFrame) -> list[str]:
    return [str(name) for name in exams["institution"].unique()]


def _subgroups(
    predictions: pd.DataFrame, exams: pd.DataFrame | None, settings: Settings
) -> pd.DataFrame | None:
    groups = patient_groups(predictions, exams, settings)
    return None if groups is None else subgroup_table(predictions, groups, **settings.bootstrap)


def patient_groups(
    predictions: pd.DataFrame, exams: pd.DataFrame | None, settings: Settings
) -> pd.DataFrame | None:
    """The table of groups that `subgroup_table` takes, of the cohort's `exams`; None where nothing
    is known of the patients, or no exam is external.
    """
    if exams is None or not (predictions["split"] == EXTERNAL).any():
        return None
    groups = exams[list(EXAM)].copy()
    if "sex" in exams:
        groups["sex"] = exams["sex"]
    if "age_years" in exams:
        groups["age"] = age_bands(exams["age_years"], settings.age_edges)
    for column in settings.subgroups:
        groups[column] = exams[column]
    known = [column for column in groups.columns[2:] if groups[column].notna().any()]
    return groups[[*EXAM, *known]] if known else None
