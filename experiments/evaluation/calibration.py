"""Whether predicted probabilities are what they say, and recalibration on development data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.sparse import hstack
from scipy.special import expit, logit
from scipy.stats import norm

from experiments.evaluation.auroc import CLUSTERED, NOT_ESTIMABLE
from experiments.evaluation.bootstrap import indicator, percentiles
from experiments.evaluation.proportion import wilson_interval
from experiments.evaluation.sets import ExamSet, exam_sets, validation_exams
from lightning_modules.tasks.decision import (
    METHODS,
    UNCHANGED,
    Recalibration,
    logistic,
    logit_of,
    unchanged,
)
from lightning_modules.tasks.decision import information as information_of
from lightning_modules.tasks.decision import recalibrations as fit_recalibrations

BOOTSTRAP = "bootstrap"
BINS = 10
CERTAIN = 0.01  # above this share of probabilities of 0 or 1, no logistic calibration
STATISTICS = ("brier", "scaled_brier", "slope", "intercept", "ece", "observed_expected")
DECOMPOSITION = ("reliability", "resolution", "uncertainty", "within_bin")
COLUMNS = (
    "model", "institution", "role", "recalibration", "n", "positives",
    *(name + end for name in STATISTICS for end in ("", "_low", "_high")), *DECOMPOSITION, "method",
)  # fmt: skip
CURVE_COLUMNS = (
    "model", "institution", "role", "recalibration", "bin", "n", "positives", "predicted",
    "observed", "observed_low", "observed_high",
)  # fmt: skip


def calibration_table(
    predictions: pd.DataFrame, *, confidence: float, resamples: int, seed: int
) -> pd.DataFrame:
    """A row a model, test set (those of `summarise`) and recalibration (METHODS), with COLUMNS.

    - brier, and scaled_brier: 1 - brier / (that of the prevalence); decomposed as in `murphy`.
    - slope and intercept as in `logistic_calibration`: 1 and 0 where calibrated.
    - ece: the expected calibration error, the mean of |observed - predicted| over `quantile_bins`
      (Naeini et al., AAAI 2015), weighted by exams. Chance alone keeps it above 0.
    - observed_expected: positive exams over the sum of probabilities, 1 where calibrated.

    Intervals are percentiles of the patients' bootstrap, in which slope and intercept take one
    Newton step from the estimate (Andrews, Econometrica 2002;70:119), with these exceptions. Where
    every patient has one exam, those of slope and intercept are Wald's, and that of
    observed_expected the log interval of Debray et al. (BMJ 2017;356:i6460). The ece's own
    resampling doubles its bias: its interval reaches down by the bins' resampled distance from
    their estimates, as far as chance alone may have brought it up (triangle inequality), and up to
    2 x estimate - the lower percentile (the basic bootstrap), no lower than the estimate. Bins are
    those of the exams, not of a resample. What a recalibration was fitted on counts as given.

    Nothing is estimable (NaN) where fewer than two patients have a positive exam, or fewer than two
    a negative one, and of a recalibration where `recalibrated` leaves the model out. Slope and
    intercept are not where more than 1 % of the probabilities are 0 or 1, as after isotonic
    recalibration; nor is the slope where the classes are separated or all probabilities alike.
    """
    recalibrations = _recalibrations(predictions)
    rows = []
    for exams in exam_sets(predictions):
        of_model = recalibrations[exams.row["model"]]
        found = _statistics(exams, of_model, confidence, resamples, seed)
        not_found = {"method": NOT_ESTIMABLE}
        for method in METHODS:
            row = exams.row | {"recalibration": method}
            rows.append(row | found.get(method, not_found))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def calibration_of(
    exams: ExamSet, *, confidence: float, resamples: int, seed: int
) -> dict[str, Any]:
    """The figures of one row of `calibration_table`, without recalibration; empty where nothing is
    estimable.
    """
    found = _statistics(exams, {UNCHANGED: unchanged}, confidence, resamples, seed)
    return found.get(UNCHANGED, {})


def reliability_curves(
    predictions: pd.DataFrame, *, confidence: float, resamples: int, seed: int, bins: int = BINS
) -> pd.DataFrame:
    """A row a model, test set, recalibration and bin of `quantile_bins`, with CURVE_COLUMNS:
    `predicted` is the mean probability, `observed` the share of positive exams.

    Wilson's interval where every patient has one exam, else percentiles of the patient-clustered
    bootstrap, and Wilson's counted in patients where those coincide. NaN in a bin with fewer than
    two patients. Recalibrations that have nothing to be fitted on have no rows.
    """
    recalibrations = _recalibrations(predictions)
    tables = []
    for exams in exam_sets(predictions):
        for method, recalibrate in recalibrations[exams.row["model"]].items():
            probability = recalibrate(exams.probability)
            number = quantile_bins(probability, bins)
            n = np.bincount(number)
            positives = np.bincount(number, weights=exams.target)
            distinct = pd.DataFrame({"bin": number, "patient": exams.cluster}).drop_duplicates()
            patients = np.bincount(distinct["bin"])
            observed = positives / n
            low, high = wilson_interval(observed * patients, patients, confidence=confidence)
            if not exams.independent:
                in_bin = indicator(number, n.size)
                columns = hstack([in_bin, in_bin * exams.target[:, None]]).tocsr()
                counted, hits = np.split(exams.resampled_sums(columns, resamples, seed), 2, axis=1)
                shares = np.divide(
                    hits, counted, out=np.full(hits.shape, np.nan), where=counted > 0
                )
                below, above = percentiles(shares, confidence=confidence)
                low, high = np.where(below < above, (below, above), (low, high))
            table = pd.DataFrame(
                {
                    **{key: exams.row[key] for key in ("model", "institution", "role")},
                    "recalibration": method,
                    "bin": np.arange(n.size),
                    "n": n,
                    "positives": positives.astype(np.int64),
                    "predicted": np.bincount(number, weights=probability) / n,
                    "observed": observed,
                    "observed_low": np.where(patients >= 2, low, np.nan),
                    "observed_high": np.where(patients >= 2, high, np.nan),
                }
            )
            tables.append(table)
    none = pd.DataFrame(columns=list(CURVE_COLUMNS))
    return pd.concat(tables, ignore_index=True) if tables else none


def recalibrated(predictions: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """`predictions` with recalibrated logits and probabilities, by method (METHODS).

    "none" is the table itself. "platt" is a logistic regression on the logit (Platt 1999, without
    his smoothing of the targets), "isotonic" a rising step curve, straight between the
    probabilities it was fitted on. Each is fitted on a model's development validation exams, over
    all institutions; models that have none of both classes, or (platt) separated ones, are left
    out of that method's table.
    """
    recalibrations = _recalibrations(predictions)
    tables = {UNCHANGED: predictions}
    for method in METHODS[1:]:
        parts = []
        for model, exams in predictions.groupby("model", sort=False):
            if method in recalibrations[str(model)]:
                new = recalibrations[str(model)][method](exams["probability"].to_numpy())
                parts.append(exams.assign(logit=logit_of(new), probability=new))
        tables[method] = pd.concat(parts) if parts else predictions.iloc[:0]
    return tables


def quantile_bins(probability: ArrayLike, bins: int = BINS) -> NDArray[np.intp]:
    """Each exam's bin [n], numbered from 0 up, between the quantiles of the probabilities.

    Equal probabilities share a bin, so that bins may be fewer than asked for; none is empty.
    """
    scores = np.asarray(probability, dtype=np.float64)
    edges = np.quantile(scores, np.arange(1, bins) / bins)
    return np.unique(np.searchsorted(edges, scores), return_inverse=True)[1]


def murphy(target: ArrayLike, probability: ArrayLike, bins: ArrayLike) -> dict[str, float]:
    """The Brier score's parts: brier = reliability - resolution + uncertainty + within_bin.

    The first three are Murphy's (J Appl Meteorol 1973;12:595) over `bins`, each exam's bin;
    within_bin is what they leave out because probabilities differ within a bin: their variance less
    twice their covariance with the target (Stephenson et al., Weather Forecast 2008;23:752).
    """
    y, p = np.asarray(target, dtype=np.float64), np.asarray(probability, dtype=np.float64)
    number = np.asarray(bins)
    n = np.bincount(number)
    observed = np.bincount(number, weights=y) / np.maximum(n, 1)
    predicted = np.bincount(number, weights=p) / np.maximum(n, 1)
    prevalence = y.mean()
    p_off, y_off = p - predicted[number], y - observed[number]
    return {
        "reliability": float((n * (predicted - observed) ** 2).sum() / y.size),
        "resolution": float((n * (observed - prevalence) ** 2).sum() / y.size),
        "uncertainty": float(prevalence * (1 - prevalence)),
        "within_bin": float((p_off**2 - 2 * p_off * y_off).mean()),
    }


def logistic_calibration(
    target: ArrayLike, probability: ArrayLike
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Calibration (slope, its standard error) and (intercept, its standard error).

    The slope of a logistic regression of the target on the logit of the probability (Cox,
    Biometrika 1958;45:562), and calibration in the large: the intercept where that slope is held at
    1 (Van Calster et al., J Clin Epidemiol 2016;74:167). Logits are of probabilities cut to
    1e-7 .. 1 - 1e-7. Both are NaN where a class is missing, or where more than 1 % of the
    probabilities are cut, whose logits, and with them the results, are the cut's choice; the slope
    alone where the classes are separated or the probabilities all alike.
    """
    y, x = np.asarray(target, dtype=np.float64), logit_of(probability)
    certain = (x <= logit_of(0.0)) | (x >= logit_of(1.0))
    if not 0 < y.sum() < y.size or certain.mean() > CERTAIN:
        return (np.nan, np.nan), (np.nan, np.nan)
    shift = _intercept(y, x)
    information = information_of(expit(shift + x), x)[0]
    intercept = shift, float(1 / np.sqrt(information))
    coefficients = logistic(y, x)
    if coefficients is None:
        return (np.nan, np.nan), intercept
    a, b, c = information_of(expit(coefficients[0] + coefficients[1] * x), x)
    return (coefficients[1], float(np.sqrt(a / (a * c - b * b)))), intercept


