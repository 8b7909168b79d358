"""A reader study: what readers make of the same cases without and with a model's help.

Its table has one row a reader, case and arm: `arm` is "without" or "with" (the model), `reading` a
probability from 0 to 1 or a yes/no answer as 1 or 0, `truth` 1 where the case has the condition.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import t, wilcoxon
from statsmodels.genmod.cov_struct import Exchangeable
from statsmodels.genmod.families import Binomial
from statsmodels.genmod.generalized_estimating_equations import GEE

from datamodules.errors import InputError, listing
from experiments.evaluation.auroc import NOT_ESTIMABLE
from experiments.evaluation.mrmc import (
    BOTH_RANDOM,
    METRICS,
    Components,
    is_estimable,
    obuchowski_rockette,
    reader_values,
)
from experiments.evaluation.summary import p_text
from experiments.evaluation.tables import RowChecks, read_table

WITHOUT, WITH = "without", "with"
ARMS = (WITHOUT, WITH)
COLUMNS = ("reader", "case", "arm", "reading", "truth")
SHARES = METRICS[:3]  # figures that are shares of right answers

CASES, READERS, BOTH = "cases", "readers", "readers and cases"

_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class ReaderStudy:
    """Every result of a reader study; see the functions that make the tables.

    `arms` holds each arm's mean with its interval over readers and cases (metric, arm, mean, low,
    high); `components` the variance components of each estimable metric, for planning a study.
    """

    readers: pd.DataFrame
    paired: pd.DataFrame
    mrmc: pd.DataFrame
    arms: pd.DataFrame
    gee: pd.DataFrame
    components: dict[str, Components]


def read_readings(path: Path) -> pd.DataFrame:
    """Read and check a readings table (.parquet or .csv); InputError where it is unusable.

    Names of readers and cases keep their leading zeros: a CSV's columns are read as text first.
    """
    return check_readings(read_table(path, "readings"), str(path))


def check_readings(table: pd.DataFrame, source: str) -> pd.DataFrame:
    """The five COLUMNS in their order, as text, float64 (reading) and int64 (truth).

    `source` names the table in messages; where it ends in .csv rows are counted as lines of the
    file (the header is line 1), else from row 1. One InputError lists every unusable value, and
    another every reading that a fully crossed design (each reader reads each case in both arms)
    would have and the table lacks.
    """
    rows = RowChecks(table, COLUMNS, source, what="readings", remedy="Add the readers' answers.")
    key = ["reader", "case", "arm"]
    checked = rows.texts(key)
    unknown = ~checked["arm"].isin(ARMS) & (checked["arm"] != "")
    rows.refuse(unknown, "arm", f"must be {' or '.join(ARMS)} (the model)")
    numbers = rows.numbers(["reading", "truth"])
    rows.refuse(~numbers["reading"].between(0, 1), "reading", "must be a number from 0 to 1")
    rows.refuse(~numbers["truth"].isin((0, 1)), "truth", "must be 0 or 1")

    named = (checked[key] != "").all(axis=1)
    for row in checked.index[checked.duplicated(key) & named]:
        reader, case, arm = checked.loc[row, key]
        text = f"{case!r} was read by {reader!r} more than once {arm}; keep one reading"
        rows.refuse_row(row, "case", text)
    first_truth = numbers["truth"].groupby(checked["case"]).transform("first")
    contradicts = numbers["truth"].isin((0, 1)) & (numbers["truth"] != first_truth)
    for row in checked.index[contradicts & (checked["case"] != "")]:
        truth = str(rows.original.at[row, "truth"])
        rows.refuse_row(
            row,
            "truth",
            f"{truth!r}, but case {checked.at[row, 'case']!r} has another truth further up; give a "
            "case one truth",
        )
    rows.finish()
    _check_crossed(checked, source)
    checked["reading"] = numbers["reading"].astype("float64")
    checked["truth"] = numbers["truth"].astype("int64")
    return checked


def is_yes_no(readings: pd.DataFrame) -> bool:
    """Whether all readings are yes/no answers, 1 or 0."""
    return bool(readings["reading"].isin((0.0, 1.0)).all())


def analyse(readings: pd.DataFrame, *, threshold: float = 0.5, confidence: float) -> ReaderStudy:
    """Every analysis of a checked table of readings.

    A reading is a yes where it is >= `threshold`. Yes/no answers have no AUROC here: that of a
    yes/no answer is the mean of its sensitivity and specificity, and would compare a point of a
    curve with a curve.
    """
    readers = reader_table(readings, threshold=threshold)
    mrmc, arms, components = _mrmc(readings, threshold, confidence)
    return ReaderStudy(
        readers=readers,
        paired=paired_table(readers, confidence=confidence),
        mrmc=mrmc,
        arms=arms,
        gee=gee_table(readings, threshold=threshold, confidence=confidence),
        components=components,
    )


def reader_table(readings: pd.DataFrame, *, threshold: float = 0.5) -> pd.DataFrame:
    """A row a reader and arm: reader, arm, n, positives, accuracy, sensitivity, specificity, auroc.

    NaN where a class is missing, and the AUROC of yes/no answers (see `analyse`).
    """
    cube, truth, names = _cube(readings)
    values = {
        metric: reader_values(cube, truth, metric=metric, threshold=threshold) for metric in METRICS
    }
    if is_yes_no(readings):
        values["auroc"] = np.full_like(values["auroc"], np.nan)
    rows = [
        {"reader": reader, "arm": arm, "n": truth.size, "positives": int(truth.sum())}
        | {metric: values[metric][j, i] for metric in METRICS}
        for i, reader in enumerate(names)
        for j, arm in enumerate(ARMS)
    ]
    return pd.DataFrame(rows)


def paired_table(readers: pd.DataFrame, *, confidence: float) -> pd.DataFrame:
    """Paired tests over readers from the table of `reader_table`, a row a metric.

    Columns: metric, readers, mean_without, sd_without, mean_with, sd_with, gain (with - without),
    low, high, t, df, p (the paired t-test), w, p_wilcoxon (Wilcoxon's signed-rank test, exact up to
    50 readers, with ties up to 13). They generalise to other readers of these very cases. Not
    estimable (NaN) with one reader, and the t-test also where all gains are the same.
    """
    rows = []
    for metric in METRICS:
        pairs = readers.pivot(index="reader", columns="arm", values=metric)
        without, with_model = (pairs[arm].to_numpy(dtype=np.float64) for arm in ARMS)
        gains = with_model - without
        n = gains.size
        row: dict[str, Any] = {"metric": metric, "readers": n}
        for arm, values in zip(ARMS, (without, with_model), strict=True):
            row[f"mean_{arm}"] = values.mean()
            row[f"sd_{arm}"] = values.std(ddof=1) if n > 1 else np.nan
        row["gain"] = gains.mean()
        row |= dict.fromkeys(("low", "high", "t", "df", "p", "w", "p_wilcoxon"), np.nan)
        error = gains.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
        if error > _ROUNDING:
            half_width = t.ppf((1 + confidence) / 2, n - 1) * error
            statistic = row["gain"] / error
            row |= {"low": row["gain"] - half_width, "high": row["gain"] + half_width}
            row |= {"t": statistic, "df": n - 1, "p": 2 * t.sf(abs(statistic), n - 1)}
        ranked = gains.round(12)  # shares of the same cases tie but for rounding
        if n > 1 and np.abs(ranked).max() > 0:
            test = wilcoxon(ranked)
            row |= {"w": test.statistic, "p_wilcoxon": test.pvalue}
        rows.append(row)
    return pd.DataFrame(rows)


def mrmc_table(
    readings: pd.DataFrame, *, threshold: float = 0.5, confidence: float
) -> pd.DataFrame:
    """The multi-reader multi-case analyses of `obuchowski_rockette`, a row a metric and analysis.

    Columns: metric, analysis, without, with, gain, low, high, error, f, df1, df2, p. What is not
    estimable is NaN, the AUROC of yes/no answers too (see `analyse`).
    """
    return _mrmc(readings, threshold, confidence)[0]


def gee_table(readings: pd.DataFrame, *, threshold: float = 0.5, confidence: float) -> pd.DataFrame:
    """Yes/no answers by generalised estimating equations, a row a metric and what is clustered.

    A right answer (logit link, binomial) is explained by the arm; accuracy uses all cases,
    sensitivity the positive and specificity the negative ones. `clusters` says whose answers hang
    together, with an exchangeable working correlation (Liang & Zeger, Biometrika 1986;73:13; in a
    fully crossed design any other gives the same figures):

    - "cases": claims hold for other cases and these readers.
    - "readers": for other readers and these cases.
    - "readers and cases": for both. The two covariances are added and that of a reader's answers
      to one case is taken off (Miglioretti & Heagerty, Am J Epidemiol 2007;165:453); it is at least
      as large as either.

    Few clusters make the usual covariance too small: that of Mancl & DeRouen (Biometrics
    2001;57:126) is used, and t with clusters - 1 degrees of freedom (the smaller number where both
    are clustered). Below about ten clusters even this is an approximation: prefer `mrmc_table`.

    Columns: metric, clusters, readers, cases, without, with (shares), odds_ratio (with : without),
    low, high (of the odds ratio), df, p. Not estimable (NaN) with one reader or one case, where all
    or no answers of an arm are right, and where those of the arms do not differ in any cluster.
    """
    cube, truth, _ = _cube(readings)
    right = (cube >= threshold) == truth.astype(bool)
    counted = {"accuracy": truth >= 0, "sensitivity": truth == 1, "specificity": truth == 0}
    rows = []
    for metric in SHARES:
        answers = right[..., counted[metric]]
        readers, cases = answers.shape[1:]
        shares = answers.mean(axis=(1, 2)) if cases else np.full(2, np.nan)
        row = {"metric": metric, "readers": readers, "cases": cases}
        row |= dict(zip(ARMS, shares, strict=True))
        for clusters, (effect, variance) in _gee_effects(answers).items():
            number = {CASES: cases, READERS: readers, BOTH: min(readers, cases)}[clusters]
            row |= {"clusters": clusters}
            rows.append(row | _odds_ratio(effect, variance, number - 1, confidence))
    order = ["metric", "clusters", "readers", "cases", *ARMS, "odds_ratio", "low", "high"]
    return pd.DataFrame(rows)[[*order, "df", "p"]]


def results_table(study: ReaderStudy) -> pd.DataFrame:
    """For people: a row a metric and test with both arms, the gain with its interval, and p."""
    rows: list[dict[str, Any]] = []

    def add(row: dict[Any, Any], test: str, generalises_to: str, gain: str, p: float) -> None:
        means = {arm: (row.get(f"mean_{arm}", row.get(arm)), row.get(f"sd_{arm}")) for arm in ARMS}
        shown = {arm: mean_text(row["metric"], *of_arm) for arm, of_arm in means.items()}
        head = {"metric": row["metric"], "test": test, "generalises to": generalises_to}
        rows.append(head | shown | {"gain": gain, "p": p_text(p)})

    for row in study.paired.to_dict(orient="records"):
        add(row, "paired t-test", READERS, gain_text(row), row["p"])
        add(row, "Wilcoxon signed-rank", READERS, "", row["p_wilcoxon"])
    for row in study.mrmc.to_dict(orient="records"):
        add(row, "Obuchowski-Rockette, Hillis", row["analysis"], gain_text(row), row["p"])
    for row in study.gee.to_dict(orient="records"):
        gain = f"odds ratio {row['odds_ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
        gain = NOT_ESTIMABLE if pd.isna(row["low"]) else gain
        add(row, "GEE, logit", row["clusters"], gain, row["p"])
    rows.sort(key=lambda row: METRICS.index(row["metric"]))
    return pd.DataFrame(rows)


def mean_text(metric: str, mean: float | None, sd: float | None = None) -> str:
    """ "65.0 %" or "65.0 ± 4.1 %", an AUROC's "0.912 ± 0.020", or "not estimable"."""
    if mean is None or pd.isna(mean):
        return NOT_ESTIMABLE
    factor, digits, unit = (1, 3, "") if metric == "auroc" else (100, 1, " %")
    spread = "" if sd is None or pd.isna(sd) else f" ± {factor * sd:.{digits}f}"
    return f"{factor * mean:.{digits}f}{spread}{unit}"


