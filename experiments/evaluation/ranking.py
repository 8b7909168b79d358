"""How well a model ranks exams, beyond the AUROC: average precision and partial AUROCs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from experiments.evaluation.auroc import CLUSTERED, NOT_ESTIMABLE, is_estimable
from experiments.evaluation.bootstrap import percentiles, resampled_patients
from experiments.evaluation.sets import exam_sets

BOOTSTRAP = "bootstrap"
STATISTICS = ("average_precision", "partial_auroc_specificity", "partial_auroc_sensitivity")
COLUMNS = (
    "model", "institution", "role", "n", "positives",
    *(name + end for name in STATISTICS for end in ("", "_low", "_high")), "method",
)  # fmt: skip


def ranking_table(
    predictions: pd.DataFrame,
    *,
    confidence: float,
    resamples: int,
    seed: int,
    specificity: float,
    sensitivity: float,
) -> pd.DataFrame:
    """A row a model and test set (those of `summarise`), with the columns COLUMNS.

    `average_precision`, which chance brings to the prevalence; and the standardised partial AUROCs
    over specificities of at least `specificity` and sensitivities of at least `sensitivity`, which
    chance brings to 0.5. Intervals are percentiles of the patients' bootstrap, NaN where those
    coincide. Everything is NaN where `is_estimable` says that the AUROC is not estimable either.
    """
    limits = (1 - specificity, 1 - sensitivity)
    rows = []
    for exams in exam_sets(predictions):
        if not is_estimable(exams.target, exams.cluster):
            rows.append(exams.row | {"method": NOT_ESTIMABLE})
            continue
        sorted_exams = _by_score(exams.target, exams.probability, exams.cluster)
        sizes, n = exams.stratum_sizes, exams.target.size
        values = _statistics(sorted_exams, np.ones((1, sizes.sum()), dtype=np.int64), *limits)[0]
        drawn = resampled_patients(n, sizes, resamples, seed)
        resampled = np.concatenate([_statistics(sorted_exams, c, *limits) for c in drawn])
        lows, highs = percentiles(resampled, confidence=confidence)
        row: dict[str, Any] = exams.row | {"method": BOOTSTRAP if exams.independent else CLUSTERED}
        for name, value, low, high in zip(STATISTICS, values, lows, highs, strict=True):
            bounds = (low, high) if low < high else (np.nan, np.nan)
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), (value, *bounds), strict=True))
        rows.append(row)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def average_precision(target: ArrayLike, score: ArrayLike) -> float:
    """The precision at each distinct score, weighted by the recall that it adds, without
    interpolation (as scikit-learn's). NaN without a positive exam.
    """
    return float(_average_precision(*_counts_once(target, score))[0])


def partial_auroc(
    target: ArrayLike,
    score: ArrayLike,
    *,
    max_fpr: float | None = None,
    min_sensitivity: float | None = None,
) -> float:
    """The area under the ROC curve over false positive rates up to `max_fpr`, or over sensitivities
    of at least `min_sensitivity`: one of the two.

    Standardised as by McClish (Med Decis Making 1989;9:190): 0.5 is chance and 1 is perfect,
    whatever the range. NaN where a class is missing.
    """
    if (max_fpr is None) == (min_sensitivity is None):
        raise ValueError("give either max_fpr or min_sensitivity")
    true, false = _counts_once(target, score)
    if max_fpr is not None:
        return float(_area_up_to(_rates(false), _rates(true), max_fpr)[0])
    assert min_sensitivity is not None
    return float(_area_of_sensitive_part(true, false, 1 - min_sensitivity)[0])


@dataclass(frozen=True, slots=True, eq=False)
class _SortedExams:
    """Exams from the highest score to the lowest, and where each distinct score ends."""

    labels: NDArray[np.bool_]
    cluster: NDArray[np.integer]
    ends: NDArray[np.intp]


def _by_score(labels: NDArray[np.bool_], scores: NDArray, cluster: NDArray) -> _SortedExams:
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), scores.size - 1)
    return _SortedExams(labels[order], cluster[order], ends)


def _counts(exams: _SortedExams, patient_counts: NDArray[np.int64]) -> tuple[NDArray, NDArray]:
    """Positive and negative exams down to each distinct score, [rows, scores], with each patient's
    exams counted as often as a row of `patient_counts` says.
    """
    weights = patient_counts.take(exams.cluster, axis=1)
    true = (weights * exams.labels).cumsum(axis=1).take(exams.ends, axis=1)
    return true, weights.cumsum(axis=1).take(exams.ends, axis=1) - true


def _counts_once(target: ArrayLike, score: ArrayLike) -> tuple[NDArray, NDArray]:
    labels, scores = np.asarray(target).astype(bool), np.asarray(score, dtype=np.float64)
    exams = _by_score(labels, scores, np.arange(labels.size))
    return _counts(exams, np.ones((1, labels.size), dtype=np.int64))


def _statistics(
    exams: _SortedExams, patient_counts: NDArray[np.int64], max_fpr: float, max_fnr: float
) -> NDArray[np.float64]:
    """STATISTICS [rows, 3]."""
    true, false = _counts(exams, patient_counts)
    columns = [
        _average_precision(true, false),
        _area_up_to(_rates(false), _rates(true), max_fpr),
        _area_of_sensitive_part(true, false, max_fnr),
    ]
    return np.stack(columns, axis=1)


def _average_precision(true: NDArray, false: NDArray) -> NDArray[np.float64]:
    called = true + false
    precision = np.divide(true, called, out=np.zeros(true.shape), where=called > 0)
    gained = np.diff(_rates(true), axis=1)
    return np.asarray((gained * precision).sum(axis=1))


def _rates(counts: NDArray) -> NDArray[np.float64]:
    """Shares of the last count, from 0 on, [rows, scores + 1]; NaN where that is 0."""
    total = np.where(counts[:, -1:] > 0, counts[:, -1:], np.nan)
    return np.concatenate([np.zeros((len(counts), 1)), counts / total], axis=1)


def _area_of_sensitive_part(true: NDArray, false: NDArray, max_fnr: float) -> NDArray[np.float64]:
    """As `_area_up_to` of the curve with the classes' parts, and the order of exams, exchanged."""
    return _area_up_to(1 - _rates(true)[:, ::-1], 1 - _rates(false)[:, ::-1], max_fnr)


def _area_up_to(x: NDArray, y: NDArray, end: float) -> NDArray[np.float64]:
    """McClish's standardised area under each row's curve, for x from 0 to `end`."""
    width = np.diff(x, axis=1)
    inside = np.clip(end - x[:, :-1], 0.0, width)
    share = np.divide(inside, width, out=np.zeros(width.shape), where=width > 0)
    height = y[:, :-1] + np.diff(y, axis=1) * share / 2
    area = (inside * height).sum(axis=1)
    chance = end**2 / 2
    return np.asarray(0.5 * (1 + (area - chance) / (end - chance)))
