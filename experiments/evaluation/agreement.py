"""How a model's estimates of a number agree with what was measured.

An error is estimate - truth. With y the truth, e the estimate and d the error of each of n exams:

- `mae`, mean |d|, and `rmse`, the root of mean d^2, in the truth's unit;
- `bias`, mean d, and the 95 % limits of agreement, bias -/+ 1.96 s (Bland & Altman, Lancet
  1986;1:307). Where some patients have several exams s^2 is the sum of the variances between and
  within patients, from a one-way analysis of variance of d with unequal numbers (Bland & Altman,
  J Biopharm Stat 2007;17:571, "true value varies"; a negative variance between is 0);
- `r2`, 1 - sum d^2 / sum (y - mean y)^2: below 0 where the mean of these exams' own truths would
  be nearer;
- `slope` and `intercept` of y on e by least squares, ideally 1 and 0. Calibration in the large,
  the intercept at a slope of 1, is -bias.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2, norm, t

from experiments.evaluation.auroc import CLUSTERED, NOT_ESTIMABLE
from experiments.evaluation.bootstrap import clusters, resampled_sums
from experiments.evaluation.comparison import LEAST as LEAST_OF
from experiments.evaluation.comparison import Pair, paired
from experiments.evaluation.heterogeneity import Scale, pooled_institutions
from experiments.evaluation.sets import PatientExams, tested_exams
from experiments.evaluation.subgroups import Measured, Scales, grouped, largest_gaps
from experiments.evaluation.summary import plain_rows

STATISTICS = ("mae", "rmse", "bias", "lower_limit", "upper_limit", "r2", "slope", "intercept")
CLOSED_FORM = "closed form"
PAIRED_T = "paired t"
LEAST = {PAIRED_T: 5, CLUSTERED: LEAST_OF[CLUSTERED]}  # patients that a test needs
COLUMNS = (
    "label", "model", "institution", "role", "n", "patients",
    *(name + end for name in STATISTICS for end in ("", "_low", "_high")), "method",
)  # fmt: skip
COMPARISON_COLUMNS = (
    "label", "institution", "model_a", "model_b", "role", "n", "left_out", "mae_a", "mae_b",
    "difference", "difference_low", "difference_high", "t", "p", "p_holm", "method",
)  # fmt: skip
SUBGROUP_COLUMNS = (
    "label", "model", "institution", "variable", "group", "n", "patients",
    *(name + end for name in ("mae", "bias") for end in ("", "_low", "_high")), "method",
)  # fmt: skip

_Z = float(norm.ppf(0.975))  # of the limits of agreement, whatever the intervals' confidence
_FIGURES = ("mae_a", "mae_b", "difference", "difference_low", "difference_high", "t", "p")
_ROUNDING = 1e-12  # of the largest number: differences below it are rounding
# the scale on which a statistic is closest to normal, and back
_SCALES: dict[str, Scale] = {
    "mae": (np.log, np.exp),
    "rmse": (np.log, np.exp),
    "r2": (lambda r2: -np.log1p(-r2), lambda scaled: -np.expm1(-scaled)),
}
_AS_IT_IS: Scale = (np.asarray, np.asarray)


def agreement(
    truth: ArrayLike,
    estimate: ArrayLike,
    patient: ArrayLike | None = None,
    *,
    confidence: float,
    resamples: int,
    seed: int,
    strata: ArrayLike | None = None,
) -> dict[str, Any]:
    """The STATISTICS of `estimate` [n] for `truth` [n], each with `_low` and `_high`, and `method`.

    - One exam a patient (or no `patient` given), a closed form: Student's interval of bias, and by
      the delta method of log mae and log (1 - r2). The limits of agreement have the MOVER of Zou
      (Stat Methods Med Res 2013;22:630), which puts together the interval of bias and that of s by
      chi-squared. As errors are seldom normal, s^2 has the degrees of freedom that the kurtosis of
      d leaves (n - 1 at most; Box, Biometrika 1953;40:318), and the skewness of d tells how s and
      bias go together; so has rmse by chi-squared. Slope and intercept have the variance HC3 of
      MacKinnon & White (J Econometrics 1985;29:305), with n - 2 degrees of freedom.
    - Several exams for some patient: the same with standard errors, and what goes together, from a
      bootstrap of whole patients (within `strata`, the institutions of a pooled estimate), and with
      one degree of freedom fewer than there are patients, slope and intercept too.

    NaN is what is not estimable: everything with fewer than two patients; slope and intercept with
    fewer than three, or a constant estimate; r2 of a constant truth; and an interval where nothing
    tells how much a statistic varies, as of a model without error.

    ValueError where the two are not [n], alike, finite and not empty.

    Coverage of the 95 % intervals in simulations (true LVEF a mixture of two normals; errors
    normal, or t with 5 degrees of freedom, or of estimates that are shrunk towards the mean):

    - 10 to 200 exams of a patient each: bias 94 to 96 %, mae 93 to 95, the limits 95 to 96 where
      errors are normal and 89 to 96 where not (without the kurtosis 83), rmse 89 to 96, slope and
      intercept 91 to 96, r2 85 of 10 exams, 89 to 92 of 20, and 91 to 96 from 50 on.
    - 10 to 200 patients of 1 to 5 exams: bias 91 to 96 %, mae 89 to 96, the limits 92 to 99, rmse
      95 to 99, slope and intercept 88 to 96, r2 85 to 97, the lowest of them with 10 patients.
    """
    y, e = (np.asarray(values, dtype=np.float64) for values in (truth, estimate))
    if y.ndim != 1 or y.shape != e.shape or not y.size:
        raise ValueError(f"truth {y.shape} and estimate {e.shape} must be [n], alike, not empty")
    if not (np.isfinite(y).all() and np.isfinite(e).all()):
        raise ValueError("truth and estimate must be finite")
    cluster, sizes = clusters(np.arange(y.size) if patient is None else patient, strata, y.size)
    return _agreement(y, e, cluster, sizes, confidence=confidence, resamples=resamples, seed=seed)


def agreement_of(exams: PatientExams, **settings: Any) -> dict[str, Any]:
    """`agreement` of a test set of checked estimates, and how many `patients` it has."""
    truth, estimate = (exams.exams[name].to_numpy() for name in ("truth", "estimate"))
    patients = {"patients": int(exams.stratum_sizes.sum())}
    return patients | _agreement(truth, estimate, exams.cluster, exams.stratum_sizes, **settings)


def summarise_estimates(
    predictions: pd.DataFrame, *, confidence: float, resamples: int, seed: int
) -> pd.DataFrame:
    """A row a model and institution with the columns COLUMNS, from a checked table of one label.

    Rows and roles are those of `summarise`, the figures those of `agreement`.
    """
    settings = {"confidence": confidence, "resamples": resamples, "seed": seed}
    rows = [exams.row | agreement_of(exams, **settings) for exams in tested_exams(predictions)]
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(_float(STATISTICS))
    return table.assign(label=str(predictions["label"].iloc[0]))


def estimates_json(summary: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of `summarise_estimates` as plain values; None where not estimable."""
    return plain_rows(summary, COLUMNS[:-1])


