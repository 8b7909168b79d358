"""What a reviewer reads of a reader study: its answer in words, figure, tables and limits."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from experiments.evaluation.auroc import NOT_ESTIMABLE
from experiments.evaluation.mrmc import BOTH_RANDOM, METRICS, NEEDED, RANDOM_CASES, RANDOM_READERS
from experiments.evaluation.reader_study import (
    ARMS,
    BOTH,
    CASES,
    READERS,
    SHARES,
    WITH,
    WITHOUT,
    ReaderStudy,
    gain_text,
    mean_text,
)
from experiments.evaluation.summary import p_text
from experiments.figures.html import Block, Facts, Paragraph, Picture
from experiments.figures.reader_study import SIMULATED, reader_study_figure
from experiments.figures.study_text import interval, number_of
from experiments.figures.tables import Table

SIMULATED_READERS = (
    f"{SIMULATED}: no doctor read these cases. What is shown is whether the analysis finds the "
    "gain that was put in, and says nothing about readers."
)

_FEW = 10  # readers below which gee_table calls its answers over readers an approximation
_ROUNDING = 1e-12
_NAMES = {metric: metric for metric in SHARES} | {"auroc": "AUROC"}
_HOLDS_FOR = {
    BOTH_RANDOM: "other readers, other cases",
    RANDOM_CASES: "these readers, other cases",
    RANDOM_READERS: "other readers, these cases",
    BOTH: "other readers, other cases",
    CASES: "these readers, other cases",
    READERS: "other readers, these cases",
}


@dataclass(frozen=True)
class Plan:
    """The next study: `table` is that of `sample_size` for a true gain in accuracy of `gain` (a
    share), found with the probability `power` with up to `max_cases` cases."""

    gain: float
    power: float
    max_cases: int
    table: pd.DataFrame


def reader_blocks(
    study: ReaderStudy,
    *,
    target: str,
    threshold: float,
    confidence: float,
    plan: Plan | None,
    recovery: pd.DataFrame | None = None,
) -> list[Block]:
    """A reader study's answer, figure, tables and methods.

    `threshold`: a reading from there on is a yes. `plan` is None where the accuracy's variance
    components are not estimable. `recovery`, the table of `recovery_table`, says that the readers
    were simulated: all names then begin with "readers_simulated_" and captions with the mark.
    """
    simulated = recovery is not None
    figures = _figures(study)
    percent = f"{100 * confidence:g} %"
    name = "readers_simulated" if simulated else "readers"
    mark = f"{SIMULATED}. " if simulated else ""

    def table(
        key: str, caption: str, shown: pd.DataFrame, values: pd.DataFrame, *, folded: bool = True
    ) -> Table:
        return Table(f"{name}_{key}", f"{mark}{caption}", shown, values, folded)

    figure = reader_study_figure(
        study,
        confidence=confidence,
        title=f"{target}: readers without and with the model",
        simulated=simulated,
    )
    blocks: list[Block] = [
        Paragraph(" ".join(_answer(study, figures, confidence, simulated)), strong=True),
        Paragraph(_other_measures(study, figures)),
        Picture(
            name,
            f"{mark}Left: a line a reader; outside, the means with {percent} intervals over readers"
            " and cases. Right: each reader's operating point.",
            figure,
        ),
        table(
            "results",
            f"Means of the readers, {percent} intervals and p-values. Intervals, and p where not "
            "said otherwise, are of the multi-reader multi-case (MRMC) analysis with readers and "
            "cases random.",
            _results(figures, percent),
            figures.reset_index(),
            folded=False,
        ),
        table(
            "each",
            "Each reader's figures, without and with the model.",
            _each(study.readers),
            study.readers,
        ),
        table(
            "paired",
            f"Paired tests over readers, {percent} intervals: mean ± standard deviation of the "
            "readers. They hold for other readers of these very cases.",
            _paired(study.paired, percent),
            study.paired,
        ),
        table(
            "mrmc",
            f"MRMC analysis (Obuchowski and Rockette, Hillis), {percent} intervals, by whom and "
            "what the claim is for. With infinitely many degrees of freedom F is a chi-squared.",
            _mrmc(study.mrmc, percent),
            study.mrmc,
        ),
        table(
            "gee",
            "Right answers by generalised estimating equations: odds ratio with : without the "
            f"model, {percent} intervals, p by t. Clusters are what the claim goes beyond.",
            _gee(study.gee, percent),
            study.gee,
        ),
    ]
    if recovery is not None:
        shown = _recovery(recovery, percent)
        blocks += [
            Paragraph(_recovered(recovery, confidence)),
            table("recovery", "Is the simulated truth recovered?", shown, recovery, folded=False),
        ]
    if plan is None:
        reason = _why_not(study, "accuracy")
        blocks.append(Paragraph(f"Cases for a next study: {NOT_ESTIMABLE}, as {reason}."))
    else:
        asked = (
            f"a gain in accuracy of {100 * plan.gain:g} points with a power of "
            f"{100 * plan.power:g} %"
        )
        blocks += [
            Paragraph(
                f"For the next study was asked how many cases so many readers need to find {asked} "
                f"at the {100 * (1 - confidence):g} % level, two-sided, with readers and cases "
                "random. Variance components and the share of positive cases are those of this "
                f"study{' of simulated readers' * simulated}, and as uncertain as it is small."
            ),
            table(
                "sample_size",
                f"Cases that find {asked}, by the number of readers.",
                _sample_size(plan),
                plan.table,
                folded=False,
            ),
        ]
    return [*blocks, Paragraph("Methods and their sources:"), Facts(_methods(threshold))]


def reader_limits(study: ReaderStudy, *, confidence: float, simulated: bool) -> list[str]:
    """What stands between these figures and a clinic, as far as the tables show it."""
    n, cases, positives = _counts(study)
    both = _of_both(study)
    told = [SIMULATED_READERS] if simulated else []
    readers = f"{number_of(n, 'reader')}: "
    if n == 1:
        told.append(f"{readers}nothing tells how readers vary, and no claim holds for others.")
    else:
        degrees = f"the paired t-test has {number_of(n - 1, 'degree')} of freedom"
        df2 = both["df2"]["accuracy"]
        if np.isfinite(df2):
            degrees += f", the MRMC analysis of accuracy {df2:.1f} in its denominator"
        told.append(f"{readers}{degrees}.")
        least = 2.0 ** (1 - n)
        if least > 1 - confidence:
            told.append(
                f"With {n} readers the p-value of Wilcoxon's signed-rank test cannot be below "
                f"{least:.3g}, whatever they answer."
            )
        if n < _FEW:
            told.append(
                f"Below about {_FEW} clusters the estimating equations are an approximation: "
                "prefer the MRMC analysis."
            )
    if simulated:
        told.append(
            "Simulated readers neither remember a case nor tire: order effects are not simulated."
        )
    else:
        told.append(
            "Every case was read in both arms: unless a wash-out lay between the readings and "
            "their order was balanced, which a table cannot tell, memory and practice may be part "
            "of the gain."
        )
        told.append(
            f"All {n * cases * len(ARMS):,} readings are there: a table with gaps is refused, so "
            "readers or cases that were left out beforehand are not seen here."
        )
    told.append(
        f"{positives:,} of {number_of(cases, 'case')} ({100 * positives / cases:.1f} %) are "
        "positive. Accuracy depends on this share, and readers on what they expect: where the "
        "clinic's share is another, so are accuracy and its gain."
    )
    told += [
        f"The {_NAMES[metric]} is {NOT_ESTIMABLE} over readers and cases, as "
        f"{_why_not(study, metric)}."
        for metric in METRICS
        if pd.isna(both["low"][metric])
    ]
    told.append(
        "Four measures and several tests of each are shown, without correction for their number."
    )
    return told


def size_of(study: ReaderStudy) -> str:
    """ "5 readers, 114 cases (45 positive)"."""
    n, cases, positives = _counts(study)
    return f"{number_of(n, 'reader')}, {number_of(cases, 'case')} ({positives:,} positive)"


def _counts(study: ReaderStudy) -> tuple[int, int, int]:
    """Readers, cases and positive cases."""
    n, positives = study.readers[["n", "positives"]].iloc[0]
    return study.readers["reader"].nunique(), int(n), int(positives)


def _of_both(study: ReaderStudy) -> pd.DataFrame:
    """The MRMC analysis with readers and cases random, by metric."""
    return study.mrmc[study.mrmc["analysis"] == BOTH_RANDOM].set_index("metric")


def _figures(study: ReaderStudy) -> pd.DataFrame:
    """A row a metric: both arms' means with the interval over readers and cases, the gain with its
    interval, and p of each analysis."""
    paired, both = study.paired.set_index("metric"), _of_both(study)
    gee = study.gee[study.gee["clusters"] == BOTH].set_index("metric")
    columns: dict[str, pd.Series] = {}
    for arm in ARMS:
        of_arm = study.arms[study.arms["arm"] == arm].set_index("metric")
        columns |= {arm: paired[f"mean_{arm}"]}
        columns |= {f"{arm}_{bound}": of_arm[bound] for bound in ("low", "high")}
    columns |= {"gain": paired["gain"]} | {name: both[name] for name in ("low", "high", "p")}
    columns |= {"p_paired_t": paired["p"], "p_wilcoxon": paired["p_wilcoxon"], "p_gee": gee["p"]}
    table = pd.DataFrame(columns, dtype="float64").reindex(METRICS)
    return table.rename_axis("metric")


def _answer(
    study: ReaderStudy, figures: pd.DataFrame, confidence: float, simulated: bool
) -> Iterator[str]:
    n, cases, positives = _counts(study)
    kind = "simulated " if simulated else ""
    percent = f"{100 * confidence:g} %"
    if simulated:
        yield SIMULATED_READERS
    yield (
        f"{number_of(n, f'{kind}reader')} judged {number_of(cases, 'case')} ({positives:,} "
        "positive) without and with the model."
    )
    row = {"metric": "accuracy", **figures.loc["accuracy"]}
    without, with_model = (_text("accuracy", row[arm]) for arm in ARMS)
    yield (
        f"Mean accuracy was {without} without and {with_model} with the model; "
        f"{_moved(study.readers)}."
    )
    analysis = "the multi-reader multi-case analysis with readers and cases random"
    known = pd.notna(row["low"])
    if known:
        yield (
            f"By {analysis} the gain, with its {percent} interval, is {gain_text(row)}, "
            f"{p_text(row['p'])}."
        )
        yield _verdict(row, kind)
    else:
        yield f"By {analysis} the gain is {NOT_ESTIMABLE}, as {_why_not(study, 'accuracy')}."
    paired = study.paired.set_index("metric", drop=False).loc["accuracy"].to_dict()
    wilcoxon = f"Wilcoxon's signed-rank test: {p_text(paired['p_wilcoxon'])}"
    if pd.isna(paired["low"]):
        reason = "there is one reader" if n == 1 else "all readers gain the same"
        yield f"The paired t-test over readers is {NOT_ESTIMABLE}, as {reason}. {wilcoxon}."
        return
    yield (
        "The paired t-test over readers, which speaks of these very cases only, gives "
        f"{gain_text(paired)}, {p_text(paired['p'])}. {wilcoxon}."
    )
    if known and _sign(row) != _sign(paired):
        yield (
            f"At the {100 * (1 - confidence):g} % level the multi-reader multi-case analysis and "
            "the paired t-test disagree: a claim for other cases rests on the former."
        )


def _sign(row: Mapping[Any, Any] | pd.Series) -> int:
    """1 or -1 where the gain's interval is on one side of 0, else 0."""
    return int(row["low"] > 0) - int(row["high"] < 0)


