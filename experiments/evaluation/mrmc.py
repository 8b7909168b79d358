"""Multi-reader multi-case (MRMC) analysis: Obuchowski and Rockette's, with Hillis' corrections.

Every reader reads every case in every arm (a fully crossed design). Each reader's figure in each
arm varies with the reader and with the cases; the analysis separates the two, so that a difference
between arms can be claimed for other readers and other cases.

Sources: Obuchowski & Rockette, Commun Stat Simul Comput 1995;24:285 (the model); Hillis, Stat Med
2007;26:596 (the denominator's degrees of freedom); Hillis, Obuchowski & Berbaum, Acad Radiol
2011;18:129 (power).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2, f, ncf, t

from experiments.evaluation.auroc import NOT_ESTIMABLE, placements

# the classes that a metric cannot do without
NEEDED: dict[str, tuple[bool, ...]] = {
    "accuracy": (),
    "sensitivity": (True,),
    "specificity": (False,),
    "auroc": (True, False),
}
METRICS = tuple(NEEDED)
BOTH_RANDOM = "random readers and cases"
RANDOM_CASES = "these readers, random cases"
RANDOM_READERS = "random readers, these cases"
COVARIANCES = ("jackknife", "DeLong")

_ROUNDING = 1e-12  # a mean square below this is 0
_NORMAL = 1e9  # degrees of freedom that stand for infinitely many, which scipy's F does not take


@dataclass(frozen=True, slots=True)
class Components:
    """What a reader's figure varies with, in a study of `cases` cases.

    `reader` and `arm_reader` are the variances of the readers' own figures, and of how differently
    they take to the arms; estimates may be negative. `error` is the variance that the cases (and a
    second reading) cause; `cov1` is its covariance between arms of one reader, `cov2` between
    readers in one arm, `cov3` between readers in different arms.
    """

    reader: float
    arm_reader: float
    error: float
    cov1: float
    cov2: float
    cov3: float
    cases: int


@dataclass(frozen=True, slots=True)
class MRMC:
    """The result of `obuchowski_rockette`.

    - values: each reader's figure, [arms, readers].
    - tests: a row an analysis, with `f`, `df1`, `df2` and `p` of the test that all arms are alike.
    - differences: a row an analysis and pair of arms, the later minus the earlier: `arm_a`,
      `arm_b`, `difference`, `error`, `df`, `low`, `high`, `p`. Intervals and p-values are those of
      a single pair.
    - arms: a row an analysis and arm: `arm`, `mean`, `error`, `df`, `low`, `high`, each from that
      arm's readings alone.

    Arms are numbered from 0; df is infinite where the normal distribution is used. NaN where the
    mean square of the error is 0, for then nothing tells how much the arms vary.
    """

    values: NDArray[np.float64]
    components: Components
    tests: pd.DataFrame
    differences: pd.DataFrame
    arms: pd.DataFrame


def obuchowski_rockette(
    ratings: ArrayLike,
    truth: ArrayLike,
    *,
    metric: str,
    threshold: float = 0.5,
    confidence: float,
    covariance: str = "jackknife",
) -> MRMC:
    """Compare arms by `metric` over readers and cases; ratings [arms, readers, cases], truth 0/1.

    A case is called positive where its rating >= `threshold`, which the AUROC does not use.
    Three analyses, of I arms and J readers, MS being the mean squares of the readers' figures:

    - "random readers and cases", for other readers and other cases: F = MS(arms) / E with
      E = MS(arms x readers) + J max(cov2 - cov3, 0), on I - 1 and
      E^2 / (MS(arms x readers)^2 / ((I - 1)(J - 1))) degrees of freedom.
    - "these readers, random cases": (I - 1) MS(arms) / E against chi-squared with I - 1 degrees,
      E = error - cov1 + (J - 1) max(cov2 - cov3, 0).
    - "random readers, these cases": F = MS(arms) / MS(arms x readers) on I - 1 and (I - 1)(J - 1)
      degrees; with two arms the paired t-test over readers.

    An interval of a difference has the standard error sqrt(2 E / J), one of an arm's mean
    sqrt(E / J) with that arm's own mean square and covariance; it is cut off at 0 and 1.

    Covariances: "jackknife" leaves out a case at a time; "DeLong" takes those of the cases'
    structural components (DeLong et al., Biometrics 1988;44:837), which for shares of right calls
    are the binomial ones. ValueError where `is_estimable` says no.
    """
    cube, labels = _checked(ratings, truth)
    if not is_estimable(labels, readers=cube.shape[1], metric=metric):
        raise ValueError(f"the {metric} of {cube.shape[1]} reader(s) is {NOT_ESTIMABLE} here")
    parts = _parts(cube, labels, metric, threshold)
    values = _value(parts)
    covariances = _covariances(parts, labels.size, covariance)
    arms, readers = values.shape

    squares = _mean_squares(values)
    own, between = _component_means(covariances)
    shared = max(between["cov2"] - between["cov3"], 0.0)
    components = Components(
        reader=(squares["readers"] - squares["both"]) / arms - between["cov1"] + between["cov3"],
        arm_reader=squares["both"] - own + between["cov1"] + shared,
        error=own,
        **between,
        cases=labels.size,
    )

    degrees = (arms - 1) * (readers - 1)
    errors = _errors(squares["both"], degrees, readers, own - between["cov1"], shared)
    tests = [
        {"analysis": analysis} | _test(squares["arms"], error, arms - 1, df)
        for analysis, (error, df) in errors.items()
    ]
    means = values.mean(axis=1)
    differences = [
        {"analysis": analysis, "arm_a": a, "arm_b": b, "difference": means[b] - means[a]}
        | _interval(means[b] - means[a], np.sqrt(2 * error / readers), df, confidence)
        for analysis, (error, df) in errors.items()
        for a, b in combinations(range(arms), 2)
    ]
    rows = []
    for arm in range(arms):
        within = covariances[arm, :, arm, :]
        variance = float(np.trace(within)) / readers
        shared_within = max((within.sum() - np.trace(within)) / (readers * (readers - 1)), 0.0)
        square = float(values[arm].var(ddof=1))
        for analysis, (error, df) in _errors(
            square, readers - 1, readers, variance, shared_within
        ).items():
            row = _interval(means[arm], np.sqrt(error / readers), df, confidence)
            row |= {"low": max(row["low"], 0.0), "high": min(row["high"], 1.0)}
            rows.append({"analysis": analysis, "arm": arm, "mean": means[arm]} | row)
    return MRMC(
        values,
        components,
        pd.DataFrame(tests),
        pd.DataFrame(differences),
        pd.DataFrame(rows).drop(columns="p"),
    )


def is_estimable(truth: ArrayLike, *, readers: int, metric: str) -> bool:
    """Whether there are two readers, and two cases of each class that the metric is made of."""
    labels = np.asarray(truth).astype(bool)
    cases = [int((labels == wanted).sum()) for wanted in NEEDED[metric]]
    return readers >= 2 and min(cases, default=labels.size) >= 2


def reader_values(
    ratings: ArrayLike, truth: ArrayLike, *, metric: str, threshold: float = 0.5
) -> NDArray[np.float64]:
    """Each reader's figure [arms, readers] from ratings [arms, readers, cases]; NaN where a class
    that it needs has no case."""
    cube, labels = _checked(ratings, truth)
    if not np.isin(NEEDED[metric], labels).all():
        return np.full(cube.shape[:2], np.nan)
    return _value(_parts(cube, labels, metric, threshold))


def power(
    readers: ArrayLike,
    cases: ArrayLike,
    difference: float,
    components: Components,
    *,
    alpha: float,
) -> NDArray[np.float64]:
    """The chance that two arms which truly differ by `difference` are told apart at level `alpha`.

    `readers` and `cases` are numbers or arrays that broadcast. The planned study is analysed with
    readers and cases random, and has the pilot's share of positive cases: error and covariances
    shrink with 1 / cases. With J readers the F statistic has the noncentrality J difference^2 / 2E
    and the degrees of freedom of `obuchowski_rockette` at the expected mean squares
    (Hillis, Obuchowski & Berbaum 2011); negative variances count as 0.
    """
    number = np.asarray(readers, dtype=np.float64)
    scale = components.cases / np.asarray(cases, dtype=np.float64)
    shared = max(components.cov2 - components.cov3, 0.0)
    own = components.error - components.cov1
    arm_reader = max(components.arm_reader, 0.0)
    square = arm_reader + scale * max(own - shared, 0.0)
    error = square + scale * number * shared
    with np.errstate(divide="ignore", invalid="ignore"):
        df = np.minimum(error**2 / square**2 * (number - 1), _NORMAL)
        noncentrality = number * difference**2 / (2 * error)
        # not ncf.sf, which is wrong where the noncentrality is 0
        return np.asarray(1 - ncf.cdf(f.ppf(1 - alpha, 1, df), 1, df, noncentrality))


def sample_size(
    difference: float,
    components: Components,
    *,
    readers: Iterable[int],
    wanted_power: float,
    alpha: float,
    max_cases: int,
) -> pd.DataFrame:
    """For each number of readers the fewest cases with the wanted power: readers, cases, power.

    Where `max_cases` do not suffice, cases is missing (<NA>) and power is what they reach.
    """
    cases = np.arange(2, max_cases + 1)
    rows = []
    for number in readers:
        reached = power(number, cases, difference, components, alpha=alpha)
        enough = np.flatnonzero(reached >= wanted_power)
        first = enough[0] if enough.size else -1
        rows.append((number, cases[first] if enough.size else pd.NA, reached[first]))
    table = pd.DataFrame(rows, columns=["readers", "cases", "power"])
    return table.astype({"cases": "Int64"})


Part = tuple[NDArray[np.float64], NDArray[np.bool_]]


def _checked(ratings: ArrayLike, truth: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    cube, labels = np.asarray(ratings, dtype=np.float64), np.asarray(truth)
    if cube.ndim != 3 or len(cube) < 2 or labels.shape != cube.shape[2:]:
        raise ValueError(f"ratings {cube.shape} must be [arms, readers, {labels.shape}]")
    if not np.isin(labels, (0, 1)).all() or np.isnan(cube).any():
        raise ValueError("a truth is 0 or 1, and a rating a number")
    return cube, labels.astype(bool)


def _parts(
    cube: NDArray[np.float64], labels: NDArray[np.bool_], metric: str, threshold: float
) -> list[Part]:
    """Components [arms, readers, cases of the part] whose mean is the metric, and which cases
    these are [cases]; two parts for the AUROC, either of which has it as its mean."""
    if metric == "auroc":
        pairs = [[placements(labels, scores) for scores in arm] for arm in cube]
        positive, negative = (
            np.array([[pair[side] for pair in arm] for arm in pairs]) for side in (0, 1)
        )
        return [(positive, labels), (negative, ~labels)]
    counted = {
        "accuracy": np.ones_like(labels),
        "sensitivity": labels,
        "specificity": ~labels,
    }[metric]
    right = ((cube >= threshold) == labels).astype(np.float64)
    return [(right[..., counted], counted)]


def _value(parts: list[Part]) -> NDArray[np.float64]:
    return np.asarray(parts[0][0].mean(axis=-1))


def _covariances(parts: list[Part], cases: int, method: str) -> NDArray[np.float64]:
    """Covariances of the readers' figures that the cases cause, [arms, readers, arms, readers]."""
    shape = parts[0][0].shape[:2]
    if method == "DeLong":
        matrix = sum(np.cov(part.reshape(-1, part.shape[-1])) / part.shape[-1] for part, _ in parts)
        return np.asarray(matrix).reshape(*shape, *shape)
    if method != "jackknife":
        raise ValueError(f"covariances are of {' or '.join(COVARIANCES)}, not {method!r}")
    value = _value(parts)[..., None]
    without_case = np.repeat(value, cases, axis=-1)
    for part, where in parts:
        without_case[..., where] = (part.shape[-1] * value - part) / (part.shape[-1] - 1)
    matrix = (cases - 1) * np.cov(without_case.reshape(-1, cases), ddof=0)
    return matrix.reshape(*shape, *shape)