def pooled_errors(summary: pd.DataFrame, statistic: str, *, confidence: float) -> pd.DataFrame:
    """A row a model: `mae` or `bias` of its external institutions, pooled by random effects.

    As `pooled_aurocs`, with the columns named by `statistic`; mae is pooled on the logarithmic
    scale. The standard errors are those of the summary's intervals, which have Student's quantile
    with one degree of freedom fewer than the institution has patients. An institution whose
    interval is not estimable is left out.
    """
    quantile = t.ppf((1 + confidence) / 2, np.maximum(summary["patients"] - 1, 1))
    table = pooled_institutions(
        summary,
        statistic,
        _SCALES.get(statistic, _AS_IT_IS),
        pd.Series(quantile, summary.index),
        confidence=confidence,
    )
    table.insert(0, "label", summary["label"].iloc[0])
    return table


def compare_errors(
    predictions: pd.DataFrame,
    *,
    pairs: Iterable[Pair] | None = None,
    confidence: float,
    resamples: int,
    seed: int,
) -> pd.DataFrame:
    """A row a pair of models and institution, with the columns COMPARISON_COLUMNS.

    Pairs, exams, roles, `left_out` and Holm's families are those of `compare`; `difference` is
    mae_a - mae_b.

    - One exam a patient: the paired t test of the two models' absolute errors.
    - Several exams for some patient: both models on the same resamples of patients; the standard
      error is the standard deviation of the resampled differences, with Student's distribution for
      one degree of freedom fewer than there are patients.
    - Models with the same absolute error in every exam differ by exactly 0: t is 0 and p is 1.
      Others whose difference does not vary, and those with fewer than LEAST patients, have no
      interval and no p; with fewer than two patients nothing is estimable.

    InputError as of `compare`, the truth standing for the target.
    """
    tests = partial(_tests, confidence=confidence, resamples=resamples, seed=seed)
    table = paired(
        predictions, tests, COMPARISON_COLUMNS, pairs=pairs, truth="truth", score="estimate"
    )
    numbers = dict.fromkeys((*_FIGURES, "p_holm"), "float64")
    return table.astype(numbers).assign(label=str(predictions["label"].iloc[0]))