def _verdict(row: Mapping[Any, Any], kind: str) -> str:
    whom = f"other {kind}readers and other cases"
    if _sign(row):
        return f"A {'gain' if _sign(row) > 0 else 'loss'} is shown for {whom} like these."
    low, high = 100 * row["low"], 100 * row["high"]
    return (
        f"A gain is not shown for {whom}: anything from {low:+.1f} to {high:+.1f} points fits "
        "these readings."
    )


def _moved(readers: pd.DataFrame) -> str:
    """ "it rose in 4 and fell in 1 of 5 readers"."""
    accuracy = readers.pivot(index="reader", columns="arm", values="accuracy")
    gains = accuracy[WITH] - accuracy[WITHOUT]
    counts = {
        "rose": (gains > _ROUNDING).sum(),
        "fell": (gains < -_ROUNDING).sum(),
        "stayed the same": (gains.abs() <= _ROUNDING).sum(),
    }
    told = " and ".join(f"{verb} in {count}" for verb, count in counts.items() if count)
    return f"it {told} of {number_of(len(gains), 'reader')}"


def _other_measures(study: ReaderStudy, figures: pd.DataFrame) -> str:
    told = []
    for metric in METRICS[1:]:
        row = {"metric": metric, **figures.loc[metric]}
        text = _NAMES[metric]
        if pd.notna(row["gain"]):
            without, with_model = (_text(metric, row[arm]) for arm in ARMS)
            text += f" {without} without and {with_model} with the model, {_gain(row)}, "
            text += p_text(row["p"]) if pd.notna(row["low"]) else "its interval"
        if pd.isna(row["low"]):
            text += f" {NOT_ESTIMABLE}, as {_why_not(study, metric)}"
        told.append(text)
    return f"By the same analysis: {'; '.join(told)}."