@dataclass(frozen=True, slots=True, eq=False)
class _Calibration:
    """Statistics of a test set, and the columns [n, k] whose sums give them for a resample."""

    values: dict[str, float]
    errors: dict[str, float]
    columns: NDArray[np.float64]

    @classmethod
    def of(cls, exams: ExamSet, recalibrate: Recalibration) -> "_Calibration":
        y, p = exams.target.astype(np.float64), recalibrate(exams.probability)
        x, bins = logit_of(p), quantile_bins(p)
        (slope, slope_error), (intercept, intercept_error) = logistic_calibration(y, p)
        parts = murphy(y, p, bins)
        brier = float(np.square(p - y).mean())
        values = {
            "brier": brier,
            "scaled_brier": 1 - brier / parts["uncertainty"],
            "slope": slope,
            "intercept": intercept,
            "ece": float(np.abs(np.bincount(bins, weights=y - p)).sum() / y.size),
            "observed_expected": float(y.sum() / p.sum()) if p.any() else np.nan,
            **parts,
        }
        errors = {
            "slope": slope_error,
            "intercept": intercept_error,
            # of the logarithm
            "observed_expected": float(np.sqrt((1 - y.mean()) / y.sum())),
        }
        # the score and the information of both regressions, for one Newton step from the estimate
        shifted = expit(intercept + x)
        fitted = np.full(y.size, np.nan)
        if not np.isnan(slope):
            fitted = expit(_intercept(y, slope * x) + slope * x)
        weight = fitted * (1 - fitted)
        columns = [
            np.ones(y.size), y, p, np.square(p - y), y - shifted, shifted * (1 - shifted),
            y - fitted, (y - fitted) * x, weight, weight * x, weight * x * x,
        ]  # fmt: skip
        by_bin = np.zeros((y.size, bins.max() + 1))
        by_bin[np.arange(y.size), bins] = y - p
        by_bin = np.pad(by_bin, ((0, 0), (0, BINS - by_bin.shape[1])))
        return cls(values, errors, np.concatenate([np.stack(columns, axis=1), by_bin], axis=1))

    def statistics(
        self, sums: NDArray[np.float64], *, independent: bool, confidence: float
    ) -> dict[str, Any]:
        n, y, p, squares, score, information, u0, u1, a, b, c = sums[:, :11].T
        gaps, own_gaps = sums[:, 11:], self.columns[:, 11:].mean(axis=0)
        prevalence = y / n
        with np.errstate(divide="ignore", invalid="ignore"):
            resampled = {
                "brier": squares / n,
                "scaled_brier": 1 - squares / n / (prevalence * (1 - prevalence)),
                "slope": self.values["slope"] + (a * u1 - b * u0) / (a * c - b * b),
                "intercept": self.values["intercept"] + score / information,
                "ece": np.abs(gaps).sum(axis=1) / n,
                "observed_expected": y / p,
            }
        one_class = (y == 0) | (y == n)
        row: dict[str, Any] = dict(self.values)
        row["method"] = BOOTSTRAP if independent else CLUSTERED
        z = norm.ppf((1 + confidence) / 2)
        for name, values in resampled.items():
            value = self.values[name]
            if independent and name in ("slope", "intercept"):
                low, high = value - z * self.errors[name], value + z * self.errors[name]
            elif independent and name == "observed_expected":
                factor = np.exp(z * self.errors[name])
                low, high = value / factor, value * factor
            else:
                defined = np.where(one_class, np.nan, values)
                low, high = (float(b) for b in percentiles(defined, confidence=confidence))
            if name == "ece":
                noise = np.abs(gaps / n[:, None] - own_gaps).sum(axis=1)
                with np.errstate(invalid="ignore"):
                    farthest = np.nanquantile(noise, (1 + confidence) / 2)
                low, high = max(0.0, value - float(farthest)), max(value, 2 * value - low)
            row |= {f"{name}_low": low, f"{name}_high": high}
        return row


