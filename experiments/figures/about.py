"""Sections of a report on what was asked, of whom and how, and what limits the answer."""

from collections.abc import Mapping

import pandas as pd

from experiments.evaluation.analysis import Analysis
from experiments.evaluation.characteristics import characteristics
from experiments.evaluation.errors import ErrorAnalysis
from experiments.evaluation.predictions import EXAM, MACRO, TRAIN
from experiments.evaluation.tripod import ANSWERED, AUTHOR, PARTLY, SOURCE, Answer
from experiments.evaluation.tripod import checklist as tripod_checklist
from experiments.figures import study_text
from experiments.figures.flow import flow_figure
from experiments.figures.html import Block, Facts, Listing, Paragraph, Picture
from experiments.figures.study import LEAVE_SITE_OUT, NAMED, Study
from experiments.figures.tables import Table


def question(analysis: Analysis | ErrorAnalysis, study: Study) -> list[Block]:
    facts = {"Study": study.name, "Target": study.target}
    if analysis.label == MACRO:
        facts["Labels"] = ", ".join(analysis.predictions["label"].unique())
    if study.rule:
        facts["Positive where" if isinstance(analysis, Analysis) else "Truth"] = study.rule
    facts |= {
        f"Model {name}": study.models.get(name, "") or "as handed in" for name in analysis.models
    }
    return [Facts(facts)]


def answer(analysis: Analysis, study: Study) -> list[Block]:
    first, *others = [*study_text.answer(analysis, study), study_text.not_tested(study)]
    return [Paragraph(first, strong=True), *(Paragraph(text) for text in others if text)]


def cohort(analysis: Analysis | ErrorAnalysis, study: Study) -> list[Block]:
    if study.cohort is None:
        return []
    exams, flow, targets = study.cohort.exams, study.cohort.flow, study.cohort.targets
    predicted, known = (
        pd.MultiIndex.from_frame(table[list(EXAM)].drop_duplicates())
        for table in (analysis.predictions, exams)
    )
    # trained on, or predicted by every model; positive for any label, known for any
    ours = exams[list(targets.values())].max(axis=1)
    any_of = "target of any label"
    exams = exams.assign(
        analysed=known.isin(predicted) | (exams["split"] == TRAIN), **{any_of: ours}
    )
    target = study.target if len(targets) == 1 else f"target (any of {len(targets)} labels)"
    classed = isinstance(analysis, Analysis)
    told = targets if len(targets) <= NAMED else {f"any of {len(targets)} labels": any_of}
    shown = characteristics(exams, told, classed=classed)
    if told is not targets and not classed:  # units differ: a number of any label says nothing
        shown = shown[shown["characteristic"] != f"{next(iter(told))}: mean (SD)"]
    tables = [
        Table(
            "table1",
            "Characteristics by institution, of exams with a usable input: n (%), mean (SD) or "
            "median [first to third quartile]. Shares are of exams whose value is known.",
            shown,
        )
    ]
    if told is not targets:
        counted = exams[["institution", "exam_id", "patient_id", "role", *targets.values()]]
        caption = "Labels by institution: exams that are positive, n (%), and not known."
        table = characteristics(counted, targets, classed=classed).iloc[2:]
        tables.append(Table("table1_labels", caption, table, folded=True))
    positive = "positive" if len(targets) == 1 else "positive for any label"
    return [
        Picture(
            "flow",
            "Exams from the manifests to the analysis, and by institution"
            f"{f'; (n+) are {positive}' * classed}. Reasons are counted in files.",
            flow_figure(
                flow,
                exams.assign(target=ours),
                study.cohort.left_out,
                target=target,
                title=f"{study.target}: cohort flow",
                classed=classed,
            ),
        ),
        *tables,
        Table(
            "flow",
            "Exams by institution: from the manifest to the known target.",
            flow,
            folded=True,
        ),
    ]


def roles(analysis: Analysis | ErrorAnalysis, study: Study) -> dict[str, str]:
    """Who was developed on and who is external, how patients were split, and the inputs."""
    facts: dict[str, str] = {}
    if study.protocol == LEAVE_SITE_OUT:
        facts["Folds"] = (
            f"each of {', '.join(analysis.external)} is external once, to models for which "
            "everything was fitted on the other institutions, pretraining included"
        )
    else:
        facts["Development"] = ", ".join(analysis.development) or "no exams in these tables"
        facts["External"] = ", ".join(analysis.external) or "none"
    if study.splits:
        shares = ", ".join(f"{name} {100 * s:g} %" for name, s in study.splits.items())
        facts["Development patients"] = f"split by patient, by a hash of the id: {shares}"
    if study.split_by:
        facts["Development patients"] = study.split_by
    return facts | {f"Input {name}": text for name, text in study.preprocessing.items()}


