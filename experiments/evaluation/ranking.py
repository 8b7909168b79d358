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

_ROUNDING = 1e-12  # of statistics that are equal but for it


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
    limits = (1 - specificity, sensitivity)
    rows = []
    for exams in exam_sets(predictions):
        if not is_estimable(exams.target, exams.cluster):
            rows.append(exams.row | {"method": NOT_ESTIMABLE})
            continue
        ranked = RankedExams.of(exams.target, exams.probability, exams.cluster)
        sizes, n = exams.stratum_sizes, exams.target.size
        values = ranked.curves(np.ones((1, sizes.sum()), dtype=np.int64)).statistics(*limits)[0]
        drawn = resampled_patients(n, sizes, resamples, seed)
        resampled = np.concatenate([ranked.curves(c).statistics(*limits) for c in drawn])
        lows, highs = percentiles(resampled, confidence=confidence)
        row: dict[str, Any] = exams.row | {"method": BOOTSTRAP if exams.independent else CLUSTERED}
        for name, value, low, high in zip(STATISTICS, values, lows, highs, strict=True):
            bounds = (low, high) if high - low > _ROUNDING else (np.nan, np.nan)
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), (value, *bounds), strict=True))
        rows.append(row)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def average_precision(target: ArrayLike, score: ArrayLike) -> float:
    """The precision at each distinct score, weighted by the recall that it adds, without
    interpolation (as scikit-learn's). NaN without a positive exam.
    """
    return float(_curve(target, score).average_precision()[0])


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
    curve = _curve(target, score)
    if max_fpr is not None:
        return float(curve.area_up_to(max_fpr)[0])
    assert min_sensitivity is not None
    return float(curve.area_from(min_sensitivity)[0])


@dataclass(frozen=True, slots=True, eq=False)
class _Curves:
    """ROC curves where they rise: at each distinct score of a positive exam, from the highest down.

    Exams counted per row (resample) and score, [rows, scores], and in all, [rows, 1].
    """

    true: NDArray[np.int64]  # positive exams that score at least this
    gained: NDArray[np.int64]  # positive exams that score this
    false: NDArray[np.int64]  # negative exams that score at least this
    tied: NDArray[np.int64]  # negative exams that score this
    positives: NDArray[np.int64]
    negatives: NDArray[np.int64]

    def statistics(self, max_fpr: float, min_sensitivity: float) -> NDArray[np.float64]:
        """STATISTICS [rows, 3]."""
        areas = self.area_up_to(max_fpr), self.area_from(min_sensitivity)
        return np.stack([self.average_precision(), *areas], axis=1)

    def average_precision(self) -> NDArray[np.float64]:
        precision = self.true / np.maximum(self.true + self.false, 1)
        return _share((self.gained * precision).sum(axis=1), self.positives)

    def area_up_to(self, max_fpr: float) -> NDArray[np.float64]:
        """McClish's standardised area [rows] over false positive rates up to `max_fpr`."""
        # each step of the curve raises all of the range that lies right of it
        right = np.maximum(max_fpr * self.negatives - self.false + self.tied, 0.0)
        inside = np.minimum(right, self.tied)
        share = np.divide(inside, self.tied, out=np.ones(inside.shape), where=self.tied > 0)
        area = (self.gained * share * (right - inside / 2)).sum(axis=1)
        return _standardised(_share(area, self.positives * self.negatives), max_fpr)

    def area_from(self, min_sensitivity: float) -> NDArray[np.float64]:
        """McClish's standardised area [rows] over sensitivities of at least `min_sensitivity`."""
        inside = np.clip(self.true - min_sensitivity * self.positives, 0.0, self.gained)
        share = np.divide(inside, self.gained, out=np.zeros(inside.shape), where=self.gained > 0)
        right = self.negatives - self.false + self.tied * share / 2
        area = (inside * right).sum(axis=1)
        return _standardised(_share(area, self.positives * self.negatives), 1 - min_sensitivity)


@dataclass(frozen=True, slots=True, eq=False)
class RankedExams:
    """The patients of the exams of each class, from the highest score to the lowest, and how many
    exams score at least, or above, each distinct score of a positive exam.
    """

    positive_cluster: NDArray[np.integer]
    negative_cluster: NDArray[np.integer]
    positives: NDArray[np.intp]
    negatives: NDArray[np.intp]
    negatives_above: NDArray[np.intp]

    @classmethod
    def of(
        cls, labels: NDArray[np.bool_], scores: NDArray[np.float64], cluster: NDArray[np.integer]
    ) -> "RankedExams":
        order = np.argsort(-scores, kind="stable")
        labels, falling, cluster = labels[order], -scores[order], cluster[order]
        distinct, exams = np.unique(falling[labels], return_counts=True)
        above, up_to = (np.searchsorted(falling[~labels], distinct, s) for s in ("left", "right"))
        return cls(cluster[labels], cluster[~labels], exams.cumsum(), up_to, above)

    def curves(self, patient_counts: NDArray[np.int64]) -> _Curves:
        """With each patient's exams counted as often as a row of `patient_counts` says."""
        positives = _running_sums(patient_counts, self.positive_cluster)
        negatives = _running_sums(patient_counts, self.negative_cluster)
        true, false = positives.take(self.positives, axis=1), negatives.take(self.negatives, axis=1)
        return _Curves(
            true,
            np.diff(true, axis=1, prepend=0),
            false,
            false - negatives.take(self.negatives_above, axis=1),
            positives[:, -1:],
            negatives[:, -1:],
        )


def _curve(target: ArrayLike, score: ArrayLike) -> _Curves:
    labels, scores = np.asarray(target).astype(bool), np.asarray(score, dtype=np.float64)
    once = np.ones((1, labels.size), dtype=np.int64)
    return RankedExams.of(labels, scores, np.arange(labels.size)).curves(once)


def _running_sums(
    patient_counts: NDArray[np.int64], cluster: NDArray[np.integer]
) -> NDArray[np.int64]:
    """The counts of the first 0, 1, ... exams' patients together, [rows, exams + 1]."""
    sums = np.zeros((len(patient_counts), cluster.size + 1), dtype=np.int64)
    patient_counts.take(cluster, axis=1).cumsum(axis=1, out=sums[:, 1:])
    return sums


def _share(part: NDArray[np.float64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """`part` [rows] of `whole` [rows, 1], NaN where that is 0."""
    return part / np.where(whole[:, 0] > 0, whole[:, 0], np.nan)


def _standardised(area: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    chance = width**2 / 2
    return np.asarray(0.5 * (1 + (area - chance) / (width - chance)))