def gain_text(row: Mapping[Any, Any] | pd.Series) -> str:
    """A row's gain as "+9.0 points (+4.1 to +13.9)" of percent, an AUROC's as
    "+0.044 (+0.004 to +0.088)", or "not estimable"."""
    if pd.isna(row["low"]):
        return NOT_ESTIMABLE
    if row["metric"] == "auroc":
        return f"{row['gain']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
    gain, low, high = (100 * row[key] for key in ("gain", "low", "high"))
    return f"{gain:+.1f} points ({low:+.1f} to {high:+.1f})"


def _check_crossed(checked: pd.DataFrame, source: str) -> None:
    readers, cases = checked["reader"].unique().tolist(), checked["case"].unique().tolist()
    if len(checked) == len(readers) * len(cases) * len(ARMS):
        return
    lacking = []
    for arm in ARMS:
        in_arm = checked[checked["arm"] == arm]
        for kind, every in (("reader", readers), ("case", cases)):
            absent = [name for name in every if name not in set(in_arm[kind])]
            lacking += [f"{kind} {name!r}: no reading {arm} the model" for name in absent]
        seen = pd.crosstab(in_arm["reader"], in_arm["case"])
        lacking += [
            f"reader {reader!r}, case {case!r}: no reading {arm} the model"
            for reader in seen.index
            for case in seen.columns[seen.loc[reader] == 0]
        ]
    raise InputError(
        f"{source}: every reader must read every case without and with the model; of "
        f"{len(readers)} readers x {len(cases)} cases x 2 arms some are missing. Add them, or "
        f"leave out that reader or case altogether:\n{listing(lacking)}"
    )


