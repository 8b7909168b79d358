"""What a model does at its operating points, whose thresholds development data set."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from datamodules.errors import InputError
from experiments.evaluation.auroc import CLUSTERED, NOT_ESTIMABLE, roc_curve
from experiments.evaluation.bootstrap import percentiles
from experiments.evaluation.proportion import wilson_interval
from experiments.evaluation.sets import ExamSet, exam_sets, validation_exams
from experiments.evaluation.threshold import youden_threshold

CLOSED_FORM = "Wilson, Simel"
YOUDEN = "youden"
GIVEN = "given"
COUNTS = ("tp", "fp", "tn", "fn")
PROPORTIONS = ("sensitivity", "specificity", "ppv", "npv", "accuracy", "f1")
RATIOS = ("lr_positive", "lr_negative")
STATISTICS = PROPORTIONS + RATIOS
COLUMNS = (
    "model", "institution", "role", "operating_point", "threshold", "n", "positives", *COUNTS,
    *(name + end for name in STATISTICS for end in ("", "_low", "_high")), "method",
)  # fmt: skip


def operating_points(
    predictions: pd.DataFrame,
    *,
    confidence: float,
    resamples: int,
    seed: int,
    sensitivity: float = 0.90,
    thresholds: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """A row a model, test set and operating point, with the columns COLUMNS (NaN: not estimable).

    Test sets and roles are those of `summarise`. Operating points are "youden" (`youden_threshold`)
    and "sensitivity 0.90" (`sensitivity_threshold`), chosen on the model's validation exams; of a
    model in `thresholds` it is "given" instead. Where neither is there, nothing is estimable: a
    threshold is never chosen on the exams it is applied to.

    lr_positive and lr_negative are the likelihood ratios sensitivity / (1 - specificity) and
    (1 - sensitivity) / specificity. A statistic without exams of two patients in its denominator is
    not estimable, nor is a likelihood ratio with a count of 0 that leaves its logarithm undefined.

    - One exam a patient: Wilson's interval of a proportion (J Am Stat Assoc 1927;22:209), of F1
      through TP / (TP + FP + FN), a proportion that it rises with; of the likelihood ratios the log
      method of Simel et al. (J Clin Epidemiol 1991;44:763).
    - Several exams for some patient: percentiles of the patient-clustered bootstrap. Where they
      coincide (a proportion of 0 or 1), Wilson's interval counted in patients.
    """
    points = _thresholds(predictions, sensitivity, thresholds or {})
    rows = []
    for exams in exam_sets(predictions):
        chosen = points[exams.row["model"]]
        counts = [_counts(exams, threshold) for threshold in chosen.values()]
        resampled: list[NDArray | None] = [None] * len(counts)
        if not exams.independent:
            sums = exams.resampled_sums(np.concatenate(counts, axis=1), resamples, seed)
            resampled = list(np.split(sums, len(counts), axis=1))
        for number, (point, threshold) in enumerate(chosen.items()):
            row = exams.row | {"operating_point": point, "threshold": threshold}
            if np.isnan(threshold):
                rows.append(row | {"method": NOT_ESTIMABLE})
                continue
            rows.append(row | _statistics(exams, counts[number], resampled[number], confidence))
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict.fromkeys(COUNTS, "Int64"))


def sensitivity_threshold(target: ArrayLike, probability: ArrayLike, sensitivity: float) -> float:
    """The highest threshold whose sensitivity is at least `sensitivity`, hence the most specific.

    As `youden_threshold` it lies midway to the next lower probability. InputError where a class is
    missing.
    """
    labels = np.asarray(target)
    if not 0 < labels.sum() < labels.size:
        raise InputError(
            f"a threshold for a sensitivity of {sensitivity} needs validation exams of both "
            f"classes; of {labels.size}, {int(labels.sum())} are positive. Add exams to the "
            "development institutions."
        )
    _, sensitivities, cuts = (curve[1:] for curve in roc_curve(target, probability))
    first = int(np.argmax(sensitivities >= sensitivity - 1e-12))
    if first == cuts.size - 1:
        return float(cuts[first])
    upper, lower = cuts[first], cuts[first + 1]
    middle = lower + (upper - lower) / 2
    return float(middle if middle > lower else upper)


def _thresholds(
    predictions: pd.DataFrame, sensitivity: float, given: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """Model -> operating point -> threshold, NaN where nothing sets it."""
    models = [str(model) for model in predictions["model"].unique()]
    unknown = [model for model in given if model not in models]
    if unknown:
        raise InputError(
            f"thresholds are given for {', '.join(unknown)}, of which there are no predictions. "
            f"The models in the table are {', '.join(models)}."
        )
    validation = validation_exams(predictions)
    points: dict[str, dict[str, float]] = {}
    for model in models:
        fixed = f"sensitivity {sensitivity:.2f}"
        if model in given:
            points[model] = {GIVEN: float(given[model])}
        elif model in validation:
            target, probability = (validation[model][c] for c in ("target", "probability"))
            points[model] = {
                YOUDEN: youden_threshold(target, probability),
                fixed: sensitivity_threshold(target, probability, sensitivity),
            }
        else:
            points[model] = {YOUDEN: np.nan, fixed: np.nan}
    return points


def _counts(exams: ExamSet, threshold: float) -> NDArray[np.bool_]:
    """Whether each exam is a TP, FP, TN, FN, [n, 4]."""
    called, target = exams.probability >= threshold, exams.target
    return np.stack([called & target, called & ~target, ~called & ~target, ~called & target], 1)


def _ratios(tp: Any, fp: Any, tn: Any, fn: Any) -> dict[str, tuple[Any, Any]]:
    """Numerator and denominator of each statistic."""
    return {
        "sensitivity": (tp, tp + fn),
        "specificity": (tn, tn + fp),
        "ppv": (tp, tp + fp),
        "npv": (tn, tn + fn),
        "accuracy": (tp + tn, tp + fp + tn + fn),
        "f1": (2 * tp, 2 * tp + fp + fn),
        "lr_positive": (tp * (tn + fp), fp * (tp + fn)),
        "lr_negative": (fn * (tn + fp), tn * (tp + fn)),
    }


def _statistics(
    exams: ExamSet, counts: NDArray[np.bool_], resampled: NDArray | None, confidence: float
) -> dict[str, Any]:
    """The counts, and each statistic with its interval; `resampled` are their resampled sums."""
    tp, fp, tn, fn = (int(count) for count in counts.sum(axis=0))
    masks = {name: below > 0 for name, (_, below) in _ratios(*counts.T).items()}
    row: dict[str, Any] = dict(zip(COUNTS, (tp, fp, tn, fn), strict=True))
    row["method"] = CLOSED_FORM if resampled is None else CLUSTERED
    again = {} if resampled is None else _ratios(*resampled.T)
    for name, (numerator, denominator) in _ratios(tp, fp, tn, fn).items():
        ratio = name in RATIOS
        if ratio:
            small = min(exams.patients(exams.target), exams.patients(~exams.target)) < 2
            undefined = small or numerator == 0 or denominator == 0
            trials = 0
        else:
            trials = exams.patients(masks[name])
            undefined = trials < 2
        if undefined:
            row |= dict.fromkeys((name, f"{name}_low", f"{name}_high"), np.nan)
            continue
        value = numerator / denominator
        if resampled is not None:
            above, below = again[name]
            shares = np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
            low, high = (float(bound) for bound in percentiles(shares, confidence=confidence))
        if resampled is None or (low == high and not ratio):
            low, high = (
                _simel_interval(name, tp, fp, tn, fn, confidence)
                if ratio
                else _proportion_interval(name, value, trials, confidence)
            )
        row |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return row


def _proportion_interval(
    name: str, value: float, trials: int, confidence: float
) -> tuple[float, float]:
    share = value / (2 - value) if name == "f1" else value
    low, high = (float(b) for b in wilson_interval(share * trials, trials, confidence=confidence))
    return (2 * low / (1 + low), 2 * high / (1 + high)) if name == "f1" else (low, high)


def _simel_interval(
    name: str, tp: int, fp: int, tn: int, fn: int, confidence: float
) -> tuple[float, float]:
    """The interval of a likelihood ratio a/m : b/n, whose logarithm has the variance
    1/a - 1/m + 1/b - 1/n.
    """
    a, b = (tp, fp) if name == "lr_positive" else (fn, tn)
    m, n = tp + fn, fp + tn
    half = norm.ppf((1 + confidence) / 2) * np.sqrt(1 / a - 1 / m + 1 / b - 1 / n)
    ratio = (a / m) / (b / n)
    return float(ratio * np.exp(-half)), float(ratio * np.exp(half))
