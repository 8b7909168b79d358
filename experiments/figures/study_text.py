"""What a report says in words: its answer, its limits and its checklist."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from experiments.evaluation.analysis import Analysis
from experiments.evaluation.auroc import NOT_ESTIMABLE
from experiments.evaluation.operating import YOUDEN
from experiments.evaluation.predictions import DEVELOPMENT, EXTERNAL, MACRO, POOLED
from experiments.evaluation.summary import p_text
from experiments.evaluation.tripod import Answer
from experiments.figures.study import EXTERNAL_VALIDATION, LEAVE_SITE_OUT, Study
from experiments.figures.style import ROLES
from lightning_modules.tasks.decision import PLATT, UNCHANGED

ENOUGH = 100  # exams of each class, for an external validation (Vergouwe et al. 2005)
_TOLD = 6  # models, at most, that the answer compares the main one with


def interval(value: float, low: float, high: float, digits: int = 3) -> str:
    """ "0.912 (0.880-0.944)", or "not estimable"; "to" where a bound is below 0."""
    if not np.isfinite(value):
        return NOT_ESTIMABLE
    if not np.isfinite([low, high]).all():
        return f"{value:z.{digits}f}"
    return f"{value:z.{digits}f} ({between(low, high, digits)})"


def between(low: float, high: float, digits: int = 3) -> str:
    """ "0.880-0.944"; "to" where a bound is below 0."""
    return f"{low:z.{digits}f}{'-' if low >= 0 else ' to '}{high:z.{digits}f}"


def estimate(row: Mapping[str, float] | pd.Series, name: str, digits: int = 3) -> str:
    return interval(row[name], row[f"{name}_low"], row[f"{name}_high"], digits)


def number_of(count: int, noun: str) -> str:
    """ "1 model", "2,000 models"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def reference_set(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of all external exams together; of the only external institution; or, without any,
    of the first internal test.
    """
    for role in (POOLED, EXTERNAL, DEVELOPMENT):
        rows = table[table["role"] == role]
        if not rows.empty:
            first = str(rows["institution"].iloc[0])
            return rows[rows["institution"] == first]
    return table


def where(table: pd.DataFrame) -> str:
    """The test set of `reference_set`, in words."""
    row = reference_set(table).iloc[0]
    return {
        POOLED: ROLES[POOLED],
        EXTERNAL: f"External institution {row['institution']}",
        DEVELOPMENT: f"Internal test of {row['institution']}",
    }[row["role"]]


def answer(analysis: Analysis, study: Study) -> list[str]:
    """The headline figures, as paragraphs: the main model, then against the others."""
    main = study.leading(analysis.models)
    return [
        " ".join(_alone(analysis, study.target, main)),
        " ".join(_at_work(analysis, main)),
        " ".join(_against_others(analysis, main)),
    ]


def answer_macro(analysis: Analysis, study: Study) -> tuple[str, str]:
    """Of the macro average: the main model, then against the others."""
    main = study.leading(analysis.models)
    alone = " ".join(_alone(analysis, study.target, main))
    return alone, " ".join(_against_others(analysis, main))


def _alone(analysis: Analysis, target: str, main: str) -> Iterator[str]:
    summary, pooled = analysis.summary, analysis.pooled
    confidence = analysis.settings.confidence
    of_model = summary[summary["model"] == main]
    row = reference_set(of_model).iloc[0]
    external = of_model[of_model["role"] == EXTERNAL]
    where = f"the internal test of {row['institution']}"
    if row["role"] == POOLED:
        where = f"{len(external)} external institutions together"
    elif row["role"] == EXTERNAL:
        where = f"the external institution {row['institution']}"
    counts = f"{row['n']:,} exams ({row['positives']:,} positive) of {where}"
    if analysis.label == MACRO:
        counts = f"{row['n']:,} exams of {where}"
    if analysis.label == MACRO and pd.notna(row["auroc"]):
        yield (
            f"In {counts}, the macro average AUROC of {main} over {row['labels']} labels is "
            f"{row['auroc']:.3f} ({100 * confidence:g} % interval {row['auroc_low']:.3f} to "
            f"{row['auroc_high']:.3f})."
        )
    elif pd.isna(row["auroc"]):
        yield f"The AUROC of {main} for {target} is {NOT_ESTIMABLE} in {counts}."
    else:
        yield (
            f"In {counts}, {main} detected {target} with an AUROC of {row['auroc']:.3f} "
            f"({100 * confidence:g} % interval {row['auroc_low']:.3f} to {row['auroc_high']:.3f})."
        )
    known = external.dropna(subset="auroc").sort_values("auroc")
    alike = known
    if analysis.label == MACRO:
        alike = known[known["left_out"] == row["left_out"]]
    if row["role"] == POOLED and len(alike) > 1:
        low, high = alike.iloc[0], alike.iloc[-1]
        yield (
            f"Across institutions it was from {low['auroc']:.3f} ({low['institution']}) to "
            f"{high['auroc']:.3f} ({high['institution']})."
        )
    if analysis.label == MACRO:
        others = known.loc[known["left_out"] != row["left_out"], "institution"]
        if len(others):
            yield (
                f"At {', '.join(others)} it is over other labels than in all, for few patients "
                "of a class or none, and in no range or mean over institutions."
            )
    unknown = external[external["auroc"].isna()]
    if row["role"] == POOLED and len(unknown):
        yield f"It is {NOT_ESTIMABLE} at {', '.join(unknown['institution'])}."
    of_pooled = pooled[(pooled["model"] == main) & pooled["predicted_low"].notna()]
    for _, one in of_pooled.iterrows():
        yield (
            f"The mean over {one['institutions']} institutions, by random effects, is "
            f"{estimate(one, 'auroc')}; in a new hospital the AUROC is expected between "
            f"{one['predicted_low']:.3f} and {one['predicted_high']:.3f} "
            f"(I squared {100 * one['i_squared']:.0f} %)."
        )


def _at_work(analysis: Analysis, main: str) -> Iterator[str]:
    operating, calibration = analysis.operating, analysis.calibration
    rows = operating[(operating["model"] == main) & (operating["operating_point"] == YOUDEN)]
    if len(rows) and pd.notna(reference_set(rows).iloc[0]["sensitivity"]):
        row = reference_set(rows).iloc[0]
        yield (
            "At the threshold chosen on development data its sensitivity was "
            f"{estimate(row, 'sensitivity', 2)} and its specificity "
            f"{estimate(row, 'specificity', 2)}."
        )
    rows = reference_set(calibration[calibration["model"] == main])
    by_method = {row["recalibration"]: row for _, row in rows.iterrows()}
    if UNCHANGED in by_method and pd.notna(by_method[UNCHANGED]["observed_expected"]):
        before, after = by_method[UNCHANGED], by_method.get(PLATT)
        text = (
            "Positive exams were "
            f"{estimate(before, 'observed_expected', 2)} times as many as its probabilities add up "
            f"to, and the calibration slope was {estimate(before, 'slope', 2)}"
        )
        if after is not None and pd.notna(after["observed_expected"]):
            slope = NOT_ESTIMABLE if pd.isna(after["slope"]) else f"{after['slope']:.2f}"
            text += (
                f"; after recalibration on development data {after['observed_expected']:.2f} and "
                f"{slope}"
            )
        yield f"{text}."


def _against_others(analysis: Analysis, main: str) -> Iterator[str]:
    comparisons, alpha = analysis.comparisons, 1 - analysis.settings.confidence
    told, counted = [], False
    others = [model for model in analysis.models if model != main]
    if len(others) > _TOLD:
        aurocs = reference_set(analysis.summary).set_index("model")["auroc"]
        best = aurocs.reindex(others).nlargest(_TOLD).index
        yield f"Of {len(others)} other models the {_TOLD} with the highest AUROCs:"
        others = [model for model in others if model in best]
    for other in others:
        ahead = (comparisons["model_a"] == main) & (comparisons["model_b"] == other)
        behind = (comparisons["model_a"] == other) & (comparisons["model_b"] == main)
        rows = comparisons[ahead | behind]
        if rows.empty:
            continue
        row = reference_set(rows).iloc[0]
        if pd.isna(row["p"]):
            told.append(f"{other} (the difference is {NOT_ESTIMABLE})")
            continue
        difference, low, high = row[["difference", "difference_low", "difference_high"]]
        if row["model_a"] == other:
            difference, low, high = -difference, -high, -low
        text = f"{other} by {difference:+.3f} ({low:+.3f} to {high:+.3f}; {p_text(row['p'])}"
        tested = rows[(rows["role"] == EXTERNAL) & rows["p_holm"].notna()]
        if row["role"] == POOLED and len(tested):
            counted = True
            sign = np.where(tested["model_a"] == main, 1, -1) * tested["difference"]
            sure = tested["p_holm"] < alpha
            higher, lower = (int((sure & (s > 0)).sum()) for s in (sign, -sign))
            text += f"; higher at {higher} and lower at {lower} of {len(tested)} institutions"
        told.append(f"{text})")
    if told:
        auroc = "macro average AUROC" if analysis.label == MACRO else "AUROC"
        yield f"On the same exams its {auroc} differs from that of {', of '.join(told)}."
    if counted:
        yield (
            "Institutions are counted where the difference there has a p below "
            f"{alpha:.2g} after Holm's correction."
        )


def limits(analysis: Analysis, study: Study) -> list[str]:
    """What stands between these figures and a hospital, as far as the figures show it."""
    summary, operating = analysis.summary, analysis.operating
    told = list(where_from(summary, analysis.development, study))
    external = summary[summary["role"] == EXTERNAL]
    sets = external if len(external) else summary
    unknown = sorted(set(sets.loc[sets["auroc"].isna(), "institution"]))
    if unknown:
        told.append(
            f"Not estimable, with fewer than two patients in a class: {', '.join(unknown)}. They "
            "are in no mean over institutions."
        )
    smaller = np.minimum(sets["positives"], sets["n"] - sets["positives"])
    few = sets[(smaller < ENOUGH) & sets["auroc"].notna()].drop_duplicates("institution")
    if len(few) and analysis.label != MACRO:
        names = [f"{r.institution} ({r.positives} of {r.n})" for r in few.itertuples()]
        told.append(
            f"Fewer than {ENOUGH} exams of a class, the least that an external validation should "
            f"have (Vergouwe et al., J Clin Epidemiol 2005;58:475): positive of all exams are "
            f"{', '.join(names)}. Their intervals are wide, and calibration there is uncertain."
        )
    told += not_analysed(study)
    told += different_exams(summary, analysis.own_summary)
    if operating.empty or operating["sensitivity"].isna().all():
        told.append(
            "Without development validation exams of both classes there are no operating "
            "thresholds and no recalibration: they are never fitted on the exams they apply to."
        )
    if study.protocol == LEAVE_SITE_OUT:
        told.append(
            "The pooled rows put together exams that were scored by another model in each fold."
        )
    exams = analysis.predictions.drop_duplicates(["institution", "exam_id"])
    if exams.duplicated(["institution", "patient_id"]).any():
        how = "resample whole patients"
        if analysis.label == MACRO:
            how = (
                "are by patients (of the macro average AUROC in closed form, of all else by "
                "resampling them whole)"
            )
        told.append(f"Some patients have several exams: intervals {how}, and counts are exams.")
    return [*told, *of_every_report(study, analysis.subgroups)]


def where_from(summary: pd.DataFrame, development: Sequence[str], study: Study) -> Iterator[str]:
    """What the institutions of a study leave open."""
    if study.simulated:
        yield f"Simulated: {study.simulated}"
    external = summary[summary["role"] == EXTERNAL]
    if external.empty:
        yield (
            "No external institution was tested: nothing here says how a model travels to "
            "another hospital."
        )
    elif external["institution"].nunique() == 1:
        yield "There is one external institution: differences between hospitals cannot be told."
    if study.protocol == EXTERNAL_VALIDATION and len(development) == 1:
        yield (
            f"All models learned from one institution ({development[0]}): what they owe to its "
            "devices and patients cannot be told from what they owe to the disease."
        )


def not_analysed(study: Study) -> Iterator[str]:
    if study.cohort is None:
        return
    flow = study.cohort.flow
    unusable = int((flow["in manifest"] - flow["packed"]).sum())
    untold = int((flow["packed"] - flow["with target"]).sum())
    total = int(flow["in manifest"].sum())
    unknown = f"{study.target} is not known"
    if len(study.cohort.targets) > 1:
        unknown = f"none of {study.target} is known"
    if unusable or untold:
        yield (
            f"Of {total:,} exams {unusable:,} were left out for want of a usable input and "
            f"{untold:,} because {unknown}; if those differ from the "
            "others, so may the models' performance in them. Nothing was imputed."
        )


def not_tested(study: Study) -> str:
    """Which labels the report is not on."""
    if not study.untested:
        return ""
    return f"No exam was tested for {', '.join(study.untested)}: nothing here is on how well " + (
        "these labels are told." if len(study.untested) > 1 else "this label is told."
    )


def of_every_report(study: Study, subgroups: pd.DataFrame | None) -> Iterator[str]:
    yield from study.limits
    yield from filter(None, [not_tested(study)])
    yield from () if study.cohort is None else study.cohort.notes
    yield (
        "Each analysis of subgroups and each comparison is one of many. Holm's correction holds "
        "over the institutions of one pair of models, not over pairs, subgroups or measures."
    )
    missing = {"cohort": study.cohort is None, "subgroups": subgroups is None}
    if any(missing.values()):
        absent = " or ".join(name for name, is_missing in missing.items() if is_missing)
        yield (
            f"This report has no section on {absent}: they take the manifests, and predictions "
            "that are handed in come without."
        )


def different_exams(summary: pd.DataFrame, own_summary: pd.DataFrame | None) -> Iterator[str]:
    if own_summary is None:
        if (summary.groupby("institution")["n"].nunique() > 1).any() or (
            summary.groupby("model")["institution"].agg(frozenset).nunique() > 1
        ):
            yield (
                "No exam was predicted by all models: their figures are of different exams and "
                "must not be compared. The paired comparisons are of the exams that both have."
            )
        return
    own, common = (table[table["role"] != POOLED] for table in (own_summary, summary))
    of_model = own.groupby("model", sort=False)["n"].sum()
    counts = ", ".join(f"{model} {n:,}" for model, n in of_model.items())
    n = int(common.groupby("model")["n"].sum().max())
    text = f"Measures are of the {n:,} exams that all models have. Alone, they have {counts}."
    lost = [name for name in own["institution"].unique() if name not in set(common["institution"])]
    yield f"{text} No exam of {', '.join(lost)} is common to all." if lost else text


def tripod_answers(
    analysis: Analysis, study: Study, titles: Mapping[str, str]
) -> dict[str, Answer]:
    """Answers by item. `titles` maps those sections that the report has to their titles.

    What is not estimable is not claimed.
    """
    answers: dict[str, Answer] = {}

    def add(item: str, section: str, text: str) -> None:
        answers[item] = Answer(titles[section], text)

    def partly(item: str, section: str, text: str) -> None:
        answers[item] = Answer(titles[section], text, complete=False)

    measures = "AUROC, average precision, measures at operating points, calibration, net benefit"
    add("12e", "results", f"{measures}; paired comparisons with Holm's correction")
    add("23a", "results", "tables and figures with intervals")
    add("21", "results", "exams and positive ones of each institution and split")
    partly("26", "limits", "those that the figures show")
    developed = "development and " if study.protocol else ""
    partly("4", "question", f"{developed}evaluation of {', '.join(analysis.models)}")
    partly("1", "question", f"outcome: {study.target}")
    counts = f"{len(analysis.development)} development and {len(analysis.external)} external"
    partly("6a", "protocol", f"{counts} institutions")
    pooled = analysis.pooled
    if pooled["auroc"].notna().any():
        add("12d", "results", "random-effects meta-analysis of the institutions' AUROCs")
        predicted = " and prediction interval" if pooled["predicted_low"].notna().any() else ""
        add("23b", "results", f"I squared, tau squared{predicted}")
    if study.rule:
        partly("8a", "question", study.rule)
    if study.preprocessing:
        text = "; ".join(f"{name}: {told}" for name, told in study.preprocessing.items())
        add("7", "protocol", f"the same for all patients: {text}")
        add("12b", "protocol", text)
        partly("9b", "protocol", f"inputs: {text}")
    if study.protocol:
        add("12a", "protocol", "who was trained on, validated on and tested on")
        add("12g", "repeat", "code at the commit that is named")
        applied = "applied by python -m experiments.predict"
        partly("22", "repeat", f"checkpoints on the launch's runs, {applied}")
        if "operating" in titles:
            add("15", "operating", "a probability; thresholds from development data")
    if study.models:
        partly("12c", "question", "kinds of model; settings in config.yaml of the run")
    if study.commit:
        partly("18f", "repeat", f"commit {study.commit}")
    calibration = analysis.calibration
    after = calibration[calibration["recalibration"] != UNCHANGED]
    if "calibration" in titles and after["brier"].notna().any():
        text = "Platt and isotonic recalibration on development data, before and after"
        add("12f", "calibration", text)
        add("24", "calibration", "performance after recalibration")
    if "subgroups" in titles:
        partly("14", "subgroups", "AUROC and calibration by subgroup, and the largest gaps")
    if "cohort" in titles:
        partly("5a", "cohort", "exams by institution and role")
        add("11", "cohort", "complete exams only; reasons are counted")
        partly("16", "cohort", "table 1, by institution and role")
        add("20a", "cohort", "flow diagram")
        partly("20b", "cohort", "table 1, with missing values")
        add("20c", "cohort", "table 1: development beside external")
    return answers