def _statistics(
    exams: ExamSet,
    recalibrations: Mapping[str, Recalibration],
    confidence: float,
    resamples: int,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """The statistics after each recalibration, on the same resamples; empty with too few exams."""
    if min(exams.patients(exams.target), exams.patients(~exams.target)) < 2:
        return {}
    found = {m: _Calibration.of(exams, recalibrate) for m, recalibrate in recalibrations.items()}
    columns = np.concatenate([calibration.columns for calibration in found.values()], axis=1)
    sums = np.split(exams.resampled_sums(columns, resamples, seed), len(found), axis=1)
    return {
        method: calibration.statistics(part, independent=exams.independent, confidence=confidence)
        for (method, calibration), part in zip(found.items(), sums, strict=True)
    }


def _recalibrations(predictions: pd.DataFrame) -> dict[str, dict[str, Recalibration]]:
    """Model -> method -> recalibration, without those that cannot be fitted."""
    validation = validation_exams(predictions)
    fitted: dict[str, dict[str, Recalibration]] = {}
    for model in predictions["model"].unique():
        fitted[model] = {UNCHANGED: unchanged}
        if model in validation:
            exams = validation[model]
            fitted[model] = fit_recalibrations(exams["target"], exams["probability"])
    return fitted


def _intercept(y: NDArray[np.float64], x: NDArray[np.float64]) -> float:
    """The maximum-likelihood intercept of a logistic regression with the offset `x`."""
    # Were every offset the largest, or the smallest, this is where the root would be.
    centre = float(logit(y.mean()))
    ends = centre - float(x.max()) - 1, centre - float(x.min()) + 1
    return float(brentq(lambda a: float((expit(a + x) - y).sum()), *ends))