def _cube(readings: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.int64], list[str]]:
    """Readings [arms, readers, cases], truth [cases] and the readers' names, in the table's
    order."""
    reader, names = pd.factorize(readings["reader"])
    case, cases = pd.factorize(readings["case"])
    arm = readings["arm"].map({name: place for place, name in enumerate(ARMS)}).to_numpy()
    cube = np.full((len(ARMS), len(names), len(cases)), np.nan)
    cube[arm, reader, case] = readings["reading"]
    truth = np.empty(len(cases), dtype=np.int64)
    truth[case] = readings["truth"]
    return cube, truth, [str(name) for name in names]


def _mrmc(
    readings: pd.DataFrame, threshold: float, confidence: float
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Components]]:
    """The table of `mrmc_table`, the arms' means, and the variance components a metric."""
    cube, truth, names = _cube(readings)
    rows: list[dict[Any, Any]] = []
    means: list[dict[Any, Any]] = []
    components = {}
    for metric in METRICS:
        answered = metric != "auroc" or not is_yes_no(readings)
        if not (answered and is_estimable(truth, readers=len(names), metric=metric)):
            rows.append({"metric": metric, "analysis": BOTH_RANDOM})
            means += [{"metric": metric, "arm": arm} for arm in ARMS]
            continue
        result = obuchowski_rockette(
            cube, truth, metric=metric, threshold=threshold, confidence=confidence
        )
        components[metric] = result.components
        tested = result.tests.merge(result.differences.drop(columns="p"), on="analysis")
        tested = tested.rename(columns={"difference": "gain"}).assign(metric=metric)
        tested[list(ARMS)] = result.values.mean(axis=1)
        rows += tested.to_dict(orient="records")
        chosen = result.arms[result.arms["analysis"] == BOTH_RANDOM].assign(metric=metric)
        means += chosen.assign(arm=ARMS).to_dict(orient="records")
    order = ["metric", "analysis", *ARMS, "gain", "low", "high", "error", "f", "df1", "df2", "p"]
    table = pd.DataFrame(rows, columns=order)
    arms = pd.DataFrame(means, columns=["metric", "arm", "mean", "low", "high"])
    return table.astype(dict.fromkeys(order[2:], "float64")), arms, components