def comparisons_json(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of `compare_errors` as plain values; None where not estimable."""
    return plain_rows(table, COMPARISON_COLUMNS)


def threshold_predictions(
    predictions: pd.DataFrame, thresholds: Sequence[float]
) -> dict[str, pd.DataFrame]:
    """What each threshold on the truth makes of estimates: `label < threshold` -> predictions of a
    class, positive where the truth is below it.

    The score (`logit` and, for what ranks exams by it, `probability`) is the negative estimate: it
    orders exams and is no probability. For `summarise`, `compare` and `pooled_aurocs` only.
    """
    tables = {}
    for threshold in thresholds:
        score = -predictions["estimate"]
        table = predictions.drop(columns=["truth", "estimate"]).assign(
            label=predictions["label"] + f" < {threshold:g}",
            target=(predictions["truth"] < threshold).astype("int64"),
            logit=score,
            probability=score,
        )
        tables[f"{predictions['label'].iloc[0]} < {threshold:g}"] = table
    return tables


def binned_means(truth: ArrayLike, estimate: ArrayLike, *, bins: int = 10) -> pd.DataFrame:
    """Means of `estimate` and `truth` in equal shares of the exams by estimate, and their `n`.

    Exams with the same estimate stay together, so there may be fewer than `bins`.
    """
    table = pd.DataFrame({"estimate": np.asarray(estimate), "truth": np.asarray(truth)})
    group = pd.qcut(table["estimate"], bins, labels=False, duplicates="drop").fillna(0)
    means = table.groupby(group)[["estimate", "truth"]].mean()
    return means.assign(n=table.groupby(group).size()).reset_index(drop=True)


def error_subgroups(
    predictions: pd.DataFrame, groups: pd.DataFrame, *, confidence: float, resamples: int, seed: int
) -> pd.DataFrame:
    """`subgroup_table` of estimates: mae and bias of all external exams by subgroup, with the
    columns SUBGROUP_COLUMNS.
    """
    measured: Measured = partial(
        agreement_of, confidence=confidence, resamples=resamples, seed=seed
    )
    rows = grouped(predictions, groups, measured)
    table = pd.DataFrame(rows, columns=list(SUBGROUP_COLUMNS)).astype(_float(("mae", "bias")))
    return table.assign(label=str(predictions["label"].iloc[0]))


def error_gaps(table: pd.DataFrame, *, confidence: float) -> pd.DataFrame:
    """`largest_gaps` of `error_subgroups`, by one degree of freedom fewer than a subgroup has
    patients.
    """
    scales: Scales = {"mae": np.log, "bias": np.asarray}
    freedom = table["patients"] - 1
    return largest_gaps(table, confidence=confidence, scales=scales, freedom=freedom)


def _float(statistics: Sequence[str]) -> dict[str, str]:
    return {name + end: "float64" for name in statistics for end in ("", "_low", "_high")}


def _agreement(
    y: NDArray[np.float64],
    e: NDArray[np.float64],
    cluster: NDArray[np.integer],
    stratum_sizes: NDArray[np.integer],
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    patients = int(stratum_sizes.sum())
    row: dict[str, Any] = dict.fromkeys(_float(STATISTICS), np.nan)
    if patients < 2:
        return row | {"method": NOT_ESTIMABLE}
    independent = patients == y.size
    centre = float(y.mean())  # sums of squares would cancel far from 0
    columns = _columns(y - centre, e - centre, cluster)
    values = _statistics(columns.sum(axis=0), centre)
    least = _ROUNDING * max(np.abs(y).max(), np.abs(e).max())
    if np.ptp(y) <= least:
        values["r2"] = np.asarray(np.nan)
    if patients < 3 or np.ptp(e) <= least:
        values["slope"] = values["intercept"] = np.asarray(np.nan)
    varies = dict.fromkeys(STATISTICS, np.ptp(e - y) > least)
    varies["mae"] = varies["rmse"] = np.ptp(np.abs(e - y)) > least
    varies["r2"] = values["rmse"] > least
    residual = y - e * values["slope"]
    varies["slope"] = varies["intercept"] = np.ptp(residual) > least
    if independent:
        bounds = _closed_form(y - centre, e - centre, values, centre, confidence)
    else:
        sums = resampled_sums(columns, cluster, stratum_sizes, resamples, seed)
        bounds = _bootstrapped(values, _statistics(sums, centre), patients, confidence)
    for name, value in values.items():
        low, high = bounds.get(name, (np.nan, np.nan)) if varies[name] else (np.nan, np.nan)
        row |= {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}
    return row | {"method": CLOSED_FORM if independent else CLUSTERED}


def _columns(
    y: NDArray[np.float64], e: NDArray[np.float64], cluster: NDArray[np.integer]
) -> NDArray[np.float64]:
    """[n, 12] what `_statistics` needs the sums of over any exams of whole patients."""
    d = e - y
    exams = np.bincount(cluster).astype(np.float64)[cluster]  # of the exam's patient
    mean = (np.bincount(cluster, weights=d) / np.bincount(cluster))[cluster]
    ones = np.ones(y.size)
    return np.column_stack(
        [ones, np.abs(d), d, d**2, y, y**2, e, e**2, y * e, mean**2, exams, 1 / exams]
    )


def _statistics(sums: NDArray[np.float64], centre: float) -> dict[str, NDArray[np.float64]]:
    """The STATISTICS from sums [..., 12] of `_columns`, of numbers less `centre`."""
    n, absolute, d, d2, y, y2, e, e2, ye, between, exams, patients = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        bias = d / n
        within = np.where(n > patients, (d2 - between) / (n - patients), 0.0)
        mean_square = (between - d**2 / n) / (patients - 1)
        per_patient = (n - exams / n) / (patients - 1)
        variance = np.maximum(mean_square - within, 0) / per_patient + np.maximum(within, 0)
        half = _Z * np.sqrt(variance)
        slope = (ye - y * e / n) / (e2 - e**2 / n)
        intercept = (y - slope * e) / n + centre * (1 - slope)
        r2 = 1 - d2 / (y2 - y**2 / n)
    return {
        "mae": absolute / n,
        "rmse": np.sqrt(d2 / n),
        "bias": bias,
        "lower_limit": bias - half,
        "upper_limit": bias + half,
        "r2": r2,
        "slope": slope,
        "intercept": intercept,
    }


Bounds = dict[str, tuple[Any, Any]]


def _closed_form(
    y: NDArray[np.float64],
    e: NDArray[np.float64],
    values: Mapping[str, Any],
    centre: float,
    confidence: float,
) -> Bounds:
    """The intervals of independent exams, of numbers less `centre`."""
    d, n, tail = e - y, y.size, (1 + confidence) / 2
    z, squares = d - d.mean(), d**2
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = {  # standard deviations of what each exam adds, on the scales
            "mae": np.std(np.abs(d), ddof=1) / values["mae"],
            "rmse": np.std(squares, ddof=1) / (2 * squares.mean()),
            "bias": np.std(d, ddof=1),
            "r2": np.std(squares / squares.mean() - (y - y.mean()) ** 2 / y.var(), ddof=1),
        }
        # of s by its kurtosis, and the correlation of mean and s by the skewness
        excess, together = 0.0, 0.0
        if n > 3:
            fourth = n * (n + 1) / ((n - 1) * (n - 2) * (n - 3)) * (z**4).sum() / z.var(ddof=1) ** 2
            excess = fourth - 3 * (n - 1) ** 2 / ((n - 2) * (n - 3))
            skew, kurtosis = (z**3).mean() / z.var() ** 1.5, (z**4).mean() / z.var() ** 2
            together = skew / np.sqrt(kurtosis - 1)
    freedom = (n - 1) / max(1 + excess / 2, 1)
    of = {name: float(error / np.sqrt(n)) for name, error in errors.items()}
    bounds = _bounds(values, of, freedom, float(np.nan_to_num(together)), n, confidence)
    if np.isfinite(values["slope"]):
        of_slope, of_intercept = _line_errors(y, e, float(values["slope"]), centre)
        quantile = t.ppf(tail, n - 2)
        bounds["slope"] = _around("slope", values["slope"], quantile * of_slope)
        bounds["intercept"] = _around("intercept", values["intercept"], quantile * of_intercept)
    return bounds


def _bounds(
    values: Mapping[str, Any],
    errors: Mapping[str, float],
    freedom: float,
    together: float,
    patients: int,
    confidence: float,
) -> Bounds:
    """Intervals from standard errors on the statistics' scales.

    `freedom`: the degrees of freedom that s^2 is known with; `together`: the correlation of s with
    the bias.
    """
    tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    quantile = float(t.ppf(tails[1], patients - 1))
    bounds = {name: _around(name, values[name], quantile * error) for name, error in errors.items()}
    if errors["rmse"] > 0:
        known = min(0.5 / errors["rmse"] ** 2, patients)
        low, high = values["rmse"] * np.sqrt(known / chi2.ppf(tails[::-1], known))
        bounds["rmse"] = min(low, values["rmse"]), high
    bias, upper = values["bias"], values["upper_limit"]
    spread, half = upper - bias, quantile * errors["bias"]
    narrow, wide = np.abs(np.sqrt(freedom / chi2.ppf(tails[::-1], freedom)) - 1) * spread
    for name, sign, inner, outer in (
        ("lower_limit", -1, wide, narrow),
        ("upper_limit", 1, narrow, wide),
    ):
        below, above = (
            np.sqrt(max(half**2 + of_s**2 + sign * 2 * together * half * of_s, 0.0))
            for of_s in (inner, outer)
        )
        bounds[name] = values[name] - below, values[name] + above
    return bounds


def _line_errors(
    y: NDArray[np.float64], e: NDArray[np.float64], slope: float, centre: float
) -> tuple[float, float]:
    """HC3 standard errors of slope and intercept."""
    x = e - e.mean()
    squares = (x**2).sum()
    leverage = 1 / y.size + x**2 / squares
    with np.errstate(divide="ignore", invalid="ignore"):
        residual = (y - y.mean() - slope * x) / (1 - leverage)
    of_slope = residual * x / squares
    of_intercept = residual / y.size - (e.mean() + centre) * of_slope
    return float(np.sqrt((of_slope**2).sum())), float(np.sqrt((of_intercept**2).sum()))


def _bootstrapped(
    values: Mapping[str, Any],
    resampled: Mapping[str, NDArray[np.float64]],
    patients: int,
    confidence: float,
) -> Bounds:
    errors = {}
    for name in STATISTICS:
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = _SCALES.get(name, _AS_IT_IS)[0](resampled[name])
        scaled = scaled[np.isfinite(scaled)]  # others were of one patient, or of none that varies
        errors[name] = float(np.std(scaled, ddof=1)) if scaled.size > 1 else np.nan
    bias = resampled["bias"]
    spread = resampled["upper_limit"] - bias
    known = np.isfinite(spread)
    freedom, together = float(patients - 1), 0.0
    if np.ptp(spread[known]) > 0 and np.ptp(bias[known]) > 0:
        share = np.std(spread[known], ddof=1) / (values["upper_limit"] - values["bias"])
        freedom = min(freedom, 0.5 / float(share) ** 2)
        together = float(np.corrcoef(spread[known], bias[known])[0, 1])
    return _bounds(values, errors, freedom, together, patients, confidence)


def _around(name: str, value: Any, half: Any) -> tuple[Any, Any]:
    """`half` to either side, on the scale of the statistic."""
    there, back = _SCALES.get(name, _AS_IT_IS)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return back(there(value) - half), back(there(value) + half)


def _tests(
    exams: pd.DataFrame,
    scores: pd.DataFrame,
    pairs: list[Pair],
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """The test of each of `pairs`, whose models have all of these exams."""
    truth = exams["truth"].to_numpy()
    models = list(dict.fromkeys(model for pair in pairs for model in pair))
    errors = np.abs(scores[models].to_numpy() - truth[:, None])
    cluster, sizes = clusters(exams["patient"], exams["stratum"], len(exams))
    n, patients = len(exams), int(sizes.sum())
    method = PAIRED_T if patients == n else CLUSTERED
    if patients < 2:
        yield from [dict.fromkeys(_FIGURES, np.nan) | {"method": NOT_ESTIMABLE}] * len(pairs)
        return
    if method == CLUSTERED:
        columns = np.column_stack([errors, np.ones(n)])
        sums = resampled_sums(columns, cluster, sizes, resamples, seed)
        resampled = sums[:, :-1] / sums[:, -1:]
    for pair in pairs:
        a, b = (models.index(model) for model in pair)
        each = errors[:, a] - errors[:, b]
        mae_a, mae_b = errors[:, a].mean(), errors[:, b].mean()
        test: dict[str, Any] = {"mae_a": mae_a, "mae_b": mae_b, "difference": each.mean()}
        least = _ROUNDING * max(np.abs(truth).max(), errors.max())
        if np.abs(each).max() <= least:
            told = {"difference": 0.0, "difference_low": 0.0, "difference_high": 0.0}
            yield test | told | {"t": 0.0, "p": 1.0, "method": method}
        elif np.ptp(each) <= least or patients < LEAST[method]:
            yield test | dict.fromkeys(_FIGURES[3:], np.nan) | {"method": NOT_ESTIMABLE}
        else:
            error = np.std(each, ddof=1) / np.sqrt(n)
            if method == CLUSTERED:
                error = np.std(resampled[:, a] - resampled[:, b], ddof=1)
            half = t.ppf((1 + confidence) / 2, patients - 1) * error
            statistic = test["difference"] / error
            yield test | {
                "difference_low": test["difference"] - half,
                "difference_high": test["difference"] + half,
                "t": statistic,
                "p": 2 * t.sf(abs(statistic), patients - 1),
                "method": method,
            }
