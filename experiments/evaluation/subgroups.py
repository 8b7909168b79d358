"""Whether a model serves all patients alike: AUROC and calibration by subgroup."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import logit
from scipy.stats import f, norm, t

from datamodules.errors import InputError, listing
from experiments.evaluation.calibration import calibration_of
from experiments.evaluation.heterogeneity import pool
from experiments.evaluation.predictions import ALL_EXTERNAL, EXAM, EXTERNAL, POOLED
from experiments.evaluation.sets import PatientExams, numbered, patient_exams, with_class
from experiments.evaluation.summary import auroc_of

Measured = Callable[[PatientExams], dict[str, Any]]
Scales = Mapping[str, Callable[[Any], Any]]

MISSING = "not recorded"
STATISTICS = ("auroc", "slope", "intercept", "observed_expected")
COLUMNS = (
    "model", "institution", "variable", "group", "n", "positives",
    *(name + end for name in STATISTICS for end in ("", "_low", "_high")), "method",
)  # fmt: skip
GAP_COLUMNS = (
    "model", "institution", "variable", "statistic", "group_a", "group_b", "gap", "gap_low",
    "gap_high", "groups", "q_p",
)  # fmt: skip

# the scale on which a statistic is closest to normal
_SCALES: Scales = {
    "auroc": logit,
    "slope": np.asarray,
    "intercept": np.asarray,
    "observed_expected": np.log,
}


def subgroup_table(
    predictions: pd.DataFrame,
    groups: pd.DataFrame,
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> pd.DataFrame:
    """A row a model, variable and subgroup of all external exams, with the columns COLUMNS.

    `groups` has institution, exam_id and a column a variable (sex, age band ...), whose values are
    the subgroups, in ascending order or that of an ordered categorical. Exams without a value, or
    not in `groups`, are the last one, "not recorded". `institution` is `all-external`, or the only
    one there is: a table of one institution's predictions gives its own subgroups.

    AUROC and its interval are those of `auroc_of` (`method` is its), slope, intercept and
    observed_expected those of `calibration_table` without recalibration; where those are not
    estimable, for a class is missing or too small, they are NaN. InputError where `groups` lacks a
    column, or has an exam twice.
    """
    settings: dict[str, Any] = {"confidence": confidence, "resamples": resamples, "seed": seed}

    def measured(exams: PatientExams) -> dict[str, Any]:
        of_group = with_class(exams)
        positives = {"positives": of_group.row["positives"]}
        return positives | calibration_of(of_group, **settings) | auroc_of(of_group, **settings)

    numbers = [name + end for name in STATISTICS for end in ("", "_low", "_high")]
    table = pd.DataFrame(grouped(predictions, groups, measured), columns=list(COLUMNS))
    return table.astype(dict.fromkeys(numbers, "float64"))


def grouped(
    predictions: pd.DataFrame, groups: pd.DataFrame, measured: Measured
) -> list[dict[str, Any]]:
    """The rows of `subgroup_table`, with whatever is `measured` of each subgroup's exams."""
    variables = _variables(groups)
    external = predictions[predictions["split"] == EXTERNAL]
    joined = external.merge(groups[[*EXAM, *variables]], on=list(EXAM), how="left")
    institutions = external["institution"].unique()
    institution = ALL_EXTERNAL if len(institutions) > 1 else "".join(institutions)
    rows = []
    for model, of_model in numbered(joined).groupby("model", sort=False):
        for variable in variables:
            for group, exams in _subgroups(of_model, variable):
                of_group = patient_exams(exams, str(model), institution, POOLED)
                row = of_group.row | {"variable": variable, "group": group}
                rows.append(row | measured(of_group))
    return rows


