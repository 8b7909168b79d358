"""Sections of a report on what was measured."""

from collections.abc import Sequence

from experiments.evaluation.analysis import Analysis
from experiments.evaluation.comparison import comparison_table
from experiments.evaluation.operating import GIVEN, YOUDEN
from experiments.evaluation.predictions import EXTERNAL, MACRO
from experiments.evaluation.summary import results_table
from experiments.figures import shown
from experiments.figures.calibration import reliability_figure
from experiments.figures.decision import decision_figure
from experiments.figures.forest import forest_figure
from experiments.figures.html import Block, Paragraph, Picture
from experiments.figures.operating import operating_figure
from experiments.figures.roc import roc_figure
from experiments.figures.study import Study
from experiments.figures.study_text import reference_set, where
from experiments.figures.subgroups import subgroups_figure
from experiments.figures.subsets import subsets_figure
from experiments.figures.tables import Table

_BANDS = 3  # models, at most, that are drawn with bands and compared in pairs


def results(analysis: Analysis, study: Study) -> list[Block]:
    percent, external = f"{100 * analysis.settings.confidence:g} %", analysis.has_external
    drawn, of_main = _banded(analysis, study)
    bands = analysis.bands[analysis.bands["model"].isin(drawn)]
    lowest = analysis.settings.partial_auroc_from
    return [
        *ranked(analysis, study),
        Picture(
            "roc",
            f"ROC curves at the {'external institutions' if external else 'internal tests'}, with "
            f"pointwise {percent} bands of the sensitivity{of_main}.",
            roc_figure(analysis.predictions, f"{study.target}: ROC curves", bands=bands),
        ),
        Table(
            "ranking",
            "Further measures of ranking. Chance brings average precision to the prevalence, and "
            "the standardised partial AUROCs to 0.5.",
            shown.ranking(analysis.ranking, lowest),
            analysis.ranking,
            folded=True,
        ),
    ]


def ranked(analysis: Analysis, study: Study) -> list[Block]:
    """AUROCs by institution, compared and put together: of a label, or of the macro average."""
    confidence, target = analysis.settings.confidence, study.target
    auroc = title = "AUROC"
    positive = labels = other = ""
    if analysis.label == MACRO:
        auroc, title = "Macro average AUROC", "macro average AUROC"
        positive, labels = " Positive exams are so for any label.", " and labels"
        other = " Left out are also institutions whose averages are over other labels than in all."
    percent = f"{100 * confidence:g} %"
    summary, pooled, external = analysis.summary, analysis.pooled, analysis.has_external
    forest = forest_figure(
        summary,
        confidence=confidence,
        title=f"{target}: {title} by institution",
        ceilings=study.ceilings,
        pooled=pooled if external else None,
    )
    blocks: list[Block] = [
        Picture(
            "forest",
            f"{auroc} with {percent} intervals. Diamonds: mean over external institutions by "
            f"random effects; bars below: where a new hospital's AUROC is expected.{positive}",
            forest,
        ),
        Table(
            "results",
            f"{auroc} for {target} with {percent} intervals.",
            results_table(summary, study.ceilings),
            summary,
        ),
    ]
    own = analysis.own_summary
    if own is not None:
        caption = f"{auroc} for {target}, each model on all its exams{labels}."
        table = Table("results_own_exams", caption, results_table(own, None), own, folded=True)
        blocks.append(table)
    if len(analysis.comparisons):
        blocks += _comparisons(analysis, study, percent)
    if external:
        blocks.append(
            Table(
                "heterogeneity",
                "Differences between external institutions: random-effects meta-analysis of logit "
                "AUROCs. I squared is the share of the variation that chance does not explain."
                f"{other}",
                shown.heterogeneity(pooled),
                pooled,
            )
        )
    return blocks


def _banded(analysis: Analysis, study: Study) -> tuple[Sequence[str], str]:
    """The models with bands, of which more would hide each other, and the words for it."""
    models = analysis.models
    if len(models) <= _BANDS:
        return models, ""
    main = study.leading(models)
    return [main], f" of {main}"


def _comparisons(analysis: Analysis, study: Study, percent: str) -> list[Block]:
    every = analysis.comparisons
    reference = reference_set(every)
    if len(analysis.models) > _BANDS:
        main = study.leading(analysis.models)
        reference = reference[(reference[["model_a", "model_b"]] == main).any(axis=1)]
    caption = (
        f"{where(every)}, paired comparisons on the same exams: differences with {percent} "
        "intervals."
    )
    pairs = comparison_table(reference).drop(columns=["institution", "role"])
    table = Table("comparisons", caption, pairs, every)
    if len(reference) == len(every):
        return [table]
    caption = "Paired comparisons at every institution; p by Holm over external ones."
    by_institution = comparison_table(every)
    return [table, Table("comparisons_by_institution", caption, by_institution, folded=True)]


