"""Paired comparisons of models' AUROCs, each on the exams that both models have."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from datamodules.errors import InputError, listing
from experiments.evaluation.auroc import (
    CLUSTERED,
    DELONG,
    NOT_ESTIMABLE,
    patients_by_class,
    placements,
    resampled_aurocs,
)
from experiments.evaluation.bootstrap import clusters
from experiments.evaluation.predictions import ALL_EXTERNAL, EXTERNAL, POOLED, ROLES, label_of
from experiments.evaluation.summary import p_text, plain_rows

JSON_KEYS = (
    "label", "institution", "model_a", "model_b", "n", "auroc_a", "auroc_b", "difference",
    "difference_low", "difference_high", "z", "p", "p_holm", "method",
)  # fmt: skip
COLUMNS = (*JSON_KEYS[:4], "role", "n", "left_out", *JSON_KEYS[5:])

Pair = tuple[str, str]
Tests = Callable[[pd.DataFrame, pd.DataFrame, list[Pair]], Iterator[dict[str, Any]]]

_EXAM = ["institution", "split", "exam_id"]
FIGURES = ("auroc_a", "auroc_b", "difference", "difference_low", "difference_high", "z", "p")
LEAST = {DELONG: 5, CLUSTERED: 10}  # patients of each class that a test needs
ROUNDING = 1e-14  # a standard error below this is 0: placements are exact to 1e-16


def compare(
    predictions: pd.DataFrame,
    *,
    pairs: Iterable[Pair] | None = None,
    confidence: float,
    resamples: int,
    seed: int,
) -> pd.DataFrame:
    """A row a pair of models and institution, with the columns COLUMNS (NaN: not estimable).

    `predictions` is a checked table of one label; `pairs` are all pairs in its order of models,
    unless given. A pair is compared on the exams that both models have (by institution, split and
    exam_id); `left_out` counts those that only one of the two has. Roles are those of
    `summarise`; a pair whose external exams come from two institutions or more has the pooled row
    `all-external` too. Validation exams are not compared.

    `difference` is auroc_a - auroc_b, z that over its standard error, and p two-sided from the
    normal distribution.

    - One exam a patient: the paired test of DeLong et al., Biometrics 1988;44:837, in the fast form
      of Sun & Xu, IEEE Signal Process Lett 2014;21:1389, with its normal interval.
    - Several exams for some patient: the bootstrap of `auroc_interval`, both models on the same
      resamples. The standard error is the standard deviation of the resampled differences (as in
      the bootstrap test of Robin et al., BMC Bioinformatics 2011;12:77), the interval their
      percentiles.
    - Where the standard error is 0, models that order the exams alike differ by exactly 0: z is 0
      and p is 1. Other such models (both perfect; one perfect, one constant) have AUROCs and a
      difference, but nothing tells how much it varies, and the rest is not estimable.
    - Nothing is estimable with fewer than two patients of a class, and nothing but the AUROCs and
      their difference with fewer than LEAST. Between equal models p was below 0.05 in 6 % of
      simulated sets of 5 positive exams (DeLong), and in 5 % of those of 10 positive patients with
      several exams; of 3 positive exams in 8 %, of 5 positive patients in 8 %.

    `p_holm` is Holm's correction over the institutions of one role within a pair: the external
    institutions are one family of tests, and the pooled row is a family of its own.

    Raises InputError where a pair names an unknown model, and where models disagree about an exam's
    target or patient.
    """
    tests = partial(_tests, confidence=confidence, resamples=resamples, seed=seed)
    table = paired(predictions, tests, COLUMNS, pairs=pairs, truth="target", score="probability")
    return table.astype(dict.fromkeys((*FIGURES, "p_holm"), "float64"))


def paired(
    predictions: pd.DataFrame,
    tests: Tests,
    columns: Sequence[str],
    *,
    pairs: Iterable[Pair] | None,
    truth: str,
    score: str,
) -> pd.DataFrame:
    """`compare` by any paired `tests` of models' `score`: the exams (with `truth`, and patient and
    stratum as numbers), a column of scores a model, and the pairs give a row a pair.
    """
    models = list(predictions["model"].unique())
    chosen = list(combinations(models, 2)) if pairs is None else [(a, b) for a, b in pairs]
    _check_models(predictions, [model for pair in chosen for model in pair])
    exams, scores = by_exam(predictions, models, truth, score)
    of_label = {"label": label_of(predictions)}
    rows = [
        of_label | {"institution": institution, "role": role} | row
        for institution, role, there in _test_sets(exams)
        for row in _compare_on(exams[there], scores[there], chosen, role, tests)
    ]
    place = {pair: number for number, pair in enumerate(chosen)}
    rows.sort(key=lambda row: place[row["model_a"], row["model_b"]])
    return corrected(pd.DataFrame(rows, columns=list(columns)))


def corrected(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of comparisons with `p_holm`, over the institutions of one role within a pair."""
    family = table.groupby(["model_a", "model_b", "role"], sort=False)
    table["p_holm"] = family["p"].transform(holm)
    return table