def _mean_squares(values: NDArray[np.float64]) -> dict[str, float]:
    """Of a two-way analysis of variance of values [arms, readers] without replication."""
    arms, readers = values.shape
    of_arm, of_reader, grand = values.mean(axis=1), values.mean(axis=0), values.mean()
    both = values - of_arm[:, None] - of_reader + grand
    return {
        "arms": readers * float(of_arm.var(ddof=1)),
        "readers": arms * float(of_reader.var(ddof=1)),
        "both": float((both**2).sum()) / ((arms - 1) * (readers - 1)),
    }


def _component_means(covariances: NDArray[np.float64]) -> tuple[float, dict[str, float]]:
    """The error variance, and the three covariances."""
    arms, readers = covariances.shape[:2]
    same_arm = np.eye(arms, dtype=bool)[:, None, :, None]
    same_reader = np.eye(readers, dtype=bool)[None, :, None, :]

    def mean(of: NDArray[np.bool_]) -> float:
        return float(covariances[np.broadcast_to(of, covariances.shape)].mean())

    return mean(same_arm & same_reader), {
        "cov1": mean(~same_arm & same_reader),
        "cov2": mean(same_arm & ~same_reader),
        "cov3": mean(~same_arm & ~same_reader),
    }


def _errors(
    square: float, degrees: int, readers: int, own: float, shared: float
) -> dict[str, tuple[float, float]]:
    """The error's mean square and its degrees of freedom in each analysis.

    `square` is the mean square over readers and has `degrees`; `own` is the variance that the
    cases cause in one reader's figure, `shared` its covariance between readers.
    """
    both = square + readers * shared
    return {
        BOTH_RANDOM: (both, (both / square) ** 2 * degrees if square > _ROUNDING else np.inf),
        RANDOM_CASES: (max(own, 0.0) + (readers - 1) * shared, np.inf),
        RANDOM_READERS: (square, degrees),
    }


def _test(square: float, error: float, df1: int, df2: float) -> dict[str, Any]:
    if error <= _ROUNDING:
        return {"f": np.nan, "df1": df1, "df2": df2, "p": np.nan}
    statistic = square / error
    p = chi2.sf(df1 * statistic, df1) if np.isinf(df2) else f.sf(statistic, df1, df2)
    return {"f": statistic, "df1": df1, "df2": df2, "p": float(p)}


def _interval(value: float, error: float, df: float, confidence: float) -> dict[str, float]:
    if not error**2 > _ROUNDING:
        return {"error": np.nan, "df": df, "low": np.nan, "high": np.nan, "p": np.nan}
    half_width = t.ppf((1 + confidence) / 2, df) * error
    return {
        "error": error,
        "df": df,
        "low": value - half_width,
        "high": value + half_width,
        "p": float(2 * t.sf(abs(value) / error, df)),
    }