def operating(analysis: Analysis, study: Study) -> list[Block]:
    table, settings = analysis.operating, analysis.settings
    if table.empty:
        return []
    if table["threshold"].isna().all():
        text = "No operating thresholds: there are no development validation exams."
        return [Paragraph(text)]
    figure = operating_figure(
        table[table["operating_point"].isin((YOUDEN, GIVEN))],
        confidence=settings.confidence,
        title=f"{study.target}: sensitivity and specificity",
    )
    if (table["operating_point"] == GIVEN).all():
        thresholds, first = "at the threshold that was given", "the threshold that was given"
    else:
        thresholds = "at the thresholds chosen on development validation exams: Youden's index, "
        thresholds += f"and the highest with a sensitivity of {settings.sensitivity:.2f} there"
        first = "Youden's threshold"
    return [
        Table(
            "operating_points",
            f"{where(table)}, {thresholds}.",
            shown.threshold_table(reference_set(table)),
            table,
        ),
        Picture("operating", f"Sensitivity and specificity at {first}.", figure),
        Table(
            "operating_points_by_institution",
            "Operating points at every institution.",
            shown.operating(table),
            folded=True,
        ),
    ]


def calibration(analysis: Analysis, study: Study) -> list[Block]:
    table, curves = analysis.calibration, analysis.reliability
    reference = reference_set(table)
    figure = reliability_figure(
        curves[curves["institution"] == reference["institution"].iloc[0]],
        reference,
        confidence=analysis.settings.confidence,
        title=f"{study.target}: calibration",
    )
    return [
        Picture(
            "reliability",
            f"{where(table)}, reliability curves: tenths of the exams by probability, before and "
            "after recalibration on development data.",
            figure,
        ),
        Table(
            "calibration",
            f"{where(table)}, calibration as predicted and after recalibration. Ideal are a slope "
            "and observed / expected of 1, and an intercept of 0; neither is estimable where more "
            "than 1 % of the probabilities are 0 or 1, as after isotonic recalibration.",
            shown.calibration(reference).drop(columns=["institution", "exams"]),
            table,
        ),
        Table(
            "calibration_by_institution",
            "Calibration at every institution.",
            shown.calibration(table),
            folded=True,
        ),
    ]


def decision(analysis: Analysis, study: Study) -> list[Block]:
    banded, of_main = _banded(analysis, study)
    title = f"{study.target}: net benefit of acting on a model"
    caption = (
        "Decision curves: true positives less false positives weighted by the odds of the "
        "threshold, an exam. Models are useful where they lie above both grey lines. Bands"
        f"{of_main}: {100 * analysis.settings.confidence:g} % intervals."
    )
    figure = decision_figure(analysis.decision, banded=banded, title=title)
    return [Picture("decision", caption, figure)]


def subgroups(analysis: Analysis, study: Study) -> list[Block]:
    table, gaps = analysis.subgroups, analysis.gaps
    if table is None or gaps is None:
        return []
    exams = f"the external exams{'' if analysis.own_summary is None else ' that all models have'}"
    title = f"{study.target}: subgroups"
    return [
        Picture(
            "subgroups",
            f"Subgroups of {exams}: AUROC, and positive exams over those that the probabilities "
            "add up to.",
            subgroups_figure(table, confidence=analysis.settings.confidence, title=title),
        ),
        Table(
            "gaps",
            "The largest gaps between subgroups. The two were picked for being furthest apart; p, "
            "of Cochran's test that all are alike, was not.",
            shown.gaps(gaps),
            gaps,
        ),
        Table("subgroups", f"Subgroups of {exams}.", shown.subgroups(table), table, folded=True),
    ]


def subsets(analysis: Analysis, study: Study) -> list[Block]:
    if study.subsets is None:
        return []
    summary, blocks = study.subsets.summary, list[Block]()
    if (summary["role"] == EXTERNAL).any():
        figure = subsets_figure(
            summary,
            study.subsets.inputs,
            confidence=analysis.settings.confidence,
            title=f"{study.target}: the fusion with each subset of its inputs",
        )
        caption = "What each input adds, on exams that have all of them."
        blocks.append(Picture("subsets", caption, figure))
    caption = "AUROC of the fusion with each subset of its inputs."
    table = Table("subsets", caption, results_table(summary, None), summary, folded=True)
    return [*blocks, table]
