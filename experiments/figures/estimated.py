"""The reviewer's report of a regression: its sections, and how they are put together."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import pandas as pd

from experiments.evaluation.characteristics import unit_of
from experiments.evaluation.comparison import comparison_table
from experiments.evaluation.errors import ErrorAnalysis
from experiments.evaluation.predictions import DEVELOPMENT, EXAM, EXTERNAL, POOLED, TEST
from experiments.evaluation.summary import results_table
from experiments.figures import about, estimated_text, shown
from experiments.figures.agreement import bland_altman_figure, estimates_figure
from experiments.figures.estimated_text import MAE, Analyses, digits_of
from experiments.figures.forest import Measure, forest_figure
from experiments.figures.html import (
    Block,
    Facts,
    Listing,
    Paragraph,
    Picture,
    Report,
    Section,
    render,
)
from experiments.figures.intervals import Statistic, intervals_figure
from experiments.figures.report import KINDS, Evidence
from experiments.figures.study import Study
from experiments.figures.study_text import estimate, number_of, reference_set, where
from experiments.figures.tables import Table

# Label or name of a threshold -> model -> institution -> the best possible figure.
Best = Mapping[str, Mapping[str, Mapping[str, float]]]

_COMPARED = 3  # models, at most, that are compared in pairs with each other


@dataclass(frozen=True)
class Label:
    """One label of a report: its analysis, what is known of it beside, and how its parts are named.

    `ceilings`: of the label, the least error, and of each of its thresholds the highest AUROC.
    `subsets` is the summary of a fusion with each subset of its inputs. `ending` sets its tables'
    and figures' names apart from those of other labels.
    """

    analysis: ErrorAnalysis
    study: Study
    ceilings: Best
    subsets: pd.DataFrame | None
    ending: str

    @property
    def name(self) -> str:
        return self.analysis.label

    @property
    def digits(self) -> int:
        return digits_of(self.analysis.summary)

    @property
    def percent(self) -> str:
        return f"{100 * self.analysis.settings.confidence:g} %"

    def measure(self, column: str, words: str) -> Measure:
        return Measure(column, self.in_unit(words), self.digits)

    def in_unit(self, words: str) -> str:
        unit = unit_of(self.name)
        return f"{words}, {unit}" if unit else words

    def picture(self, name: str, caption: str, figure: object) -> Picture:
        return Picture(name + self.ending, caption, figure)  # type: ignore[arg-type]

    def table(
        self,
        name: str,
        caption: str,
        shown: pd.DataFrame,
        values: pd.DataFrame | None = None,
        *,
        folded: bool = False,
    ) -> Table:
        return Table(name + self.ending, caption, shown, values, folded)


def results(of: Label) -> list[Block]:
    analysis, digits = of.analysis, of.digits
    summary = analysis.summary
    measure = of.measure("mae", MAE)

    def text(row: Mapping[str, float]) -> str:
        return estimate(row, "mae", digits)

    ceilings = of.ceilings.get(of.name)
    blocks: list[Block] = [
        of.picture(
            "forest",
            f"{MAE.capitalize()} with {of.percent} intervals. Diamonds: mean over external "
            "institutions by random effects; bars below: where a new hospital's is expected.",
            forest_figure(
                summary,
                measure,
                confidence=analysis.settings.confidence,
                title=f"{of.name}: {MAE} by institution",
                ceilings=ceilings,
                pooled=analysis.pooled["mae"] if analysis.has_external else None,
            ),
        ),
        of.table(
            "results",
            f"{of.in_unit(f'{MAE.capitalize()} of {of.name}')}, with {of.percent} intervals.",
            results_table(summary, ceilings, text, digits),
            summary,
        ),
    ]
    own = analysis.own_summary
    if own is not None:
        caption = f"{MAE.capitalize()} of {of.name}, each model on all its exams."
        shown_own = results_table(own, None, text, digits)
        blocks.append(of.table("results_own_exams", caption, shown_own, own, folded=True))
    if len(analysis.comparisons):
        blocks += _comparisons(of)
    blocks.append(
        of.table(
            "errors",
            "All measures of error at every institution. R2 is against the mean of the same exams' "
            "truths: below 0 that mean would be nearer.",
            estimated_text.agreement_rows(summary, digits),
            folded=True,
        )
    )
    if analysis.has_external:
        pooled = [table.assign(statistic=name) for name, table in analysis.pooled.items()]
        values = pd.concat(pooled, ignore_index=True)
        blocks.append(
            of.table(
                "heterogeneity",
                f"Differences between external institutions: random-effects meta-analysis of {MAE} "
                "(on the logarithmic scale) and bias. I squared is the share of the variation that "
                "chance does not explain.",
                estimated_text.heterogeneity_rows(analysis.pooled, digits),
                values,
            )
        )
    return blocks


def _comparisons(of: Label) -> list[Block]:
    analysis, digits = of.analysis, of.digits
    every = analysis.comparisons
    reference = reference_set(every)
    if len(analysis.models) > _COMPARED:
        main = of.study.leading(analysis.models)
        reference = reference[(reference[["model_a", "model_b"]] == main).any(axis=1)]
    pairs = estimated_text.comparison_rows(reference, digits).drop(columns=["institution", "role"])
    caption = (
        f"{where(every)}, paired comparisons of absolute errors on the same exams: differences "
        f"with {of.percent} intervals; below 0 the first model is nearer."
    )
    table = of.table("comparisons", caption, pairs, every)
    if len(reference) == len(every):
        return [table]
    caption = "Paired comparisons at every institution; p by Holm over external ones."
    by_institution = estimated_text.comparison_rows(every, digits)
    return [
        table,
        of.table("comparisons_by_institution", caption, by_institution, folded=True),
    ]


def agreement(of: Label) -> list[Block]:
    analysis, digits = of.analysis, of.digits
    summary = analysis.summary
    reference = reference_set(summary)
    shown_rows = estimated_text.agreement_rows(reference, digits)
    columns = ["model", "exams", "patients", "bias", "lower limit", "upper limit"]
    return [
        of.picture(
            "bland_altman",
            f"{where(summary)}, Bland-Altman plots: errors against the mean of estimate and truth, "
            f"with bias and 95 % limits of agreement; bands: {of.percent} intervals.",
            bland_altman_figure(
                exams_of(analysis, reference),
                reference,
                title=f"{of.name}: agreement with the truth",
                unit=unit_of(of.name),
                digits=digits,
            ),
        ),
        of.table(
            "agreement",
            f"{where(summary)}, {of.in_unit('bias and 95 % limits of agreement')}, with "
            f"{of.percent} intervals (estimate less truth).",
            shown_rows[columns],
        ),
        of.picture(
            "forest_bias",
            f"Bias with {of.percent} intervals, as above; right of 0 estimates are too high.",
            forest_figure(
                summary,
                replace(of.measure("bias", "bias"), worth_nothing=0.0),
                confidence=analysis.settings.confidence,
                title=f"{of.name}: bias by institution",
                pooled=analysis.pooled["bias"] if analysis.has_external else None,
            ),
        ),
    ]


def calibration(of: Label) -> list[Block]:
    analysis, digits = of.analysis, of.digits
    summary = analysis.summary
    reference = reference_set(summary)
    rows = estimated_text.calibration_rows
    return [
        of.picture(
            "calibration",
            f"{where(summary)}: the truth against the estimate, and means in tenths of the exams.",
            estimates_figure(
                exams_of(analysis, reference),
                reference,
                title=f"{of.name}: calibration",
                unit=unit_of(of.name),
            ),
        ),
        of.table(
            "calibration",
            f"{where(summary)}, the truth regressed on the estimate: ideal are a slope of 1 and an "
            "intercept of 0. In the large: the mean truth less the mean estimate, which is the "
            "intercept at a slope of 1.",
            rows(reference, digits).drop(columns=["institution", "exams"]),
        ),
        of.table(
            "calibration_by_institution",
            "Calibration at every institution.",
            rows(summary, digits),
            folded=True,
        ),
    ]


def thresholds(of: Label) -> list[Block]:
    analysis, blocks = of.analysis, list[Block]()
    if analysis.thresholds:
        blocks.append(
            Paragraph(
                "How well the estimates tell exams whose truth is below a threshold from the "
                "others: lower estimates speak for it. The estimate is not a probability, and no "
                "threshold on it was chosen."
            )
        )
    for name, found in analysis.thresholds.items():
        ending = f"{of.ending}_below_{_slug(name.rpartition('< ')[2])}"
        pooled = analysis.pooled_thresholds[name]
        ceilings = of.ceilings.get(name)
        blocks += [
            Picture(
                f"forest_auroc{ending}",
                f"AUROC for {name} with {of.percent} intervals.",
                forest_figure(
                    found.summary,
                    confidence=analysis.settings.confidence,
                    title=f"{name}: AUROC by institution",
                    ceilings=ceilings,
                    pooled=pooled if analysis.has_external else None,
                ),
            ),
            Table(
                f"auroc{ending}",
                f"AUROC for {name} with {of.percent} intervals.",
                results_table(found.summary, ceilings),
                found.summary,
            ),
        ]
        if analysis.has_external:
            caption = f"{name}: random-effects meta-analysis of logit AUROCs."
            table = shown.heterogeneity(pooled)
            blocks.append(Table(f"auroc_heterogeneity{ending}", caption, table, pooled, True))
        if len(found.comparisons):
            caption = f"{name}: paired comparisons of AUROCs at every institution."
            table = comparison_table(found.comparisons)
            blocks.append(
                Table(f"auroc_comparisons{ending}", caption, table, found.comparisons, True)
            )
    return blocks


def subgroups(of: Label) -> list[Block]:
    analysis, digits = of.analysis, of.digits
    table, gaps = analysis.subgroups, analysis.gaps
    if table is None or gaps is None:
        return []
    exams = f"the external exams{'' if analysis.own_summary is None else ' that all models have'}"
    figure = intervals_figure(
        table.assign(block=table["variable"]),
        (
            Statistic("mae", of.in_unit(MAE), digits=digits),
            Statistic("bias", of.in_unit("bias"), ideal=0.0, digits=digits),
        ),
        confidence=analysis.settings.confidence,
        title=f"{of.name}: subgroups",
    )
    return [
        of.picture("subgroups", f"Subgroups of {exams}: {MAE} and bias.", figure),
        of.table(
            "gaps",
            "The largest gaps between subgroups. The two were picked for being furthest apart; p, "
            "of Welch's test that all are alike, was not.",
            estimated_text.gap_rows(gaps, digits),
            gaps,
        ),
        of.table(
            "subgroups",
            f"Subgroups of {exams}.",
            estimated_text.subgroup_rows(table, digits),
            table,
            folded=True,
        ),
    ]


def subsets(of: Label) -> list[Block]:
    if of.subsets is None:
        return []

    def text(row: Mapping[str, float]) -> str:
        return estimate(row, "mae", of.digits)

    caption = of.in_unit(f"{MAE.capitalize()} of the fusion with each subset of its inputs")
    table = results_table(of.subsets, None, text, of.digits)
    return [of.table("subsets", f"{caption}.", table, of.subsets)]


# In the report's order, label by label; a section without blocks is left out.
SECTIONS: dict[str, tuple[str, Callable[[Label], list[Block]]]] = {
    "results": ("Results", results),
    "agreement": ("Bias and limits of agreement", agreement),
    "calibration": ("Calibration", calibration),
    "thresholds": ("Thresholds on the truth", thresholds),
    "subgroups": ("Subgroups", subgroups),
    "subsets": ("Subsets of the inputs", subsets),
}


def build(
    analyses: Analyses,
    study: Study,
    ceilings: Best,
    subsets: Mapping[str, pd.DataFrame],
) -> Evidence:
    """The report of a regression's labels; what its input does not allow is left out, and said so.

    `ceilings` go by label and by name of a threshold, `subsets` by label: the summary of a fusion
    with each subset of its inputs.
    """
    several = len(analyses) > 1
    first = next(iter(analyses.values()))
    labels = [
        Label(
            analysis,
            study,
            ceilings,
            subsets.get(name),
            f"_{number}_{_slug(name)}" if several else "",
        )
        for number, (name, analysis) in enumerate(analyses.items(), 1)
    ]
    made = [
        Section("question", "What was asked", about.question(first, study)),
        Section("answer", "Answer", _answer(analyses, study)),
        Section("cohort", "Cohort", about.cohort(first, study)),
        Section("protocol", "Protocol", _protocol(first, study)),
        Section("pretraining", "Pretraining", about.pretraining(first, study)),
    ]
    for of in labels:
        heading = f"{of.name}: " if several else ""
        for key, (title, blocks) in SECTIONS.items():
            titled = title[0].lower() + title[1:] if several else title
            made.append(Section(key + of.ending, heading + titled, blocks(of)))
    made += [
        Section("limits", "Limits", [Listing(estimated_text.limits(analyses, study))]),
        Section("repeat", "How to repeat it", about.repeat(first, study)),
    ]
    sections = [section for section in made if section.blocks]
    # a checklist names the first label's where each has its own
    titles = {section.key: section.title for section in sections}
    for key in SECTIONS:
        own = [titles[key + of.ending] for of in labels if key + of.ending in titles]
        if own:
            titles[key] = own[0] if not several else f"{own[0]}, and the other labels'"
    checklist = about.tripod(estimated_text.tripod_answers(analyses, study, titles))
    exams = pd.concat([each.predictions for each in analyses.values()]).drop_duplicates(list(EXAM))
    report = Report(
        f"{study.target}: {study.name}",
        f"{KINDS.get(study.protocol, 'Evaluation of estimates that were handed in')}: "
        f"{number_of(len(first.models), 'model')}, "
        f"{number_of(exams['institution'].nunique(), 'institution')}, "
        f"{number_of(len(exams), 'exam')} predicted",
        study.banners,
        [*sections, Section("checklist", "TRIPOD+AI checklist", checklist)],
    )
    tables: dict[str, str] = {}
    for table in report.tables:
        tables |= table.files()
    figures = {picture.name: picture.figure for picture in report.pictures}
    return Evidence(render(report), tables, figures)


def exams_of(analysis: ErrorAnalysis, reference: pd.DataFrame) -> pd.DataFrame:
    """The exams that the rows of a `reference_set` are of."""
    predictions, row = analysis.predictions, reference.iloc[0]
    tested = predictions["split"] == (TEST if row["role"] == DEVELOPMENT else EXTERNAL)
    if row["role"] != POOLED:
        tested &= predictions["institution"] == row["institution"]
    return predictions.loc[tested]


def _answer(analyses: Analyses, study: Study) -> list[Block]:
    blocks: list[Block] = []
    for analysis in analyses.values():
        first, *others = estimated_text.answer(analysis, study)
        blocks.append(Paragraph(first, strong=True))
        blocks += [Paragraph(text) for text in others if text]
    return blocks


def _protocol(analysis: ErrorAnalysis, study: Study) -> list[Block]:
    own, settings = analysis.own_summary is not None, analysis.settings
    validated = "all exams whose truth is known and whose input is usable"
    validated += " (measures: those all models have)" * own
    fitted = {
        "Weights, normalisation, mean and deviation of the truth": (
            "training patients of development"
        ),
        "Epoch": "validation patients of development",
        "Internal test": "held-out patients of development; nothing was fitted on them",
        "External validation": f"{validated}; nothing was fitted on them",
    }
    if not study.protocol:
        fitted = {
            "Models": "not known here: the estimates were handed in",
            "Measures": "exams of the splits test (internal) and external"
            + ", those that all models have" * own,
        }
    if study.fusion:
        fitted["Fusion"] = study.fusion
    statistics = (
        f"{100 * settings.confidence:g} % intervals. Where each patient has one exam they are "
        "closed forms: Student's of bias, and by the delta method of the logarithm of the mean "
        "absolute error and of 1 - R2; of the limits of agreement (Bland & Altman, Lancet "
        "1986;1:307) by Zou's method (Stat Methods Med Res 2013;22:630) with degrees of freedom by "
        "the kurtosis of the errors; of the calibration line with the variance HC3; the paired t "
        "test of differences. Else whole patients are resampled within institutions "
        f"({settings.auroc_resamples:,} times; {settings.resamples:,} for subgroups), and the "
        "limits of agreement take the variances between and within patients (Bland & Altman, J "
        "Biopharm Stat 2007;17:571). Holm's correction over the external institutions of a pair of "
        "models. Random effects by Paule and Mandel with the interval of Hartung and Knapp, of "
        "mean absolute errors on the logarithmic scale. AUROCs of thresholds: adjusted DeLong, or "
        "the same bootstrap."
    )
    table = pd.DataFrame({"what": list(fitted), "fitted or computed on": list(fitted.values())})
    return [
        Facts(about.roles(analysis, study)),
        Table("protocol", "What was fitted on whom.", table),
        Paragraph(f"Statistics: {statistics}"),
    ]


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")
