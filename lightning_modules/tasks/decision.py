"""Deciding by probabilities: operating thresholds and recalibration, fitted on validation exams.

Formulas over numpy arrays, without torch: tasks own them, and the statistics use the same.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression, minimize
from scipy.special import expit, logit
from sklearn.metrics import roc_curve

# Probabilities [n] -> recalibrated ones [n].
Recalibration = Callable[[NDArray[np.float64]], NDArray[np.float64]]

UNCHANGED, PLATT, ISOTONIC = METHODS = ("none", "platt", "isotonic")

_CLIP = 1e-7
# How far a trained network's logits are off before anything is known of it: slope by a third, odds
# by a quarter, either way.
SLOPE_SD, INTERCEPT_SD = 0.3, 0.25


def logit_of(probability: ArrayLike) -> NDArray[np.float64]:
    """The logit of probabilities, taken within 1e-7 of 0 and 1, as near as float32 keeps apart."""
    return np.asarray(logit(np.clip(np.asarray(probability, np.float64), _CLIP, 1 - _CLIP)))


def youden_threshold(target: ArrayLike, probability: ArrayLike) -> float:
    """The threshold with the largest sensitivity + specificity - 1 (Youden, Cancer 1950;3:32).

    An exam is called positive where its probability >= threshold. The threshold lies midway between
    two neighbouring probabilities, so that it is not tied to one exam; among equally good ones it
    is the lowest, which misses the fewest positives. Where no cut between two probabilities beats
    calling everything positive, it is the lowest probability. ValueError where a class is missing.
    """
    false_positive_rate, sensitivity, cuts = _curves(target, probability, "an operating threshold")
    youden = sensitivity - false_positive_rate
    # the curves come from the highest cut to the lowest, and rounding must not break a tie
    return _below(cuts, int(np.flatnonzero(youden >= youden.max() - 1e-12)[-1]))


def sensitivity_threshold(target: ArrayLike, probability: ArrayLike, sensitivity: float) -> float:
    """The highest threshold whose sensitivity is at least `sensitivity`, hence the most specific.

    As `youden_threshold` it lies midway to the next lower probability. ValueError where a class is
    missing.
    """
    what = f"a threshold for a sensitivity of {sensitivity}"
    _, sensitivities, cuts = _curves(target, probability, what)
    return _below(cuts, int(np.argmax(sensitivities >= sensitivity - 1e-12)))


def _curves(target: ArrayLike, probability: ArrayLike, what: str) -> list[NDArray[np.float64]]:
    """(false positive rate, sensitivity, cut), each [distinct probabilities]."""
    labels = np.asarray(target)
    if not 0 < labels.sum() < labels.size:
        raise ValueError(
            f"{what} needs validation exams of both classes; of {labels.size}, "
            f"{int(labels.sum())} are positive. Add exams to the development institutions."
        )
    curves = roc_curve(labels, np.asarray(probability), drop_intermediate=False)
    return [np.asarray(curve[1:], np.float64) for curve in curves]


def _below(cuts: NDArray[np.float64], number: int) -> float:
    """Midway from a cut to the next lower one, or the lowest itself."""
    if number == cuts.size - 1:
        return float(cuts[number])
    upper, lower = cuts[number], cuts[number + 1]
    middle = lower + (upper - lower) / 2
    return float(middle if middle > lower else upper)


def recalibrations(target: ArrayLike, probability: ArrayLike) -> dict[str, Recalibration]:
    """By method (METHODS), what these validation exams [n] of both classes allow.

    "none" changes nothing. "platt" is a logistic regression on the logit (Platt 1999, without his
    smoothing of the targets), left out where the classes are separated; "isotonic" a rising step
    curve, straight between the probabilities it was fitted on.
    """
    y, p = np.asarray(target, np.float64), np.asarray(probability, np.float64)
    fitted: dict[str, Recalibration] = {UNCHANGED: unchanged}
    coefficients = logistic(y, logit_of(p))
    if coefficients is not None:
        fitted[PLATT] = partial(_platt, coefficients)
    fitted[ISOTONIC] = _isotonic(y, p)
    return fitted


def unchanged(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """No recalibration."""
    return probability


def _platt(
    coefficients: tuple[float, float], probability: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.asarray(expit(coefficients[0] + coefficients[1] * logit_of(probability)))


def _isotonic(y: NDArray[np.float64], p: NDArray[np.float64]) -> Recalibration:
    knots, number = np.unique(p, return_inverse=True)
    n = np.bincount(number)
    heights = isotonic_regression(np.bincount(number, weights=y) / n, weights=n).x
    return lambda probability: np.interp(probability, knots, heights)


def shrunken_logistic(
    target: NDArray[np.float64], logits: NDArray[np.float64]
) -> tuple[float, float]:
    """(slope, intercept) that recalibrate logits [n]: Platt's, drawn towards (1, 0).

    The most probable of a logistic regression whose log slope and intercept are normal before the
    data, with standard deviations of SLOPE_SD and INTERCEPT_SD: few positive exams move little, and
    none, or one class only, a little more than nothing. The slope stays positive, so that no exam
    changes places with another.
    """
    y, x = np.asarray(target, np.float64), np.asarray(logits, np.float64)

    def loss(at: NDArray[np.float64]) -> float:
        linear = np.exp(at[0]) * x + at[1]
        prior = (at[0] / SLOPE_SD) ** 2 / 2 + (at[1] / INTERCEPT_SD) ** 2 / 2
        return float((np.logaddexp(0.0, linear) - y * linear).sum() + prior)

    found = minimize(loss, np.zeros(2), method="L-BFGS-B").x
    return float(np.exp(found[0])), float(found[1])


def information(fitted: NDArray[np.float64], x: NDArray[np.float64]) -> tuple[float, float, float]:
    """The Fisher information of (intercept, slope): its elements 00, 01 and 11."""
    weight = fitted * (1 - fitted)
    return float(weight.sum()), float((weight * x).sum()), float((weight * x * x).sum())


def logistic(y: NDArray[np.float64], x: NDArray[np.float64]) -> tuple[float, float] | None:
    """The maximum-likelihood (intercept, slope), None where it does not exist or is not unique.

    Newton's method with halved steps where the likelihood would fall.
    """
    ones, zeros = x[y == 1], x[y == 0]
    separated = ones.min() >= zeros.max() or zeros.min() >= ones.max()
    mean, spread = float(x.mean()), float(x.std())
    if separated or spread < 1e-6 * max(1.0, abs(mean)):
        return None
    x = (x - mean) / spread  # logits that hardly differ have a steep slope

    def loss(at: NDArray[np.float64]) -> float:
        linear = at[0] + at[1] * x
        return float((np.logaddexp(0.0, linear) - y * linear).sum())

    at = np.array([float(logit(y.mean())), 0.0])
    for _ in range(100):
        fitted = expit(at[0] + at[1] * x)
        a, b, c = information(fitted, x)
        u0, u1 = float((y - fitted).sum()), float(((y - fitted) * x).sum())
        step = np.array([c * u0 - b * u1, a * u1 - b * u0]) / (a * c - b * b)
        while loss(at + step) > loss(at) + 1e-9 and np.abs(step).max() > 1e-12:
            step /= 2
        at = at + step
        if np.abs(step).max() < 1e-10:
            break
    slope = float(at[1]) / spread
    found = float(at[0]) - slope * mean, slope
    return found if np.isfinite(found).all() else None