def _gee_effects(right: NDArray[np.bool_]) -> dict[str, tuple[float, float]]:
    """The log odds ratio of the arms of right answers [2, readers, cases], and its variance, for
    each kind of cluster; NaN where it is not estimable."""
    _, readers, cases = right.shape
    shares = right.mean(axis=(1, 2)) if cases else np.zeros(2)
    if min(readers, cases) < 2 or not ((shares > 0) & (shares < 1)).all():
        return dict.fromkeys((CASES, READERS, BOTH), (np.nan, np.nan))
    arm, reader, case = (index.ravel() for index in np.indices(right.shape))
    design = np.column_stack([np.ones(arm.size), arm])
    effects = {}
    for name, cluster in ((CASES, case), (READERS, reader), ("answers", reader * cases + case)):
        model = GEE(right.ravel().astype(float), design, groups=cluster, family=Binomial(),
                    cov_struct=Exchangeable())  # fmt: skip
        fitted = model.fit(cov_type="bias_reduced")
        effects[name] = float(fitted.params[1]), float(fitted.cov_params()[1, 1])
    effect, of_cases = effects[CASES]
    of_readers, of_answers = effects[READERS][1], effects.pop("answers")[1]
    effects[BOTH] = effect, max(of_cases + of_readers - of_answers, of_cases, of_readers)
    return effects


def _odds_ratio(effect: float, variance: float, df: int, confidence: float) -> dict[str, float]:
    row = {"odds_ratio": float(np.exp(effect))}
    if not variance > _ROUNDING:
        return row | dict.fromkeys(("low", "high", "df", "p"), np.nan)
    error = np.sqrt(variance)
    half_width = t.ppf((1 + confidence) / 2, df) * error
    low, high = np.exp(effect - half_width), np.exp(effect + half_width)
    p = 2 * t.sf(abs(effect) / error, df)
    return row | {"low": float(low), "high": float(high), "df": df, "p": float(p)}
