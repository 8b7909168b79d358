"""Bands about ROC curves."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array

from experiments.evaluation.auroc import is_estimable
from experiments.evaluation.bootstrap import indicator, percentiles
from experiments.evaluation.predictions import POOLED
from experiments.evaluation.sets import ExamSet, exam_sets

COLUMNS = (
    "model", "institution", "role", "false_positive_rate", "sensitivity", "sensitivity_low",
    "sensitivity_high",
)  # fmt: skip

# Closer where curves rise steeply.
GRID = np.concatenate([np.linspace(0, 0.1, 21), np.linspace(0.12, 1, 45)])
_THRESHOLDS = 200  # of each class, at quantiles of its probabilities


def roc_bands(
    predictions: pd.DataFrame, *, confidence: float, resamples: int, seed: int
) -> pd.DataFrame:
    """The sensitivity at each false positive rate of GRID, with its interval there.

    A row a model, institution (as in `summarise`) and rate, with COLUMNS; institutions whose AUROC
    is not estimable have none. Bands are pointwise percentiles of the patients' bootstrap at each
    false positive rate (Fawcett's vertical averaging, Pattern Recognit Lett 2006;27:861); curves go
    through at most 200 thresholds a class.
    """
    tables = []
    for exams in exam_sets(predictions):
        if exams.row["role"] == POOLED or not is_estimable(exams.target, exams.cluster):
            continue
        columns = _passed(exams)
        once = np.asarray(columns.sum(axis=0)).reshape(1, -1)
        resampled = _sensitivities(exams.resampled_sums(columns, resamples, seed))
        low, high = percentiles(resampled, confidence=confidence)
        value = _sensitivities(once)[0]
        tables.append(
            pd.DataFrame(
                {
                    **{key: exams.row[key] for key in ("model", "institution", "role")},
                    "false_positive_rate": GRID,
                    "sensitivity": value,
                    "sensitivity_low": np.minimum(low, value),
                    "sensitivity_high": np.maximum(high, value),
                }
            )
        )
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(COLUMNS))


def _passed(exams: ExamSet) -> csr_array:
    """[n, 2 x (thresholds + 1)]: how many thresholds each exam passes, negatives first."""
    shares = np.linspace(0, 1, _THRESHOLDS)
    classes = (exams.probability[exams.target], exams.probability[~exams.target])
    cuts = np.unique(
        np.concatenate([np.quantile(p, shares, method="inverted_cdf") for p in classes])
    )
    passed = np.searchsorted(cuts, exams.probability, side="right")
    cell = passed + (cuts.size + 1) * exams.target
    return indicator(cell, 2 * (cuts.size + 1))


def _sensitivities(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """At GRID, [rows, rates]; NaN where a class is missing."""
    negatives, positives = np.split(np.asarray(sums, dtype=np.float64), 2, axis=1)
    false, true = (c[:, ::-1].cumsum(axis=1) for c in (negatives, positives))
    zeros = np.zeros((len(sums), 1))
    with np.errstate(invalid="ignore"):  # a class is missing
        rates, hits = (np.concatenate([zeros, c / c[:, -1:]], axis=1) for c in (false, true))
    # rows beside each other on one axis are searched at once
    apart = 2.0 * np.arange(len(sums))[:, None]
    known = np.isfinite(rates).all(axis=1, keepdims=True)
    axis, wanted = (np.where(known, rates, 1.0) + apart).ravel(), (GRID + apart).ravel()
    # of a vertical step the upper end counts
    start = np.searchsorted(axis, wanted, side="right") - 1
    end = np.minimum(start + 1, axis.size - 1)
    width = axis[end] - axis[start]
    share = np.divide(wanted - axis[start], width, out=np.zeros(width.size), where=width > 0)
    # at the end of a row nothing follows
    share = np.where(wanted >= apart.repeat(GRID.size) + 1, 0.0, share)
    height = hits.ravel()
    found = (height[start] + share * (height[end] - height[start])).reshape(len(sums), GRID.size)
    return np.where(known, found, np.nan)
