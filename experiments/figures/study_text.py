"""What a report says in words: its answer, its limits and its checklist."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from experiments.evaluation.auroc import CLUSTERED, NOT_ESTIMABLE
from experiments.evaluation.operating import YOUDEN
from experiments.evaluation.summary import p_text
from experiments.evaluation.tripod import Answer

EXTERNAL_VALIDATION = "external_validation"
LEAVE_SITE_OUT = "leave_site_out"
ENOUGH = 100  # exams of each class, for an external validation (Vergouwe et al. 2005)
_TOLD = 6  # models, at most, that the answer compares the main one with


@dataclass(frozen=True)
class Study:
    """What is known of a study beyond its predictions; what is empty is left out of the report.

    `rule`: how the target follows from measurements. `protocol`: "external_validation",
    "leave_site_out", or "" where only predictions were handed in. `models`: name -> what it is.
    `main`: the model that the answer is about (else the first). `fusion`: how models were fused.
    `splits`: shares of the development patients. `preprocessing`: input -> what is done to it.
    `simulated`: what is simulated and what that means, for the banner. `limits`: what a launch adds
    to the limits (a pretraining that ended on its plateau). `digests` and `versions`: of data and
    of software.
    """

    name: str
    target: str
    rule: str = ""
    protocol: str = ""
    models: Mapping[str, str] = field(default_factory=dict)
    main: str = ""
    fusion: str = ""
    splits: Mapping[str, float] = field(default_factory=dict)
    preprocessing: Mapping[str, str] = field(default_factory=dict)
    simulated: str = ""
    limits: Sequence[str] = ()
    command: str = ""
    commit: str = ""
    digests: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def interval(value: float, low: float, high: float, digits: int = 3) -> str:
    """ "0.912 (0.880-0.944)", or "not estimable"; "to" where a bound is below 0."""
    if not np.isfinite(value):
        return NOT_ESTIMABLE
    if not np.isfinite([low, high]).all():
        return f"{value:.{digits}f}"
    dash = "-" if low >= 0 else " to "
    return f"{value:.{digits}f} ({low:.{digits}f}{dash}{high:.{digits}f})"


def estimate(row: Mapping[str, float] | pd.Series, name: str, digits: int = 3) -> str:
    return interval(row[name], row[f"{name}_low"], row[f"{name}_high"], digits)


def number_of(count: int, noun: str) -> str:
    """ "1 model", "2,000 models"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def reference_set(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of all external exams together; of the only external institution; or, without any,
    of the first internal test.
    """
    for role in ("pooled", "external", "development"):
        rows = table[table["role"] == role]
        if not rows.empty:
            return rows[rows["institution"] == rows["institution"].iloc[0]]
    return table


def answer(
    study: Study,
    main: str,
    summary: pd.DataFrame,
    comparisons: pd.DataFrame,
    pooled: pd.DataFrame,
    operating: pd.DataFrame,
    calibration: pd.DataFrame,
    *,
    confidence: float,
) -> list[str]:
    """The headline figures, as paragraphs: the main model, then against the others."""
    return [
        " ".join(_alone(study, main, summary, pooled, confidence)),
        " ".join(_at_work(main, operating, calibration)),
        " ".join(_against_others(main, summary, comparisons, confidence)),
    ]


def _alone(
    study: Study, main: str, summary: pd.DataFrame, pooled: pd.DataFrame, confidence: float
) -> Iterator[str]:
    of_model = summary[summary["model"] == main]
    row = reference_set(of_model).iloc[0]
    external = of_model[of_model["role"] == "external"]
    where = f"the internal test of {row['institution']}"
    if row["role"] == "pooled":
        where = f"{len(external)} external institutions together"
    elif row["role"] == "external":
        where = f"the external institution {row['institution']}"
    counts = f"{row['n']:,} exams ({row['positives']:,} positive) of {where}"
    if pd.isna(row["auroc"]):
        yield f"The AUROC of {main} for {study.target} is {NOT_ESTIMABLE} in {counts}."
    else:
        yield (
            f"In {counts}, {main} detected {study.target} with an AUROC of {row['auroc']:.3f} "
            f"({100 * confidence:g} % interval {row['auroc_low']:.3f} to {row['auroc_high']:.3f})."
        )
    known = external.dropna(subset="auroc").sort_values("auroc")
    if row["role"] == "pooled" and len(known) > 1:
        low, high = known.iloc[0], known.iloc[-1]
        yield (
            f"Across institutions it was from {low['auroc']:.3f} ({low['institution']}) to "
            f"{high['auroc']:.3f} ({high['institution']})."
        )
    unknown = external[external["auroc"].isna()]
    if row["role"] == "pooled" and len(unknown):
        yield f"It is {NOT_ESTIMABLE} at {', '.join(unknown['institution'])}."
    of_pooled = pooled[(pooled["model"] == main) & pooled["predicted_low"].notna()]
    for _, one in of_pooled.iterrows():
        yield (
            f"The mean over {one['institutions']} institutions, by random effects, is "
            f"{estimate(one, 'auroc')}; in a new hospital the AUROC is expected between "
            f"{one['predicted_low']:.3f} and {one['predicted_high']:.3f} "
            f"(I squared {100 * one['i_squared']:.0f} %)."
        )


def _at_work(main: str, operating: pd.DataFrame, calibration: pd.DataFrame) -> Iterator[str]:
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
    if "none" in by_method and pd.notna(by_method["none"]["observed_expected"]):
        before, after = by_method["none"], by_method.get("platt")
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


def _against_others(
    main: str, summary: pd.DataFrame, comparisons: pd.DataFrame, confidence: float
) -> Iterator[str]:
    alpha = 1 - confidence
    told, counted = [], False
    others = [model for model in summary["model"].unique() if model != main]
    if len(others) > _TOLD:
        aurocs = reference_set(summary).set_index("model")["auroc"]
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
        tested = rows[(rows["role"] == "external") & rows["p_holm"].notna()]
        if row["role"] == "pooled" and len(tested):
            counted = True
            sign = np.where(tested["model_a"] == main, 1, -1) * tested["difference"]
            sure = tested["p_holm"] < alpha
            higher, lower = (int((sure & (s > 0)).sum()) for s in (sign, -sign))
            text += f"; higher at {higher} and lower at {lower} of {len(tested)} institutions"
        told.append(f"{text})")
    if told:
        yield f"On the same exams its AUROC differs from that of {', of '.join(told)}."
    if counted:
        yield (
            "Institutions are counted where the difference there has a p below "
            f"{alpha:.2g} after Holm's correction."
        )


def limits(
    study: Study,
    summary: pd.DataFrame,
    own_summary: pd.DataFrame | None,
    operating: pd.DataFrame,
    flow: pd.DataFrame | None,
    development: Sequence[str],
) -> list[str]:
    """What stands between these figures and a hospital, as far as the figures show it."""
    told = []
    if study.simulated:
        told.append(f"Simulated: {study.simulated}")
    external = summary[summary["role"] == "external"]
    sets = external if len(external) else summary
    if external.empty:
        told.append(
            "No external institution was tested: nothing here says how a model travels to "
            "another hospital."
        )
    elif external["institution"].nunique() == 1:
        told.append(
            "There is one external institution: differences between hospitals cannot be told."
        )
    if study.protocol == EXTERNAL_VALIDATION and len(development) == 1:
        told.append(
            f"All models learned from one institution ({development[0]}): what they owe to its "
            "devices and patients cannot be told from what they owe to the disease."
        )
    unknown = sorted(set(sets.loc[sets["auroc"].isna(), "institution"]))
    if unknown:
        told.append(
            f"Not estimable, with fewer than two patients in a class: {', '.join(unknown)}. They "
            "are in no mean over institutions."
        )
    smaller = np.minimum(sets["positives"], sets["n"] - sets["positives"])
    few = sets[(smaller < ENOUGH) & sets["auroc"].notna()].drop_duplicates("institution")
    if len(few):
        names = [f"{r.institution} ({r.positives} of {r.n})" for r in few.itertuples()]
        told.append(
            f"Fewer than {ENOUGH} exams of a class, the least that an external validation should "
            f"have (Vergouwe et al., J Clin Epidemiol 2005;58:475): positive of all exams are "
            f"{', '.join(names)}. Their intervals are wide, and calibration there is uncertain."
        )
    if flow is not None:
        unusable = int((flow["in manifest"] - flow["packed"]).sum())
        untold = int((flow["packed"] - flow["with target"]).sum())
        total = int(flow["in manifest"].sum())
        if unusable or untold:
            told.append(
                f"Of {total:,} exams {unusable:,} were left out for want of a usable input and "
                f"{untold:,} because {study.target} is not known; if those differ from the "
                "others, so may the models' performance in them. Nothing was imputed."
            )
    told += _different_exams(summary, own_summary)
    if operating.empty or operating["sensitivity"].isna().all():
        told.append(
            "Without development validation exams of both classes there are no operating "
            "thresholds and no recalibration: they are never fitted on the exams they apply to."
        )
    if study.protocol == LEAVE_SITE_OUT:
        told.append(
            "The pooled rows put together exams that were scored by another model in each fold."
        )
    if (summary["method"] == CLUSTERED).any():
        told.append(
            "Some patients have several exams: intervals resample whole patients, and counts are "
            "exams."
        )
    told += study.limits
    told.append(
        "Each analysis of subgroups and each comparison is one of many. Holm's correction holds "
        "over the institutions of one pair of models, not over pairs, subgroups or measures."
    )
    return told


def _different_exams(summary: pd.DataFrame, own_summary: pd.DataFrame | None) -> Iterator[str]:
    if own_summary is None:
        if (summary.groupby("institution")["n"].nunique() > 1).any() or (
            summary.groupby("model")["institution"].agg(frozenset).nunique() > 1
        ):
            yield (
                "No exam was predicted by all models: their figures are of different exams and "
                "must not be compared. The paired comparisons are of the exams that both have."
            )
        return
    own, common = (table[table["role"] != "pooled"] for table in (own_summary, summary))
    of_model = own.groupby("model", sort=False)["n"].sum()
    counts = ", ".join(f"{model} {n:,}" for model, n in of_model.items())
    n = int(common.groupby("model")["n"].sum().max())
    text = f"Measures are of the {n:,} exams that all models have. Alone, they have {counts}."
    lost = [name for name in own["institution"].unique() if name not in set(common["institution"])]
    yield f"{text} No exam of {', '.join(lost)} is common to all." if lost else text


def tripod_answers(
    study: Study,
    summary: pd.DataFrame,
    sections: Mapping[str, str],
    *,
    pooled: pd.DataFrame,
    calibration: pd.DataFrame,
    development: Sequence[str],
    external: Sequence[str],
) -> dict[str, Answer]:
    """Answers by item. `sections` maps those sections that the report has to their titles.

    What is not estimable in `pooled` (of `pooled_aurocs`) or `calibration` (of
    `calibration_table`) is not claimed.
    """
    titles = sections
    institutions = f"{len(development)} development and {len(external)} external institutions"
    models = ", ".join(summary["model"].unique())
    answers: dict[str, Answer] = {
        "12e": Answer(
            titles["results"],
            "AUROC, average precision, measures at operating points, calibration, net benefit; "
            "paired comparisons with Holm's correction",
        ),
        "23a": Answer(titles["results"], "tables and figures with intervals"),
        "26": Answer(titles["limits"], "those that the figures show", complete=False),
        "4": Answer(
            titles["question"],
            f"{'development and ' if study.protocol else ''}evaluation of {models}",
            complete=False,
        ),
        "1": Answer(titles["question"], f"outcome: {study.target}", complete=False),
        "6a": Answer(titles["protocol"], institutions, complete=False),
        "21": Answer(titles["results"], "exams and positive ones of each institution and split"),
    }
    if pooled["auroc"].notna().any():
        text = "random-effects meta-analysis of the institutions' AUROCs"
        answers["12d"] = Answer(titles["results"], text)
        interval = " and prediction interval" if pooled["predicted_low"].notna().any() else ""
        answers["23b"] = Answer(titles["results"], f"I squared, tau squared{interval}")
    if study.rule:
        answers["8a"] = Answer(titles["question"], study.rule, complete=False)
    if study.preprocessing:
        text = "; ".join(f"{name}: {told}" for name, told in study.preprocessing.items())
        answers["7"] = Answer(titles["protocol"], f"the same for all patients: {text}")
        answers["12b"] = Answer(titles["protocol"], text)
        answers["9b"] = Answer(titles["protocol"], f"inputs: {text}", complete=False)
    if study.protocol:
        answers |= {
            "12a": Answer(titles["protocol"], "who was trained on, validated on and tested on"),
            "12g": Answer(titles["repeat"], "code at the commit that is named"),
        }
    if study.protocol and "operating" in titles:
        text = "a probability; thresholds from development data"
        answers["15"] = Answer(titles["operating"], text)
    if study.models:
        text = "kinds of model; settings in config.yaml of the run"
        answers["12c"] = Answer(titles["question"], text, complete=False)
    if study.commit:
        answers["18f"] = Answer(titles["repeat"], f"commit {study.commit}", complete=False)
    if study.protocol:
        text = "checkpoints on the launch's runs, applied by python -m experiments.predict"
        answers["22"] = Answer(titles["repeat"], text, complete=False)
    after = calibration[calibration["recalibration"] != "none"]
    if "calibration" in titles and after["brier"].notna().any():
        text = "Platt and isotonic recalibration on development data, before and after"
        answers["12f"] = Answer(titles["calibration"], text)
        answers["24"] = Answer(titles["calibration"], "performance after recalibration")
    if "subgroups" in titles:
        text = "AUROC and calibration by subgroup, and the largest gaps"
        answers["14"] = Answer(titles["subgroups"], text, complete=False)
    if "cohort" in titles:
        answers |= {
            "5a": Answer(titles["cohort"], "exams by institution and role", complete=False),
            "11": Answer(titles["cohort"], "complete exams only; reasons are counted"),
            "16": Answer(titles["cohort"], "table 1, by institution and role", complete=False),
            "20a": Answer(titles["cohort"], "flow diagram"),
            "20b": Answer(titles["cohort"], "table 1, with missing values", complete=False),
            "20c": Answer(titles["cohort"], "table 1: development beside external"),
        }
    return answers