def common_exams(predictions: pd.DataFrame, models: Iterable[str]) -> pd.DataFrame:
    """The rows of `models` for the exams that all of them have, in the order of `predictions`.

    Exams are the same by institution, split and exam_id; every split is kept. InputError where a
    model is unknown, or no exam is common to all.
    """
    wanted = list(dict.fromkeys(models))
    _check_models(predictions, wanted)
    chosen = predictions[predictions["model"].isin(wanted)]
    models_of_exam = chosen.groupby(_EXAM, sort=False)["model"].transform("size")
    common = chosen[models_of_exam == len(wanted)].reset_index(drop=True)
    if common.empty:
        raise InputError(
            f"no exam has predictions of all of {', '.join(wanted)}. Models are compared on common "
            "exams: check that their tables name institutions, splits and exams alike."
        )
    return common


def comparable(predictions: pd.DataFrame) -> pd.DataFrame:
    """The table with those tested exams that all models have, and every validation exam; the whole
    table where no tested exam is common to all.
    """
    tested = predictions["split"].isin(ROLES)
    models_of_exam = predictions.groupby(_EXAM, sort=False)["model"].transform("size")
    common = models_of_exam == predictions["model"].nunique()
    return predictions[common | ~tested] if (common & tested).any() else predictions


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """p-values corrected by Holm's step-down method (Scand J Stat 1979;6:65), in their order.

    NaN stays NaN, and does not count as a test.
    """
    values = np.asarray(p, dtype=np.float64)
    corrected = np.full(values.shape, np.nan)
    order = np.argsort(values)[: np.count_nonzero(~np.isnan(values))]
    steps = values[order] * np.arange(order.size, 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def comparisons_json(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of `compare` as plain values under JSON_KEYS; None where not estimable."""
    return plain_rows(table, JSON_KEYS)


def comparison_table(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of `compare` for people: differences with their intervals, and p-values."""
    rows = table.to_dict(orient="records")
    return pd.DataFrame(
        {
            "institution": table["institution"],
            "role": table["role"],
            "models": [f"{row['model_a']} - {row['model_b']}" for row in rows],
            "exams": table["n"],
            "left out": table["left_out"],
            "AUROCs": [_aurocs_text(row) for row in rows],
            "difference": [_difference_text(row) for row in rows],
            "p": [p_text(p) for p in table["p"]],
            "p (Holm)": [p_text(p) for p in table["p_holm"]],
        }
    )


def _aurocs_text(row: Mapping[Any, Any]) -> str:
    """The two AUROCs of a row of `compare` as "0.912 - 0.880", or "not estimable"."""
    if pd.isna(row["auroc_a"]):
        return NOT_ESTIMABLE
    return f"{row['auroc_a']:.3f} - {row['auroc_b']:.3f}"


def _difference_text(row: Mapping[Any, Any]) -> str:
    """A row's difference as "+0.032 (+0.011 to +0.053)", or "not estimable"."""
    if pd.isna(row["difference_low"]):
        return NOT_ESTIMABLE
    low, high = row["difference_low"], row["difference_high"]
    return f"{row['difference']:+.3f} ({low:+.3f} to {high:+.3f})"


def _check_models(predictions: pd.DataFrame, models: Iterable[str]) -> None:
    known = list(predictions["model"].unique())
    unknown = [model for model in dict.fromkeys(models) if model not in known]
    if unknown:
        raise InputError(
            f"there are no predictions of {', '.join(unknown)}. "
            f"The models in the table are {', '.join(known)}."
        )


def by_exam(
    predictions: pd.DataFrame, models: list[str], truth: str = "target", score: str = "probability"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The exams, and each model's score for them (NaN where it has none), row by row.

    `patient` and `stratum` number patient ids and institutions in ascending order.
    """
    number = _exam_numbers(predictions)
    exams = predictions.iloc[np.unique(number, return_index=True)[1]].reset_index(drop=True)
    problems: list[str] = []
    for column in (truth, "patient_id"):
        told = predictions[column].reset_index(drop=True)
        agreed = exams[column].take(number).reset_index(drop=True)
        for row in np.flatnonzero(told != agreed):
            exam = exams.iloc[number[row]]
            problems.append(
                f"exam {exam['exam_id']!r} of {exam['institution']}, {column}: {told[row]} for "
                f"model {predictions['model'].iloc[row]!r}, {agreed[row]} for {exam['model']!r}"
            )
    if problems:
        raise InputError(
            f"the models' predictions contradict each other about {len(problems)} value(s); "
            f"give an exam one truth and one patient:\n{listing(problems)}"
        )
    exams["patient"] = pd.factorize(exams["patient_id"], sort=True)[0]
    exams["stratum"] = pd.factorize(exams["institution"], sort=True)[0]
    model, names = pd.factorize(predictions["model"])
    scores = np.full((len(names), len(exams)), np.nan)
    scores[model, number] = predictions[score]
    return exams, pd.DataFrame(dict(zip(names, scores, strict=True))).reindex(columns=models)


def _exam_numbers(predictions: pd.DataFrame) -> NDArray[np.int64]:
    """Each row's exam as a number, in order of appearance."""
    of_models = predictions.groupby("model", sort=False)[_EXAM]
    blocks = [rows for _, rows in of_models]
    if all(
        rows[column].array.equals(blocks[0][column].array)
        for rows in blocks[1:]
        for column in _EXAM
    ):  # the common case, for which texts need not be sorted
        number = of_models.cumcount()
    else:
        number = predictions.groupby(_EXAM, sort=False).ngroup()
    return np.asarray(number, dtype=np.int64)


def _test_sets(exams: pd.DataFrame) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    """(institution, role, which exams), in the order of `summarise`."""
    for split, role in ROLES.items():
        in_role = (exams["split"] == split).to_numpy()
        for institution in exams["institution"][in_role].unique():
            yield institution, role, in_role & (exams["institution"] == institution).to_numpy()
    yield ALL_EXTERNAL, POOLED, (exams["split"] == EXTERNAL).to_numpy()


def _compare_on(
    exams: pd.DataFrame,
    scores: pd.DataFrame,
    pairs: list[Pair],
    role: str,
    tests: Tests,
) -> Iterator[dict[str, Any]]:
    """The rows of those `pairs` of which a model has any of these exams."""
    present = {model: scores[model].notna().to_numpy() for model in scores}
    by_common: dict[bytes, list[Pair]] = {}
    for a, b in pairs:
        if (present[a] | present[b]).any():
            by_common.setdefault((present[a] & present[b]).tobytes(), []).append((a, b))
    for mask, of_mask in by_common.items():
        common = np.frombuffer(mask, dtype=bool)
        if role == POOLED and exams["stratum"][common].nunique() < 2:
            continue
        tested = tests(exams[common], scores[common], of_mask)
        for (a, b), test in zip(of_mask, tested, strict=True):
            left_out = np.count_nonzero(present[a] != present[b])
            counts = {"n": np.count_nonzero(common), "left_out": left_out}
            yield {"model_a": a, "model_b": b} | counts | test


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
    labels = exams["target"].to_numpy().astype(bool)
    cluster, stratum_sizes = clusters(exams["patient"], exams["stratum"], len(exams))
    fewest = min(patients_by_class(labels, cluster))
    if fewest < 2:
        yield from [dict.fromkeys(FIGURES, np.nan) | {"method": NOT_ESTIMABLE}] * len(pairs)
        return
    values = {model: scores[model].to_numpy() for model in {m for pair in pairs for m in pair}}
    components = {model: placements(labels, score) for model, score in values.items()}
    method = DELONG if stratum_sizes.sum() == len(exams) else CLUSTERED
    if method == CLUSTERED:
        resampled = {
            model: resampled_aurocs(labels, score, cluster, stratum_sizes, resamples, seed)
            for model, score in values.items()
        }
    quantiles = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    for a, b in pairs:
        auroc_a, auroc_b = (float(components[model][0].mean()) for model in (a, b))
        difference = auroc_a - auroc_b
        if method == DELONG:
            # differences of placements, not their covariances, whose difference would cancel
            contrasts = [x - y for x, y in zip(components[a], components[b], strict=True)]
            error = float(np.sqrt(sum(c.var(ddof=1) / c.size for c in contrasts)))
            low, high = difference + norm.ppf(quantiles) * error
        else:
            differences = resampled[a] - resampled[b]
            error = float(np.nanstd(differences, ddof=1))
            low, high = np.nanquantile(differences, quantiles)
        test: dict[str, Any] = {"auroc_a": auroc_a, "auroc_b": auroc_b, "difference": difference}
        if error > ROUNDING and fewest >= LEAST[method]:
            z = difference / error
            p = float(2 * norm.sf(abs(z)))
        elif error <= ROUNDING and same_order(values[a], values[b]):
            z, p = 0.0, 1.0
        else:
            yield test | dict.fromkeys(FIGURES[3:], np.nan) | {"method": NOT_ESTIMABLE}
            continue
        test |= {"difference_low": low, "difference_high": high, "z": z, "p": p}
        yield test | {"method": method}


def same_order(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    first, second = (np.unique(scores, return_inverse=True)[1] for scores in (one, other))
    return np.array_equal(first, second)