def protocol(analysis: Analysis, study: Study) -> list[Block]:
    facts = roles(analysis, study)
    own, settings = analysis.own_summary is not None, analysis.settings
    validated = "all exams whose target is known and whose input is usable"
    validated += " (measures: those all models have)" * own
    fitted = {
        "Weights, normalisation, class weights": "training patients of development",
        "Epoch, operating thresholds, recalibration": "validation patients of development",
        "Internal test": "held-out patients of development; nothing was fitted on them",
        "External validation": f"{validated}; nothing was fitted on them",
    }
    if not study.protocol:
        fitted = {
            "Models": "not known here: the predictions were handed in",
            "Operating thresholds, recalibration": "exams of split val, where there are any",
            "Measures": "exams of the splits test (internal) and external"
            + ", those that all models have" * own,
        }
    if study.fusion:
        fitted["Fusion"] = study.fusion
    if settings.thresholds:
        given = ", ".join(f"{label} {cut:g}" for label, cut in settings.thresholds.items())
        fitted["Operating thresholds that were given"] = f"nothing here: {given}"
    statistics = (
        f"{100 * settings.confidence:g} % intervals. Where each patient has one exam: adjusted "
        "DeLong intervals of AUROCs, DeLong's test of differences, Wilson's intervals of "
        "proportions; else, and for everything without a closed form, "
        f"{settings.auroc_resamples:,} bootstrap resamples (AUROCs and their comparisons; "
        f"{settings.resamples:,} for all else) of whole patients within institutions, whose "
        "variance the intervals of AUROCs and of proportions then have. Holm's correction over the "
        "external institutions of a pair of models. Random effects by Paule and Mandel with the "
        "interval of Hartung and Knapp."
    )
    if analysis.label == MACRO:
        statistics += (
            " Intervals of the macro average over labels, and its paired comparisons, are by "
            "patients: what a patient's exams and labels add to it varies together."
        )
    table = pd.DataFrame({"what": list(fitted), "fitted or computed on": list(fitted.values())})
    return [
        Facts(facts),
        Table("protocol", "What was fitted on whom.", table),
        Paragraph(f"Statistics: {statistics}"),
    ]


def pretraining(_: Analysis | ErrorAnalysis, study: Study) -> list[Block]:
    if study.pretraining is None:
        return []
    made = study.pretraining
    shown = made.table.assign(exams=[f"{n:,}" for n in made.table["exams"]])
    for column in made.words:
        shown[column] = [f"{value:.3f}" for value in made.table[column]]
    shown = shown.rename(columns=dict(made.words))
    return [
        Paragraph(made.summary),
        Table(
            "pretraining",
            "Training patients' exams, labelled or not, and what the pretraining came to in "
            "validation patients.",
            shown if len(shown) > 1 else shown.drop(columns="held out"),
            made.table,
        ),
        *([] if made.figure is None else [Picture("pretraining", made.caption, made.figure)]),
    ]


def limits(analysis: Analysis, study: Study) -> list[Block]:
    return [Listing(study_text.limits(analysis, study))]


def repeat(analysis: Analysis | ErrorAnalysis, study: Study) -> list[Block]:
    settings = analysis.settings
    facts = {"Command": study.command, "Commit": study.commit}
    facts = {name: text for name, text in facts.items() if text}
    facts["Seed"] = str(settings.seed)
    facts["Resamples"] = (
        f"{settings.auroc_resamples} of AUROCs and comparisons, {settings.resamples} of all else"
    )
    facts |= {f"Version of {name}": version for name, version in study.versions.items()}
    blocks: list[Block] = [Facts(facts, code=True)]
    if study.digests:
        table = pd.DataFrame(study.digests.items(), columns=["data", "digest"])
        blocks.append(Table("digests", "Digests of the data.", table, folded=True))
    return blocks


def checklist(analysis: Analysis, study: Study, titles: Mapping[str, str]) -> list[Block]:
    """`titles` are those of the sections that the report has, by their keys."""
    return tripod(study_text.tripod_answers(analysis, study, titles))


def tripod(answers: Mapping[str, Answer]) -> list[Block]:
    """The checklist with these answers, by item."""
    table = tripod_checklist(answers)
    counts = table["status"].value_counts()
    told = ", ".join(f"{counts.get(s, 0)} {s}" for s in (ANSWERED, PARTLY, AUTHOR))
    text = (
        f"{SOURCE}: of {len(table)} items and parts of items {told}. Topics are paraphrased; "
        "the published wording counts. D: development, E: evaluation."
    )
    return [Paragraph(text), Table("tripod_ai", "TRIPOD+AI.", table)]