def largest_gaps(
    table: pd.DataFrame,
    *,
    confidence: float,
    scales: Scales = _SCALES,
    freedom: pd.Series | None = None,
) -> pd.DataFrame:
    """A row a model, variable and statistic of a `subgroup_table`: its largest gap.

    `gap` is the statistic in group_a, where it is highest, less that in group_b, where it is
    lowest, of the `groups` subgroups in which it is estimable ("not recorded" aside); NaN where
    those are fewer than two. Its interval is put together from the two groups' own (the MOVER of
    Zou & Donner, Stat Med 2008;27:1693), as of independent groups. The two are picked for being
    furthest apart, which makes any gap look large; `q_p`, Cochran's test that all the groups are
    alike, does not pick. `confidence` is the table's; `scales` are its statistics, each with the
    scale on which it is closest to normal. Where intervals are Student's, `freedom` has each row's
    degrees of freedom, and `q_p` is of Welch's test (Biometrika 1951;38:330), which counts them.
    """
    rows = []
    keys = ["model", "institution", "variable"]
    for key, of_variable in table[table["group"] != MISSING].groupby(keys, sort=False):
        for statistic, scale in scales.items():
            bounds = [statistic, f"{statistic}_low", f"{statistic}_high"]
            known = of_variable.dropna(subset=bounds)
            row: dict[str, Any] = dict(zip(keys, key, strict=True))
            row |= {"statistic": statistic, "groups": len(known)}
            if len(known) >= 2:
                figures = known[bounds].to_numpy(np.float64)
                highest, lowest = figures[:, 0].argmax(), figures[:, 0].argmin()
                (a, a_low, a_high), (b, b_low, b_high) = figures[highest], figures[lowest]
                row |= {
                    "group_a": known["group"].iloc[highest],
                    "group_b": known["group"].iloc[lowest],
                    "gap": a - b,
                    "gap_low": a - b - np.hypot(a - a_low, b_high - b),
                    "gap_high": a - b + np.hypot(a_high - a, b - b_low),
                    "q_p": _test_alike(
                        figures,
                        scale,
                        None if freedom is None else freedom[known.index].to_numpy(np.float64),
                        confidence,
                    ),
                }
            rows.append(row)
    return pd.DataFrame(rows, columns=list(GAP_COLUMNS))


def age_bands(years: ArrayLike, edges: Sequence[float]) -> pd.Categorical:
    """Ages as ordered bands between `edges` (rising): of 50 and 65 "< 50", "50 to < 65", ">= 65".

    A missing age stays missing.
    """
    if not edges or any(low >= high for low, high in pairwise(edges)):
        raise ValueError(f"the edges of age bands must rise: {list(edges)}")
    labels = [
        f"< {edges[0]:g}",
        *(f"{low:g} to < {high:g}" for low, high in pairwise(edges)),
        f">= {edges[-1]:g}",
    ]
    bins = [-np.inf, *edges, np.inf]
    return pd.cut(np.asarray(years, dtype=np.float64), bins, right=False, labels=labels)


def _variables(groups: pd.DataFrame) -> list[str]:
    missing = [column for column in EXAM if column not in groups.columns]
    variables = [str(column) for column in groups.columns if column not in EXAM]
    if missing or not variables:
        raise InputError(
            f"a table of subgroups needs {', '.join(EXAM)} and a column or more to group by; it "
            f"has {', '.join(map(str, groups.columns))}. Add what is missing."
        )
    twice = groups[groups.duplicated(list(EXAM))]
    if len(twice):
        lines = [f"exam {row.exam_id!r} of {row.institution}" for row in twice.itertuples()]
        raise InputError(
            f"the table of subgroups has {len(lines)} exam(s) more than once; "
            f"keep one row an exam:\n{listing(lines)}"
        )
    return variables


def _subgroups(exams: pd.DataFrame, variable: str) -> list[tuple[str, pd.DataFrame]]:
    parts = [
        (str(value), part)
        for value, part in exams.groupby(variable, sort=True, observed=True, dropna=True)
    ]
    without = exams[exams[variable].isna()]
    return [*parts, (MISSING, without)] if len(without) else parts


def _test_alike(
    figures: NDArray[np.float64],
    scale: Callable[[Any], Any],
    freedom: NDArray[np.float64] | None,
    confidence: float,
) -> float:
    """p of Cochran's test over groups with these values and intervals [groups, 3], or of Welch's by
    their degrees of `freedom` [groups]; NaN where one has no finite width.
    """
    tail = (1 + confidence) / 2
    quantile = norm.ppf(tail) if freedom is None else t.ppf(tail, freedom)
    with np.errstate(divide="ignore", invalid="ignore"):
        effects, low, high = scale(figures.T)
        errors = (high - low) / (2 * quantile)
    if not (np.isfinite(effects).all() and np.isfinite(errors).all() and (errors > 0).all()):
        return np.nan
    pooled, k = pool(effects, errors, confidence=confidence), len(effects)
    if freedom is None:
        return pooled.q_p
    share = 1 / errors**2 / (1 / errors**2).sum()
    less = ((1 - share) ** 2 / freedom).sum()
    ratio = pooled.q / (k - 1) / (1 + 2 * (k - 2) / (k**2 - 1) * less)
    return float(f.sf(ratio, k - 1, (k**2 - 1) / (3 * less)))
