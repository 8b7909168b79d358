"""Sections of a report on several labels: their macro average, all of them, and each."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import pandas as pd

from experiments.evaluation.analysis import Analysis, Several
from experiments.evaluation.auroc import NOT_ESTIMABLE
from experiments.evaluation.macro import left_out_labels, shared_labels
from experiments.evaluation.predictions import EXTERNAL, POOLED, ROLES
from experiments.evaluation.summary import estimate_text
from experiments.figures import measured, shown, study_text
from experiments.figures.forest import forest_figure
from experiments.figures.html import Block, Listing, Paragraph, Picture, Section
from experiments.figures.study import NAMED, Study
from experiments.figures.study_text import ENOUGH, number_of, reference_set, where
from experiments.figures.tables import Table

_LINES = 60  # at most, of the forest of labels, where these are fewer
_COLUMNS = 3  # models, at most, in the table of labels
_OF_LABEL = ("results", "roc", "operating_points", "reliability", "calibration")


def answer(several: Several, study: Study) -> list[Block]:
    first, against = study_text.answer_macro(several.overall, study)
    texts = [" ".join(_of_labels(several, study)), against, study_text.not_tested(study)]
    return [Paragraph(first, strong=True), *(Paragraph(text) for text in texts if text)]


def _of_labels(several: Several, study: Study) -> Iterator[str]:
    main = study.leading(several.overall.models)
    table = _reference(several)
    of_main = table[table["model"] == main]
    known = of_main.dropna(subset="auroc").sort_values("auroc", kind="stable")
    if len(known) > 1:
        low, high = known.iloc[0], known.iloc[-1]
        yield (
            f"By label its AUROC was from {estimate_text(low)}, {low['named']}, to "
            f"{estimate_text(high)}, {high['named']}."
        )
    yield from _of_some_models(several.overall)
    unknown = of_main["auroc"].isna()
    few, absent = (
        of_main.loc[unknown & of, "label"] for of in (of_main["n"] > 0, of_main["n"] == 0)
    )
    if len(few):
        yield (
            f"It is {NOT_ESTIMABLE} for {_listed(few)}, with fewer than two patients of a "
            "class there, and the average is over the others."
        )
    if len(absent):
        yield f"It has no exam of {_listed(absent)} there."


def results(several: Several, study: Study) -> list[Block]:
    """The macro average."""
    overall, measures = several.overall, several.measures
    blocks = measured.ranked(overall, study)
    table = Table(
        "macro_measures",
        "Further measures of all labels together. Macro: the mean over labels; micro: all pairs of "
        "an exam and a label as one set; Fmax: the largest F1 of an exam's labels, over thresholds "
        "that are the same for all labels (chosen on these exams: it flatters a little).",
        shown.macro_measures(measures),
        measures,
    )
    told = _different_labels(overall)
    return [*blocks, table, *([Paragraph(told)] if told else [])]


def _different_labels(overall: Analysis) -> str:
    """Where averages are not over the same labels, and why."""
    told, summary = list(_of_some_models(overall)), overall.summary
    names = []
    for (institution, left_out), rows in summary.groupby(["institution", "left_out"], sort=False):
        if left_out:
            of_all = (summary["institution"] == institution).sum() == len(rows)
            of = "" if of_all else f" of {', '.join(rows['model'])}"
            names.append(f"at {institution}{of} {_listed(left_out_labels(str(left_out)))}")
    if names:
        told.append(
            "A label with fewer than two patients of a class, or without any exam, is in no "
            f"average there. Left out: {'; '.join(names)}."
        )
    lacked = _models_labels(overall)
    if summary["left_out"].nunique() > 1 or (len(lacked) and not lacked.all(axis=1).any()):
        told.append("Averages over different labels must not be compared.")
    return " ".join(told)


def _models_labels(overall: Analysis) -> pd.DataFrame:
    """Which models [columns] have tested exams of which labels [rows]."""
    tested = overall.predictions[overall.predictions["split"].isin(ROLES)]
    known = tested.drop_duplicates(["label", "model"]).assign(known=True)
    table = known.pivot(index="label", columns="model", values="known").notna()
    return table.reindex(index=tested["label"].unique(), columns=tested["model"].unique())


def _of_some_models(overall: Analysis) -> Iterator[str]:
    """Labels that some models have no predictions of."""
    known = _models_labels(overall)
    shared = known.all(axis=1)
    if shared.all():
        return
    lacking = {str(model): _listed(known.index[~known[model]]) for model in known}
    text = "; ".join(f"of {names} by {model}" for model, names in lacking.items() if names)
    yield f"There are no predictions {text}."
    if shared.any():
        yield (
            f"Averages are over the labels that all models have ({_listed(known.index[shared])}); "
            "each model's over all of its own stands beside."
        )
    else:
        yield "No label has predictions of all models, and each average is over the model's own."


def labels(several: Several, study: Study) -> list[Block]:
    """All labels at the reference set."""
    overall, table = several.overall, _reference(several)
    drawn = _leading(several, study, max(1, _LINES // len(several.labels)))
    told = "" if len(drawn) == len(overall.models) else f" of {_models(drawn)}"
    rows = table[table["model"].isin(drawn)]
    at, row = where(overall.summary), reference_set(overall.summary).iloc[0]
    if (table["institution"] != row["institution"]).any():
        at += " (of a label that only one external institution has: there, which is named)"
    confidence = overall.settings.confidence
    figure = forest_figure(
        rows.assign(institution=rows["named"], role=row["role"]),
        confidence=confidence,
        title=f"{study.target}: AUROC by label",
        names_of="Label",
    )
    columns = _leading(several, study, _COLUMNS)
    text = (
        "Every label's AUROCs, comparisons, operating points, calibration, decision curves, "
        "further measures and subgroups, at every institution, are in the tables of this run "
        "(tables/*.csv, column label)."
    )
    more = len(several.labels) > overall.settings.label_sections
    if more:
        text += " There are too many labels for a section each (statistics.label_sections)."
    return [
        Picture("labels", f"{at}: AUROC{told} with {100 * confidence:g} % intervals.", figure),
        Table(
            "labels",
            f"{at}: AUROC by label"
            + ("." if len(columns) == len(overall.models) else f", of {_models(columns)}."),
            shown.labels(
                table.assign(label=table["named"]),
                [model for model in overall.models if model in columns],
            ),
            table.drop(columns="named"),
        ),
        Paragraph(text),
    ]


def sections(several: Several, study: Study) -> list[Section]:
    """One a label, where they are few enough."""
    if len(several.labels) > several.overall.settings.label_sections:
        return []
    made = []
    for number, (label, analysis) in enumerate(several.labels.items(), 1):
        of_label = replace(study, target=label, ceilings=None)
        blocks: list[Block] = []
        for block in [
            *measured.results(analysis, of_label),
            *measured.operating(analysis, of_label),
            *measured.calibration(analysis, of_label),
        ]:
            if isinstance(block, Paragraph):
                blocks.append(block)
            elif isinstance(block, Picture | Table) and block.name in _OF_LABEL:
                slug = re.sub(r"[^A-Za-z0-9]+", "_", label).strip("_")
                blocks.append(replace(block, name=f"{block.name}_{number}_{slug}"))
        made.append(Section(f"label-{number}", f"Label {label}", blocks))
    return made


def limits(several: Several, study: Study) -> list[Block]:
    told = study_text.limits(several.overall, study)
    told[-1:-1] = [*_of_some_models(several.overall), *_limits_of_labels(several)]
    return [Listing(told)]


def _limits_of_labels(several: Several) -> Iterator[str]:
    summary = pd.concat([of.summary for of in several.labels.values()])
    external = summary[summary["role"] == EXTERNAL]
    sets = external if len(external) else summary
    smaller = sets["positives"].clip(upper=sets["n"] - sets["positives"])
    told = []
    for institution, rows in sets.assign(few=smaller < ENOUGH).groupby("institution", sort=False):
        known = set(rows.loc[rows["auroc"].notna(), "label"])
        unknown = len(set(several.labels) - known)  # without any exam, too
        few = len(known & set(rows.loc[rows["few"], "label"])) + unknown
        if few:
            text = f"{institution} for {number_of(few, 'label')}"
            told.append(text + f" ({unknown} {NOT_ESTIMABLE})" * (unknown > 0))
    if told:
        yield (
            f"Fewer than {ENOUGH} exams of a class, the least that an external validation should "
            f"have (Vergouwe et al., J Clin Epidemiol 2005;58:475), has {', '.join(told)}. These "
            "labels' intervals are wide, and their calibration there is uncertain."
        )
    averaged = shared_labels(several.overall.predictions)["label"].nunique()
    yield (
        f"The macro average counts each of {averaged} labels alike, whatever its "
        "prevalence and what it means for a patient; comparisons of single labels are not "
        "corrected for their number."
    )


def tables(several: Several) -> dict[str, pd.DataFrame]:
    """By name, the tables of the macro average and all labels, at every institution."""
    overall, of_labels = several.overall, list(several.labels.values())
    everyone = [overall, *of_labels]
    made = {
        "results": pd.concat([of.summary for of in everyone], ignore_index=True),
        "comparisons": pd.concat([of.comparisons for of in everyone], ignore_index=True),
        "heterogeneity": pd.concat([of.pooled for of in everyone], ignore_index=True),
        "ranking": overall.ranking,
        "operating_points": overall.operating,
        "calibration": overall.calibration,
    }
    own = [of.own_summary for of in everyone if of.own_summary is not None]
    if own:
        made["results_own_exams"] = pd.concat(own, ignore_index=True)
    if overall.subgroups is not None and overall.gaps is not None:
        made |= {"subgroups": overall.subgroups, "gaps": overall.gaps}
    return made


def told(overall: Analysis) -> list[str]:
    """Which sections of a report on one label are told by label here."""
    keys = ["calibration", "decision"]
    if overall.operating["sensitivity"].notna().any():
        keys.append("operating")
    if overall.subgroups is not None:
        keys.append("subgroups")
    return keys


def _reference(several: Several) -> pd.DataFrame:
    """Each label's summary at the reference set of the macro average, a row a model.

    Where that is all external institutions together, a label that a model has at only one of them
    has that one's row. Without any exam there a row has n = 0. `named` is the label, with the
    institution where it is another.
    """
    row, rows = reference_set(several.overall.summary).iloc[0], list[pd.DataFrame]()
    at = ["institution", "role"]
    for label, analysis in several.labels.items():
        for model in several.overall.models:
            of_model = analysis.summary[analysis.summary["model"] == model]
            there = of_model[(of_model[at] == row[at]).all(axis=1)]
            external = of_model[of_model["role"] == EXTERNAL]
            if there.empty and row["role"] == POOLED and len(external) == 1:
                there = external
            if there.empty:
                nothing = {"model": model, "label": label, "n": 0, "positives": 0}
                there = pd.DataFrame([nothing]).assign(
                    institution=row["institution"], role=row["role"], method=NOT_ESTIMABLE
                )
                there = there.reindex(columns=of_model.columns)
                there = there.astype(of_model.dtypes)
            rows.append(there)
    table = pd.concat(rows, ignore_index=True)
    table["named"] = [
        label if institution == row["institution"] else f"{label} ({institution})"
        for label, institution in zip(table["label"], table["institution"], strict=True)
    ]
    return table


def _leading(several: Several, study: Study, most: int) -> list[str]:
    """The main model and those with the highest averages, `most` in all."""
    models = several.overall.models
    averages = reference_set(several.overall.summary).set_index("model")["auroc"]
    best = averages.reindex(models).sort_values(ascending=False, kind="stable").index
    main = study.leading(models)
    return [main, *(model for model in best if model != main)][:most]


def _models(leading: Sequence[str]) -> str:
    if len(leading) == 1:
        return leading[0]
    return f"{leading[0]} and the {number_of(len(leading) - 1, 'model')} with the highest averages"


def _listed(names: Iterable[str]) -> str:
    """Few names, or their number."""
    names = list(names)
    if len(names) > 2 * NAMED:
        return f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"
    return ", ".join(names)