def _why_not(study: ReaderStudy, metric: str) -> str:
    """Why a metric's gain over readers and cases is not estimable."""
    readers, cases, positives = _counts(study)
    for positive in NEEDED[metric]:
        count = positives if positive else cases - positives
        if count < 2:
            told = "positive" if positive else "negative"
            return f"{('no', 'only one')[count]} case is {told}"
    if study.readers[metric].isna().all():
        return "the answers are yes or no"
    if readers < 2:
        return "there is one reader"
    return "there is one case" if cases < 2 else "nothing tells how much it varies"


def _text(metric: str, value: float, low: float = np.nan, high: float = np.nan) -> str:
    """ "65.0 (60.1-69.9) %", an AUROC's "0.912 (0.880-0.944)", or "not estimable"."""
    if metric == "auroc" or pd.isna(value):
        return interval(value, low, high)
    return f"{interval(100 * value, 100 * low, 100 * high, 1)} %"


def _gain(row: Mapping[Any, Any] | pd.Series) -> str:
    """As `gain_text`, and without an interval where only that is not estimable."""
    if pd.isna(row["gain"]) or pd.notna(row["low"]):
        return gain_text(row)
    return _points(row["metric"], row["gain"])


def _points(metric: str, gain: float, digits: int = 1, sign: str = "+") -> str:
    """ "+9.0 points", or an AUROC's "+0.044" with two digits more."""
    if pd.isna(gain):
        return NOT_ESTIMABLE
    if metric == "auroc":
        return f"{gain:{sign}z.{digits + 2}f}"
    return f"{100 * gain:{sign}z.{digits}f} points"


