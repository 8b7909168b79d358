"""What the report of a regression says in words: its answer, its limits and its checklist."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from experiments.evaluation.auroc import CLUSTERED, NOT_ESTIMABLE
from experiments.evaluation.characteristics import unit_of
from experiments.evaluation.comparison import Pair
from experiments.evaluation.errors import ErrorAnalysis
from experiments.evaluation.predictions import EXTERNAL, POOLED
from experiments.evaluation.summary import p_text
from experiments.evaluation.tripod import Answer
from experiments.figures.study import LEAVE_SITE_OUT, Study
from experiments.figures.study_text import (
    ENOUGH,
    between,
    different_exams,
    estimate,
    not_analysed,
    of_every_report,
    reference_set,
    where_from,
)

MAE = "mean absolute error"
_TOLD = 6  # models, at most, that the answer compares the main one with
Analyses = Mapping[str, ErrorAnalysis]


def digits_of(summary: pd.DataFrame) -> int:
    """Decimals of errors: three or four significant figures, for differences to be seen."""
    size = summary["mae"].median()
    if not size > 0:
        return 2
    return int(np.clip(2 - np.floor(np.log10(size)) + (size >= 10), 0, 6))


def with_unit(text: str, label: str) -> str:
    unit = unit_of(label)
    return f"{text} {unit}" if unit else text


def answer(analysis: ErrorAnalysis, study: Study) -> list[str]:
    """The headline figures, as paragraphs: the main model, then against the others."""
    main = study.leading(analysis.models)
    parts = (_alone(analysis, main), _agreement(analysis, main), _against_others(analysis, main))
    return [" ".join(part) for part in parts]


def _alone(analysis: ErrorAnalysis, main: str) -> Iterator[str]:
    summary, label = analysis.summary, analysis.label
    digits, confidence = digits_of(summary), analysis.settings.confidence
    of_model = summary[summary["model"] == main]
    row = reference_set(of_model).iloc[0]
    external = of_model[of_model["role"] == EXTERNAL]
    where = f"the internal test of {row['institution']}"
    if row["role"] == POOLED:
        where = f"{len(external)} external institutions together"
    elif row["role"] == EXTERNAL:
        where = f"the external institution {row['institution']}"
    counts = f"{row['n']:,} exams of {row['patients']:,} patients of {where}"
    if pd.isna(row["mae"]):
        yield f"The {MAE} of {main} for {label} is {NOT_ESTIMABLE} in {counts}."
        return
    told = with_unit(f"{row['mae']:z.{digits}f}", label)
    if pd.notna(row["mae_low"]):
        told += (
            f" ({100 * confidence:g} % interval {row['mae_low']:z.{digits}f} to "
            f"{row['mae_high']:z.{digits}f})"
        )
    yield f"In {counts}, {main} estimated {label} with a {MAE} of {told}."
    known = external.dropna(subset="mae").sort_values("mae")
    if row["role"] == POOLED and len(known) > 1:
        low, high = known.iloc[0], known.iloc[-1]
        yield (
            f"Across institutions it was from {low['mae']:z.{digits}f} ({low['institution']}) to "
            f"{high['mae']:z.{digits}f} ({high['institution']})."
        )
    unknown = external[external["mae"].isna()]
    if row["role"] == POOLED and len(unknown):
        yield f"It is {NOT_ESTIMABLE} at {', '.join(unknown['institution'])}."
    pooled = analysis.pooled["mae"]
    for _, one in pooled[(pooled["model"] == main) & pooled["predicted_low"].notna()].iterrows():
        yield (
            f"The mean over {one['institutions']} institutions, by random effects, is "
            f"{estimate(one, 'mae', digits)}; in a new hospital the {MAE} is expected between "
            f"{one['predicted_low']:z.{digits}f} and {one['predicted_high']:z.{digits}f} "
            f"(I squared {100 * one['i_squared']:.0f} %)."
        )


def _agreement(analysis: ErrorAnalysis, main: str) -> Iterator[str]:
    summary = analysis.summary
    digits = digits_of(summary)
    row = reference_set(summary[summary["model"] == main]).iloc[0]
    if pd.notna(row["lower_limit"]):
        limits = f"{row['lower_limit']:+z.{digits}f} to {row['upper_limit']:+z.{digits}f}"
        yield (
            f"Its bias (estimate less truth) was {estimate(row, 'bias', digits)}, and 95 % of its "
            f"errors are expected between the limits of agreement, {limits}."
        )
    if pd.notna(row["r2"]):
        told = f"R2 was {estimate(row, 'r2', 2)}"
        if pd.notna(row["slope"]):
            told += f", and the slope of the truth on the estimate {estimate(row, 'slope', 2)}"
        yield f"{told}."
    aurocs = []
    for name, of in analysis.thresholds.items():
        one = reference_set(of.summary[of.summary["model"] == main]).iloc[0]
        aurocs.append(f"{name}: {estimate(one, 'auroc')}")
    if aurocs:
        yield f"As a test for a truth below a threshold its AUROC was, of {'; '.join(aurocs)}."


def _against_others(analysis: ErrorAnalysis, main: str) -> Iterator[str]:
    comparisons, alpha = analysis.comparisons, 1 - analysis.settings.confidence
    digits, told, counted = digits_of(analysis.summary), [], False
    others = [model for model in analysis.models if model != main]
    if len(others) > _TOLD:
        maes = reference_set(analysis.summary).set_index("model")["mae"]
        best = maes.reindex(others).nsmallest(_TOLD).index
        yield f"Of {len(others)} other models the {_TOLD} with the smallest errors:"
        others = [model for model in others if model in best]
    for other in others:
        rows = _of_pair(comparisons, (main, other))
        if rows.empty:
            continue
        row = reference_set(rows).iloc[0]
        if pd.isna(row["p"]):
            told.append(f"{other} (the difference is {NOT_ESTIMABLE})")
            continue
        difference, low, high = row[["difference", "difference_low", "difference_high"]]
        text = (
            f"{other} by {difference:+z.{digits}f} ({low:+z.{digits}f} to {high:+z.{digits}f}; "
            f"{p_text(row['p'])}"
        )
        tested = rows[(rows["role"] == EXTERNAL) & rows["p_holm"].notna()]
        if row["role"] == POOLED and len(tested):
            counted = True
            sure = tested["p_holm"] < alpha
            smaller, larger = (
                int((sure & (sign * tested["difference"] < 0)).sum()) for sign in (1, -1)
            )
            text += f"; smaller at {smaller} and larger at {larger} of {len(tested)} institutions"
        told.append(f"{text})")
    if told:
        yield f"On the same exams its {MAE} differs from that of {', of '.join(told)}."
    if counted:
        yield (
            "Institutions are counted where the difference there has a p below "
            f"{alpha:.2g} after Holm's correction."
        )


def _of_pair(comparisons: pd.DataFrame, pair: Pair) -> pd.DataFrame:
    """The rows of two models, as the first less the second."""
    main, other = pair
    ahead = comparisons[(comparisons["model_a"] == main) & (comparisons["model_b"] == other)]
    behind = comparisons[(comparisons["model_a"] == other) & (comparisons["model_b"] == main)]
    turned = {
        "mae_a": behind["mae_b"],
        "mae_b": behind["mae_a"],
        "difference": -behind["difference"],
        "difference_low": -behind["difference_high"],
        "difference_high": -behind["difference_low"],
    }
    return ahead if len(ahead) else behind.assign(**turned)


def limits(analyses: Analyses, study: Study) -> list[str]:
    """What stands between these figures and a hospital, as far as the figures show it."""
    first = next(iter(analyses.values()))
    told = list(where_from(first.summary, first.development, study))
    for label, analysis in analyses.items():
        of_label = f"{label}: " if len(analyses) > 1 else ""
        told += [of_label + text for text in _of_label(analysis)]
    told += not_analysed(study)
    if study.protocol == LEAVE_SITE_OUT:
        told.append(
            "The pooled rows put together exams that were estimated by another model in each fold."
        )
    if any((analysis.summary["method"] == CLUSTERED).any() for analysis in analyses.values()):
        told.append(
            "Some patients have several exams: intervals resample whole patients, and counts are "
            "exams."
        )
    told.append(
        "The limits of agreement are for all exams alike, as if errors were as large and biased "
        "at every truth; estimates that are drawn towards the mean are too high where the truth is "
        "low. The Bland-Altman plot and the slope show how far that is so."
    )
    subgroups = next((a.subgroups for a in analyses.values() if a.subgroups is not None), None)
    return [*told, *of_every_report(study, subgroups)]


def _of_label(analysis: ErrorAnalysis) -> Iterator[str]:
    summary = analysis.summary
    external = summary[summary["role"] == EXTERNAL]
    sets = external if len(external) else summary[summary["role"] != POOLED]
    unknown = sorted(set(sets.loc[sets["mae"].isna(), "institution"]))
    if unknown:
        yield (
            f"Not estimable, with fewer than two patients: {', '.join(unknown)}. They are in no "
            "mean over institutions."
        )
    few = sets[(sets["n"] < ENOUGH) & sets["mae"].notna()].drop_duplicates("institution")
    if len(few):
        names = [f"{row.institution} ({row.n})" for row in few.itertuples()]
        yield (
            f"Fewer than {ENOUGH} exams: {', '.join(names)}. Intervals are wide there, and those "
            "of R2 and of the slope too narrow in the smallest."
        )
    yield from different_exams(summary, analysis.own_summary)


def tripod_answers(
    analyses: Analyses, study: Study, titles: Mapping[str, str]
) -> dict[str, Answer]:
    """Answers by item. `titles` maps those sections that the report has to their titles.

    What is not estimable is not claimed.
    """
    answers: dict[str, Answer] = {}
    analysis = next(iter(analyses.values()))

    def add(item: str, section: str, text: str, *, complete: bool = True) -> None:
        answers[item] = Answer(titles[section], text, complete)

    measures = "mean absolute error, bias and limits of agreement, R2, calibration"
    if any(each.thresholds for each in analyses.values()):
        measures += ", AUROC of thresholds"
    add("12e", "results", f"{measures}; paired comparisons with Holm's correction")
    add("23a", "results", "tables and figures with intervals")
    add("21", "results", "exams and patients of each institution and split", complete=False)
    add("26", "limits", "those that the figures show", complete=False)
    developed = "development and " if study.protocol else ""
    about = f"{developed}evaluation of {', '.join(analysis.models)}"
    add("4", "question", about, complete=False)
    add("1", "question", f"outcome: {study.target}", complete=False)
    counts = f"{len(analysis.development)} development and {len(analysis.external)} external"
    add("6a", "protocol", f"{counts} institutions", complete=False)
    pooled = analysis.pooled["mae"]
    if pooled["mae"].notna().any():
        add("12d", "results", "random-effects meta-analysis of the institutions' errors")
        predicted = " and prediction interval" if pooled["predicted_low"].notna().any() else ""
        add("23b", "results", f"I squared, tau squared{predicted}")
    if study.rule:
        add("8a", "question", study.rule, complete=False)
    if study.preprocessing:
        text = "; ".join(f"{name}: {told}" for name, told in study.preprocessing.items())
        add("7", "protocol", f"the same for all patients: {text}")
        add("12b", "protocol", text)
        add("9b", "protocol", f"inputs: {text}", complete=False)
    if study.protocol:
        add("12a", "protocol", "who was trained on, validated on and tested on")
        add("12g", "repeat", "code at the commit that is named")
        applied = "applied by python -m experiments.predict"
        add("22", "repeat", f"checkpoints on the launch's runs, {applied}", complete=False)
        add("15", "question", "a number in the unit of the truth")
    if study.models:
        text = "kinds of model; settings in config.yaml of the run"
        add("12c", "question", text, complete=False)
    if study.commit:
        add("18f", "repeat", f"commit {study.commit}", complete=False)
    if any(each.subgroups is not None for each in analyses.values()):
        text = "mean absolute error and bias by subgroup, and the largest gaps"
        add("14", "results" if "subgroups" not in titles else "subgroups", text, complete=False)
    if "cohort" in titles:
        add("5a", "cohort", "exams by institution and role", complete=False)
        add("11", "cohort", "complete exams only; reasons are counted")
        add("16", "cohort", "table 1, by institution and role", complete=False)
        add("20a", "cohort", "flow diagram")
        add("20b", "cohort", "table 1, with missing values", complete=False)
        add("20c", "cohort", "table 1: development beside external")
    return answers


def agreement_rows(table: pd.DataFrame, digits: int) -> pd.DataFrame:
    """All of `summarise_estimates` for people."""
    rows = [
        {
            "institution": row["institution"],
            "model": row["model"],
            "exams": f"{row['n']:,}",
            "patients": f"{row['patients']:,}",
            MAE: estimate(row, "mae", digits),
            "root mean square error": estimate(row, "rmse", digits),
            "bias": estimate(row, "bias", digits),
            "lower limit": estimate(row, "lower_limit", digits),
            "upper limit": estimate(row, "upper_limit", digits),
            "R2": estimate(row, "r2", 2),
        }
        for _, row in table.iterrows()
    ]
    return pd.DataFrame(rows)


def calibration_rows(table: pd.DataFrame, digits: int) -> pd.DataFrame:
    rows = [
        {
            "institution": row["institution"],
            "model": row["model"],
            "exams": f"{row['n']:,}",
            "slope": estimate(row, "slope", 2),
            "intercept": estimate(row, "intercept", digits),
            "in the large": estimate(_in_the_large(row), "mean", digits),
        }
        for _, row in table.iterrows()
    ]
    return pd.DataFrame(rows)


def _in_the_large(row: pd.Series) -> dict[str, float]:
    return {"mean": -row["bias"], "mean_low": -row["bias_high"], "mean_high": -row["bias_low"]}


def comparison_rows(table: pd.DataFrame, digits: int) -> pd.DataFrame:
    """The rows of `compare_errors` for people."""
    rows = []
    for _, row in table.iterrows():
        values = NOT_ESTIMABLE
        if pd.notna(row["mae_a"]):
            values = f"{row['mae_a']:z.{digits}f} - {row['mae_b']:z.{digits}f}"
        difference = NOT_ESTIMABLE
        if pd.notna(row["difference_low"]):
            low, high = row["difference_low"], row["difference_high"]
            difference = (
                f"{row['difference']:+z.{digits}f} ({low:+z.{digits}f} to {high:+z.{digits}f})"
            )
        rows.append(
            {
                "institution": row["institution"],
                "role": row["role"],
                "models": f"{row['model_a']} - {row['model_b']}",
                "exams": row["n"],
                "left out": row["left_out"],
                "mean absolute errors": values,
                "difference": difference,
                "p": p_text(row["p"]),
                "p (Holm)": p_text(row["p_holm"]),
            }
        )
    columns = (
        "institution", "role", "models", "exams", "left out", "mean absolute errors", "difference",
        "p", "p (Holm)",
    )  # fmt: skip
    return pd.DataFrame(rows, columns=list(columns))


def heterogeneity_rows(pooled: Mapping[str, pd.DataFrame], digits: int) -> pd.DataFrame:
    rows = [
        {
            "model": row["model"],
            "measure": {"mae": MAE, "bias": "bias"}[statistic],
            "institutions": row["institutions"],
            "left out": row["left_out"],
            "mean": estimate(row, statistic, digits),
            "prediction interval": NOT_ESTIMABLE
            if pd.isna(row["predicted_low"])
            else between(row["predicted_low"], row["predicted_high"], digits),
            "I squared": NOT_ESTIMABLE
            if pd.isna(row["i_squared"])
            else f"{100 * row['i_squared']:.0f} %",
            "Cochran's Q": "" if pd.isna(row["q"]) else f"{row['q']:.1f}, {p_text(row['q_p'])}",
        }
        for statistic, table in pooled.items()
        for _, row in table.iterrows()
    ]
    return pd.DataFrame(rows)


def subgroup_rows(table: pd.DataFrame, digits: int) -> pd.DataFrame:
    rows = [
        {
            "variable": row["variable"],
            "subgroup": row["group"],
            "model": row["model"],
            "exams": f"{row['n']:,}",
            MAE: estimate(row, "mae", digits),
            "bias": estimate(row, "bias", digits),
        }
        for _, row in table.iterrows()
    ]
    return pd.DataFrame(rows)


def gap_rows(table: pd.DataFrame, digits: int) -> pd.DataFrame:
    rows = [
        {
            "model": row["model"],
            "variable": row["variable"],
            "measure": {"mae": MAE, "bias": "bias"}[row["statistic"]],
            "between": "" if pd.isna(row["gap"]) else f"{row['group_a']} vs {row['group_b']}",
            "gap": estimate(row, "gap", digits),
            "p": p_text(row["q_p"]),
        }
        for _, row in table.iterrows()
    ]
    return pd.DataFrame(rows)
