"""Sections of a report on several labels: their macro average, all of them, and each."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pandas as pd

from experiments.evaluation.analysis import Analysis, Several
from experiments.evaluation.auroc import NOT_ESTIMABLE
from experiments.evaluation.predictions import EXTERNAL
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
            f"By label its AUROC was from {estimate_text(low)}, {low['label']}, to "
            f"{estimate_text(high)}, {high['label']}."
        )
    unknown = of_main.loc[of_main["auroc"].isna(), "label"]
    if len(unknown):
        yield (
            f"It is {NOT_ESTIMABLE} for {_listed(unknown)}, with fewer than two patients of a "
            "class there, and the average is over the others."
        )


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
    """Where averages are not over the same labels."""
    sets = overall.summary.drop_duplicates(["institution", "left_out"])
    lacking = sets[sets["left_out"] != ""]
    if lacking.empty:
        return ""
    names = {
        str(institution): _listed(pd.Series(rows["left_out"].iloc[0].split(", ")))
        for institution, rows in lacking.groupby("institution", sort=False)
    }
    text = (
        "A label with fewer than two patients of a class is not estimable, and in no average "
        f"there. Left out: {'; '.join(f'at {where} {labels}' for where, labels in names.items())}."
    )
    if overall.summary["left_out"].nunique() > 1:
        text += " Averages over different labels must not be compared."
    return text


def labels(several: Several, study: Study) -> list[Block]:
    """All labels at the reference set."""
    overall, table = several.overall, _reference(several)
    drawn = _leading(several, study, max(1, _LINES // len(several.labels)))
    told = "" if len(drawn) == len(overall.models) else f" of {_models(drawn)}"
    rows = table[table["model"].isin(drawn)]
    at = where(overall.summary)
    confidence = overall.settings.confidence
    figure = forest_figure(
        rows.assign(institution=rows["label"]),
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
            shown.labels(table, [model for model in overall.models if model in columns]),
            table,
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
    told[-1:-1] = _limits_of_labels(several)
    return [Listing(told)]


def _limits_of_labels(several: Several) -> Iterator[str]:
    summary = pd.concat([of.summary for of in several.labels.values()])
    external = summary[summary["role"] == EXTERNAL]
    sets = external if len(external) else summary
    smaller = sets["positives"].clip(upper=sets["n"] - sets["positives"])
    few = sets[(smaller < ENOUGH) & sets["auroc"].notna()]
    counts = few.drop_duplicates(["institution", "label"]).groupby("institution", sort=False)
    told = [f"{where} for {number_of(len(rows), 'label')}" for where, rows in counts]
    if told:
        yield (
            f"Fewer than {ENOUGH} exams of a class, the least that an external validation should "
            f"have (Vergouwe et al., J Clin Epidemiol 2005;58:475), has {', '.join(told)}. These "
            "labels' intervals are wide, and their calibration there is uncertain."
        )
    yield (
        f"The macro average counts each of {len(several.labels)} labels alike, whatever its "
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
    """Each label's summary at the reference set of the macro average."""
    row = reference_set(several.overall.summary).iloc[0]
    summary = pd.concat([of.summary for of in several.labels.values()], ignore_index=True)
    there = (summary["institution"] == row["institution"]) & (summary["role"] == row["role"])
    rows: pd.DataFrame = summary[there]
    return rows


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


def _listed(names: pd.Series) -> str:
    """Few names, or their number."""
    if len(names) > 2 * NAMED:
        return f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"
    return ", ".join(names)