def _number(value: float, digits: int) -> str:
    return NOT_ESTIMABLE if pd.isna(value) else f"{value:z.{digits}f}"


def _results(figures: pd.DataFrame, percent: str) -> pd.DataFrame:
    rows = []
    for row in figures.reset_index().to_dict(orient="records"):
        metric = row["metric"]
        arms = {
            f"{arm} the model": _text(metric, row[arm], row[f"{arm}_low"], row[f"{arm}_high"])
            for arm in ARMS
        }
        p = {
            "p, MRMC": "p",
            "p, paired t-test": "p_paired_t",
            "p, Wilcoxon": "p_wilcoxon",
            "p, GEE": "p_gee",
        }
        tested = {heading: p_text(row[key]) for heading, key in p.items()}
        if metric not in SHARES:
            tested["p, GEE"] = ""
        head = {"measure": _NAMES[metric]} | arms
        rows.append(head | {f"gain ({percent} interval)": _gain(row)} | tested)
    return pd.DataFrame(rows)


def _each(readers: pd.DataFrame) -> pd.DataFrame:
    by_arm = {arm: rows.set_index("reader") for arm, rows in readers.groupby("arm")}
    columns = {
        f"{_NAMES[metric]}, {arm}": [_text(metric, value) for value in by_arm[arm][metric]]
        for metric in METRICS
        for arm in ARMS
    }
    return pd.DataFrame({"reader": by_arm[WITHOUT].index, **columns})


def _paired(paired: pd.DataFrame, percent: str) -> pd.DataFrame:
    rows = [
        {
            "measure": _NAMES[row["metric"]],
            **{
                f"{arm} the model": mean_text(row["metric"], row[f"mean_{arm}"], row[f"sd_{arm}"])
                for arm in ARMS
            },
            f"gain ({percent} interval)": _gain(row),
            "t": _number(row["t"], 2),
            "df": _number(row["df"], 0),
            "p, t-test": p_text(row["p"]),
            "W": _number(row["w"], 1),
            "p, Wilcoxon": p_text(row["p_wilcoxon"]),
        }
        for row in paired.to_dict(orient="records")
    ]
    return pd.DataFrame(rows)


def _mrmc(mrmc: pd.DataFrame, percent: str) -> pd.DataFrame:
    rows = [
        {
            "measure": _NAMES[row["metric"]],
            "claim for": _HOLDS_FOR[row["analysis"]],
            f"gain ({percent} interval)": _gain(row),
            "standard error": _points(row["metric"], row["error"], 2, ""),
            "F": _number(row["f"], 2),
            "df": NOT_ESTIMABLE if pd.isna(row["f"]) else _degrees(row["df1"], row["df2"]),
            "p": p_text(row["p"]),
        }
        for row in mrmc.to_dict(orient="records")
    ]
    return pd.DataFrame(rows)


def _degrees(df1: float, df2: float) -> str:
    return f"{df1:.0f}, {'infinite' if np.isinf(df2) else f'{df2:.1f}'}"


def _gee(gee: pd.DataFrame, percent: str) -> pd.DataFrame:
    rows = [
        {
            "measure": _NAMES[row["metric"]],
            "claim for": _HOLDS_FOR[row["clusters"]],
            "readers": row["readers"],
            "cases": row["cases"],
            **{f"{arm} the model": _text(row["metric"], row[arm]) for arm in ARMS},
            f"odds ratio ({percent} interval)": interval(
                row["odds_ratio"], row["low"], row["high"], 2
            ),
            "df": _number(row["df"], 0),
            "p": p_text(row["p"]),
        }
        for row in gee.to_dict(orient="records")
    ]
    return pd.DataFrame(rows)


def _recovery(recovery: pd.DataFrame, percent: str) -> pd.DataFrame:
    answers = {True: "yes", False: "no"}
    rows = [
        {
            "measure": _NAMES[row["metric"]],
            **{f"true, {arm}": _text(row["metric"], row[f"true_{arm}"]) for arm in ARMS},
            "true gain": _points(row["metric"], row["true_gain"]),
            f"gain found ({percent} interval)": _gain(row),
            "truth inside": NOT_ESTIMABLE
            if pd.isna(row["recovered"])
            else answers[bool(row["recovered"])],
        }
        for row in recovery.to_dict(orient="records")
    ]
    return pd.DataFrame(rows)


def _recovered(recovery: pd.DataFrame, confidence: float) -> str:
    percent = f"{100 * confidence:g} %"
    known = recovery[recovery["recovered"].notna()]
    if known.empty:
        return f"Whether the simulated truth is recovered is {NOT_ESTIMABLE}."
    inside = known["recovered"].astype(bool)
    text = (
        f"The true gain lies inside its {percent} interval, over readers and cases, for "
        f"{inside.sum()} of {number_of(len(known), 'measure')}"
    )
    for of, word in ((known[~inside], "outside"), (recovery.drop(known.index), NOT_ESTIMABLE)):
        if len(of):
            text += f"; {word}: {', '.join(_NAMES[metric] for metric in of['metric'])}"
    return (
        f"{text}. A right analysis has it inside in {percent} of many such studies; this is one of "
        "them, and its measures come from the same readings."
    )


def _sample_size(plan: Plan) -> pd.DataFrame:
    rows = []
    for row in plan.table.to_dict(orient="records"):
        cases = power = NOT_ESTIMABLE
        if pd.notna(row["power"]):
            power = f"{100 * row['power']:.1f} %"
            if pd.isna(row["cases"]):
                cases, power = f"more than {plan.max_cases:,}", f"{power} with {plan.max_cases:,}"
            else:
                cases = f"{row['cases']:,}"
        rows.append({"readers": row["readers"], "cases": cases, "power": power})
    return pd.DataFrame(rows)


def _methods(threshold: float) -> dict[str, str]:
    return {
        "Design": (
            f"fully crossed: every reader reads every case in both arms. A reading of {threshold:g}"
            " or more is a yes, which the AUROC does not use"
        ),
        "MRMC, readers and cases random": (
            "the model of Obuchowski and Rockette (Commun Stat Simul Comput 1995;24:285) with "
            "covariances by the jackknife over cases, and Hillis' degrees of freedom (Stat Med "
            "2007;26:596); it holds for other readers and other cases"
        ),
        "Over readers": (
            "paired t-test and Wilcoxon's signed-rank test of the readers' own figures; they hold "
            "for other readers of these very cases"
        ),
        "Right answers": (
            "generalised estimating equations with a logit link (Liang and Zeger, Biometrika "
            "1986;73:13), clustered by readers and cases (Miglioretti and Heagerty, Am J Epidemiol "
            "2007;165:453), with the covariance for few clusters of Mancl and DeRouen (Biometrics "
            "2001;57:126)"
        ),
        "Cases for a next study": (
            "power of the MRMC analysis (Hillis, Obuchowski and Berbaum, Acad Radiol 2011;18:129)"
        ),
    }
