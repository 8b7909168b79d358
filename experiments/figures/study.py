"""The reviewer's report of a study, from its predictions and what is known of its cohort."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.evaluation.calibration import METHODS, calibration_table, reliability_curves
from experiments.evaluation.characteristics import characteristics
from experiments.evaluation.comparison import comparison_table
from experiments.evaluation.decision import decision_curves
from experiments.evaluation.folds import calibration_of_folds, operating_points_of_folds
from experiments.evaluation.heterogeneity import pooled_aurocs
from experiments.evaluation.operating import YOUDEN, operating_points
from experiments.evaluation.ranking import ranking_table
from experiments.evaluation.roc_bands import roc_bands
from experiments.evaluation.subgroups import age_bands, largest_gaps, subgroup_table
from experiments.evaluation.summary import p_text, results_table
from experiments.evaluation.tripod import ANSWERED, AUTHOR, PARTLY, SOURCE, checklist
from experiments.figures.calibration import reliability_figure
from experiments.figures.decision import decision_figure
from experiments.figures.flow import flow_figure
from experiments.figures.forest import forest_figure
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
from experiments.figures.operating import operating_figure
from experiments.figures.roc import roc_figure
from experiments.figures.study_text import (
    EXTERNAL_VALIDATION,
    LEAVE_SITE_OUT,
    Study,
    answer,
    estimate,
    interval,
    limits,
    number_of,
    reference_set,
    tripod_answers,
)
from experiments.figures.subgroups import subgroups_figure
from experiments.figures.subsets import subsets_figure
from experiments.figures.tables import Table

_TITLES = {
    "question": "What was asked",
    "answer": "Answer",
    "cohort": "Cohort",
    "protocol": "Protocol",
    "pretraining": "Pretraining",
    "results": "Results",
    "operating": "Operating points",
    "calibration": "Calibration",
    "decision": "Decision curves",
    "subgroups": "Subgroups",
    "subsets": "Subsets of the inputs",
    "readers": "Reader study",
    "limits": "Limits",
    "repeat": "How to repeat it",
    "checklist": "TRIPOD+AI checklist",
}


_BANDS = 3  # models, at most, that are drawn with bands


@dataclass(frozen=True)
class Settings:
    """The numbers of the analysis that a person might change.

    `auroc_resamples` were drawn for `summary` and `comparisons`, `resamples` are for all else.
    `sensitivity` is that of the second operating point, `partial_auroc_from` the lowest specificity
    and sensitivity that partial AUROCs are over, `age_edges` part the age bands,
    `decision_thresholds` are those of the decision curves, and `subgroups` further columns of the
    cohort's exams to group by, beside sex and age.
    """

    confidence: float
    resamples: int
    auroc_resamples: int
    seed: int
    sensitivity: float
    partial_auroc_from: float
    age_edges: Sequence[float]
    decision_thresholds: Sequence[float]
    subgroups: Sequence[str] = ()

    @property
    def bootstrap(self) -> dict[str, Any]:
        return {"confidence": self.confidence, "resamples": self.resamples, "seed": self.seed}


@dataclass(frozen=True)
class Cohort:
    """Who the exams were, training ones included.

    `exams`: institution, exam_id, patient_id, role, split, target, and the manifest's columns as
    `characteristics` takes them. `flow`: a row an institution, as `flow_figure` takes it.
    `left_out`: institution, exam_id, path and reason of each file that could not be used.
    """

    exams: pd.DataFrame
    flow: pd.DataFrame
    left_out: pd.DataFrame


@dataclass(frozen=True)
class Subsets:
    """A fusion with each subset of its inputs: the `summarise` table, and model -> inputs."""

    summary: pd.DataFrame
    inputs: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Pretraining:
    """Masked autoencoders that models started from: a row each of `table` (held out, ECGs,
    explained_variance, least_squares), and one exam that the first reconstructed.
    """

    table: pd.DataFrame
    figure: Figure


@dataclass(frozen=True)
class Evidence:
    """A rendered report, and by file name the tables and by name the figures that it shows."""

    html: str
    tables: dict[str, str]
    figures: dict[str, Figure]


def build(
    predictions: pd.DataFrame,
    *,
    summary: pd.DataFrame,
    comparisons: pd.DataFrame,
    study: Study,
    settings: Settings,
    cohort: Cohort | None = None,
    ceilings: Mapping[str, Mapping[str, float]] | None = None,
    own_summary: pd.DataFrame | None = None,
    subsets: Subsets | None = None,
    folds: Sequence[pd.DataFrame] = (),
    pretraining: Pretraining | None = None,
    readers: Sequence[Block] = (),
) -> Evidence:
    """The report of a study; what its input does not allow is left out, and said so.

    `predictions` is a checked table, `summary` and `comparisons` those of `summarise` and `compare`
    on it. Where models have different exams it holds those that all have, and `own_summary` is of
    each model on all its exams. `folds` are the leave-site-out folds' predictions tables with
    their validation exams, from which thresholds and recalibration come. `readers` is the section
    on a reader study.
    """
    made = _Made(
        predictions, summary, comparisons, study, settings, cohort, ceilings, own_summary,
        subsets, folds, pretraining, readers,
    )  # fmt: skip
    report = made.report()
    tables: dict[str, str] = {}
    for table in report.tables:
        tables |= table.files()
    for name, extra in made.more_values.items():
        tables[f"{name}.csv"] = extra.to_csv(index=False)
    figures = {picture.name: picture.figure for picture in report.pictures}
    return Evidence(render(report), tables, figures)


def _calibrations(
    predictions: pd.DataFrame, options: Mapping[str, Any]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    table = calibration_table(predictions, **options)
    return table, reliability_curves(predictions, **options)


class _Made:
    """Everything computed once, and the sections made of it."""

    def __init__(
        self,
        predictions: pd.DataFrame,
        summary: pd.DataFrame,
        comparisons: pd.DataFrame,
        study: Study,
        settings: Settings,
        cohort: Cohort | None,
        ceilings: Mapping[str, Mapping[str, float]] | None,
        own_summary: pd.DataFrame | None,
        subsets: Subsets | None,
        folds: Sequence[pd.DataFrame],
        pretraining: Pretraining | None,
        readers: Sequence[Block],
    ) -> None:
        self.predictions, self.summary, self.comparisons = predictions, summary, comparisons
        self.study, self.settings, self.cohort = study, settings, cohort
        self.ceilings, self.own_summary, self.subsets, self.folds = (
            ceilings, own_summary, subsets, folds,
        )  # fmt: skip
        self.pretraining, self.readers = pretraining, readers
        options = settings.bootstrap
        self.pooled = pooled_aurocs(summary, confidence=settings.confidence)
        # numpy lets other threads run while it works
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            lowest = settings.partial_auroc_from
            ranking = pool.submit(
                ranking_table, predictions, specificity=lowest, sensitivity=lowest, **options
            )
            decision = pool.submit(
                decision_curves,
                predictions,
                thresholds=np.asarray(settings.decision_thresholds),
                **options,
            )
            bands = pool.submit(roc_bands, predictions, **options)
            subgroups = pool.submit(self._subgroups)
            if folds:
                operating = pool.submit(
                    operating_points_of_folds, folds, sensitivity=settings.sensitivity, **options
                )
                calibration = pool.submit(calibration_of_folds, folds, **options)
            else:
                operating = pool.submit(
                    operating_points, predictions, sensitivity=settings.sensitivity, **options
                )
                calibration = pool.submit(_calibrations, predictions, options)
            self.ranking, self.decision, self.bands = (
                ranking.result(), decision.result(), bands.result(),
            )  # fmt: skip
            self.subgroups, self.operating = subgroups.result(), operating.result()
            self.calibration, self.reliability = calibration.result()
        self.more_values = {"decision_curves": self.decision, "reliability": self.reliability}
        self.models = [str(model) for model in summary["model"].unique()]
        self.main = study.main or self.models[0]
        # more would hide each other
        self.banded = self.models if len(self.models) <= _BANDS else [self.main]
        self.has_external = (summary["role"] == "external").any()

    def _of_main(self) -> str:
        return "" if len(self.banded) == len(self.models) else f" of {self.main}"

    @property
    def development(self) -> list[str]:
        sources = self.folds or [self.predictions]
        named = pd.concat([p.loc[p["split"] != "external", "institution"] for p in sources])
        return list(dict.fromkeys(named))

    @property
    def external(self) -> list[str]:
        of_split = self.predictions[self.predictions["split"] == "external"]
        return list(dict.fromkeys(of_split["institution"]))

    def report(self) -> Report:
        blocks = {
            "question": self._question(),
            "cohort": self._cohort(),
            "protocol": self._protocol(),
            "pretraining": self._pretraining(),
            "results": self._results(),
            "operating": self._operating(),
            "calibration": self._calibration(),
            "decision": self._decision(),
            "subgroups": self._subgroup_blocks(),
            "subsets": self._subsets(),
            "readers": self.readers,
            "repeat": self._repeat(),
        }
        present = {key for key, made in blocks.items() if made}
        absent = [_TITLES[key] for key in ("cohort", "subgroups") if key not in present]
        blocks["answer"] = self._answer()
        blocks["limits"] = self._limits(absent)
        keys = present | {"answer", "limits"}
        titles = {key: title for key, title in _TITLES.items() if key in keys}
        blocks["checklist"] = self._checklist(titles)
        sections = [Section(k, t, blocks[k]) for k, t in _TITLES.items() if blocks.get(k)]
        kind = {
            EXTERNAL_VALIDATION: "development and external validation",
            LEAVE_SITE_OUT: "leave-site-out validation",
        }.get(self.study.protocol, "evaluation of predictions that were handed in")
        exams = self.predictions.drop_duplicates(["institution", "exam_id"])
        sites = exams["institution"].nunique()
        subtitle = (
            f"{kind[0].upper()}{kind[1:]}: {number_of(len(self.models), 'model')}, "
            f"{number_of(sites, 'institution')}, {number_of(len(exams), 'exam')} predicted"
        )
        title = f"{self.study.target}: {self.study.name}"
        return Report(title, subtitle, self.study.simulated, sections)

    def _question(self) -> list[Block]:
        study = self.study
        facts = {"Study": study.name, "Target": study.target}
        if study.rule:
            facts["Positive where"] = study.rule
        facts |= {
            f"Model {name}": study.models.get(name, "") or "as handed in" for name in self.models
        }
        return [Facts(facts)]

    def _answer(self) -> list[Block]:
        first, *others = answer(
            self.study,
            self.main,
            self.summary,
            self.comparisons,
            self.pooled,
            self.operating,
            self.calibration,
            confidence=self.settings.confidence,
        )
        return [Paragraph(first, strong=True), *(Paragraph(text) for text in others if text)]

    def _cohort(self) -> list[Block]:
        if self.cohort is None:
            return []
        exams, target = self._with_analysed(), self.study.target
        flow = flow_figure(
            self.cohort.flow,
            exams,
            self.cohort.left_out,
            target=target,
            title=f"{target}: cohort flow",
        )
        caption = (
            "Exams from the manifests to the analysis, and by institution; (n+) are positive. "
            "Reasons are counted in files."
        )
        blocks: list[Block] = [Picture("flow", caption, flow)]
        blocks.append(
            Table(
                "table1",
                "Characteristics by institution, of exams with a usable input: n (%), mean (SD) or "
                "median [first to third quartile]. Shares are of exams whose value is known.",
                characteristics(exams, target),
            )
        )
        caption = "Exams by institution: from the manifest to the known target."
        blocks.append(Table("flow", caption, self.cohort.flow, folded=True))
        return blocks

    def _with_analysed(self) -> pd.DataFrame:
        """The cohort's exams, with whether each was trained on or predicted by every model."""
        assert self.cohort is not None
        exams = self.cohort.exams
        predicted = self.predictions.drop_duplicates(["institution", "exam_id"])
        keys = pd.MultiIndex.from_frame(predicted[["institution", "exam_id"]])
        among = pd.MultiIndex.from_frame(exams[["institution", "exam_id"]]).isin(keys)
        return exams.assign(analysed=among | (exams["split"] == "train"))

    def _protocol(self) -> list[Block]:
        study = self.study
        facts: dict[str, str] = {}
        if study.protocol == LEAVE_SITE_OUT:
            facts["Folds"] = (
                f"each of {', '.join(self.external)} is external once, to models for which "
                "everything was fitted on the other institutions, pretraining included"
            )
        else:
            facts["Development"] = ", ".join(self.development) or "no exams in these tables"
            facts["External"] = ", ".join(self.external) or "none"
        if study.splits:
            shares = ", ".join(f"{name} {100 * s:g} %" for name, s in study.splits.items())
            facts["Development patients"] = f"split by patient, by a hash of the id: {shares}"
        facts |= {f"Input {name}": text for name, text in study.preprocessing.items()}
        fitted = {
            "Weights, normalisation, class weights": "training patients of development",
            "Epoch, operating thresholds, recalibration": "validation patients of development",
            "Internal test": "held-out patients of development; nothing was fitted on them",
            "External validation": f"{self._validated}; nothing was fitted on them",
        }
        if not study.protocol:
            fitted = {
                "Models": "not known here: the predictions were handed in",
                "Operating thresholds, recalibration": "exams of split val, where there are any",
                "Measures": "exams of the splits test (internal) and external"
                + ("" if self.own_summary is None else ", those that all models have"),
            }
        if study.fusion:
            fitted["Fusion"] = study.fusion
        statistics = (
            f"{100 * self.settings.confidence:g} % intervals. Where each patient has one exam: "
            "adjusted DeLong intervals of AUROCs, DeLong's test of differences, Wilson's intervals "
            "of proportions; else, and for everything without a closed form, "
            f"{self.settings.auroc_resamples:,} bootstrap resamples (AUROCs and their "
            f"comparisons; {self.settings.resamples:,} for all else) of whole patients within "
            "institutions, whose variance the intervals of AUROCs and of proportions then have. "
            "Holm's correction over the external institutions of a pair of models. "
            "Random effects by Paule and Mandel with the interval of Hartung and Knapp."
        )
        table = pd.DataFrame({"what": list(fitted), "fitted or computed on": list(fitted.values())})
        return [
            Facts(facts),
            Table("protocol", "What was fitted on whom.", table),
            Paragraph(f"Statistics: {statistics}"),
        ]

    @property
    def _validated(self) -> str:
        every = "all exams whose target is known and whose input is usable"
        return every if self.own_summary is None else f"{every} (measures: those all models have)"

    def _pretraining(self) -> list[Block]:
        if self.pretraining is None:
            return []
        table, several = self.pretraining.table, len(self.pretraining.table) > 1
        shown = pd.DataFrame(
            {
                "held out": table["held out"],
                "ECGs": [f"{n:,}" for n in table["ECGs"]],
                "explained by the autoencoder": [
                    f"{100 * v:.1f} %" for v in table["explained_variance"]
                ],
                "explained by least squares": [f"{100 * v:.1f} %" for v in table["least_squares"]],
            }
        )
        told = "Training patients' ECGs, labelled or not, and how much of the masked samples' "
        told += "variance in validation patients is explained"
        return [
            Paragraph(
                "Least squares reconstructs a masked sample from the leads that stay visible at "
                "the same instant, and so knows nothing but lead algebra: "
                f"{_beyond_least_squares(table)}."
            ),
            Table("pretraining", f"{told}.", shown if several else shown.drop(columns="held out"),
                  table),
            Picture("reconstruction", "A validation exam: original, what the encoder saw of it, "
                    "and its reconstruction.", self.pretraining.figure),
        ]  # fmt: skip

    def _results(self) -> list[Block]:
        confidence, target = self.settings.confidence, self.study.target
        percent = f"{100 * confidence:g} %"
        sites = self.pooled if self.has_external else None
        forest = forest_figure(
            self.summary,
            confidence=confidence,
            title=f"{target}: AUROC by institution",
            ceilings=self.ceilings,
            pooled=sites,
        )
        blocks: list[Block] = [
            Picture(
                "forest",
                f"AUROC with {percent} intervals. Diamonds: mean over external institutions by "
                "random effects; bars below: where a new hospital's AUROC is expected.",
                forest,
            ),
            Table(
                "results",
                f"AUROC for {target} with {percent} intervals.",
                results_table(self.summary, self.ceilings),
                self.summary,
            ),
        ]
        if self.own_summary is not None:
            blocks.append(
                Table(
                    "results_own_exams",
                    f"AUROC for {target}, each model on all its exams.",
                    results_table(self.own_summary, None),
                    self.own_summary,
                    folded=True,
                )
            )
        if len(self.comparisons):
            blocks += self._comparisons(percent)
        if self.has_external:
            blocks.append(
                Table(
                    "heterogeneity",
                    "Differences between external institutions: random-effects meta-analysis of "
                    "logit AUROCs. I squared is the share of the variation that chance does not "
                    "explain.",
                    _heterogeneity(self.pooled),
                    self.pooled,
                )
            )
        where = "external institutions" if self.has_external else "internal tests"
        blocks.append(
            Picture(
                "roc",
                f"ROC curves at the {where}, with pointwise {percent} bands of the sensitivity"
                f"{self._of_main()}.",
                roc_figure(
                    self.predictions,
                    f"{target}: ROC curves",
                    bands=self.bands[self.bands["model"].isin(self.banded)],
                ),
            )
        )
        blocks.append(
            Table(
                "ranking",
                "Further measures of ranking. Chance brings average precision to the prevalence, "
                "and the standardised partial AUROCs to 0.5.",
                _ranking(self.ranking, self.settings.partial_auroc_from),
                self.ranking,
                folded=True,
            )
        )
        return blocks

    def _comparisons(self, percent: str) -> list[Block]:
        reference = reference_set(self.comparisons)
        if len(self.models) > _BANDS:
            of_main = (reference[["model_a", "model_b"]] == self.main).any(axis=1)
            reference = reference[of_main]
        shown = comparison_table(reference).drop(columns=["institution", "role"])
        caption = (
            f"{self._where(self.comparisons)}, paired comparisons on the same exams: differences "
            f"with {percent} intervals."
        )
        table = Table("comparisons", caption, shown, self.comparisons)
        if len(reference) == len(self.comparisons):
            return [table]
        caption = "Paired comparisons at every institution; p by Holm over external ones."
        by_institution = comparison_table(self.comparisons)
        return [table, Table("comparisons_by_institution", caption, by_institution, folded=True)]

    def _operating(self) -> list[Block]:
        if self.operating.empty or self.operating["threshold"].isna().all():
            text = "No operating thresholds: there are no development validation exams."
            return [] if self.operating.empty else [Paragraph(text)]
        youden = self.operating[self.operating["operating_point"] == YOUDEN]
        caption = (
            "at the thresholds chosen on development validation exams: Youden's index, and the "
            f"highest with a sensitivity of {self.settings.sensitivity:.2f} there."
        )
        return [
            Table("operating_points", f"{self._where(self.operating)}, {caption}",
                  _threshold_table(reference_set(self.operating)), self.operating),
            Picture("operating", "Sensitivity and specificity at Youden's threshold.",
                    operating_figure(youden, confidence=self.settings.confidence,
                                     title=f"{self.study.target}: sensitivity and specificity")),
            Table("operating_points_by_institution", "Operating points at every institution.",
                  _operating(self.operating), folded=True),
        ]  # fmt: skip

    def _calibration(self) -> list[Block]:
        confidence = self.settings.confidence
        reference = reference_set(self.calibration)
        institution, where = reference["institution"].iloc[0], self._where(self.calibration)
        curves = self.reliability[self.reliability["institution"] == institution]
        figure = reliability_figure(
            curves, reference, confidence=confidence, title=f"{self.study.target}: calibration"
        )
        return [
            Picture("reliability", f"{where}, reliability curves: tenths of the exams by "
                    "probability, before and after recalibration on development data.", figure),
            Table("calibration", f"{where}, calibration as predicted and after recalibration. "
                  "Ideal are a slope and observed / expected of 1, and an intercept of 0; neither "
                  "is estimable where more than 1 % of the probabilities are 0 or 1, as after "
                  "isotonic recalibration.",
                  _calibration(reference).drop(columns=["institution", "exams"]),
                  self.calibration),
            Table("calibration_by_institution", "Calibration at every institution.",
                  _calibration(self.calibration), folded=True),
        ]  # fmt: skip

    @staticmethod
    def _where(table: pd.DataFrame) -> str:
        """The test set of `reference_set`, in words."""
        row = reference_set(table).iloc[0]
        return {
            "pooled": "All external exams together",
            "external": f"External institution {row['institution']}",
            "development": f"Internal test of {row['institution']}",
        }[row["role"]]

    def _decision(self) -> list[Block]:
        figure = decision_figure(
            self.decision,
            banded=self.banded,
            title=f"{self.study.target}: net benefit of acting on a model",
        )
        caption = (
            "Decision curves: true positives less false positives weighted by the odds of the "
            "threshold, an exam. Models are useful where they lie above both grey lines. Bands"
            f"{self._of_main()}: {100 * self.settings.confidence:g} % intervals."
        )
        return [Picture("decision", caption, figure)]

    def _subgroups(self) -> pd.DataFrame | None:
        if self.cohort is None or not (self.predictions["split"] == "external").any():
            return None
        exams = self.cohort.exams
        groups = exams[["institution", "exam_id"]].copy()
        if "sex" in exams:
            groups["sex"] = exams["sex"]
        if "age_years" in exams:
            groups["age"] = age_bands(exams["age_years"], self.settings.age_edges)
        for column in self.settings.subgroups:
            groups[column] = exams[column]
        known = [c for c in groups.columns[2:] if groups[c].notna().any()]
        if not known:
            return None
        chosen = groups[["institution", "exam_id", *known]]
        return subgroup_table(self.predictions, chosen, **self.settings.bootstrap)

    def _subgroup_blocks(self) -> list[Block]:
        if self.subgroups is None:
            return []
        confidence = self.settings.confidence
        gaps = largest_gaps(self.subgroups, confidence=confidence)
        exams = f"the external exams{'' if self.own_summary is None else ' that all models have'}"
        figure = subgroups_figure(
            self.subgroups, confidence=confidence, title=f"{self.study.target}: subgroups"
        )
        return [
            Picture("subgroups", f"Subgroups of {exams}: AUROC, and positive exams over "
                    "those that the probabilities add up to.", figure),
            Table("gaps", "The largest gaps between subgroups. The two were picked for being "
                  "furthest apart; p, of Cochran's test that all are alike, was not.",
                  _gaps(gaps[gaps["statistic"].isin(("auroc", "observed_expected"))]), gaps),
            Table("subgroups", f"Subgroups of {exams}.", _subgroups(self.subgroups),
                  self.subgroups, folded=True),
        ]  # fmt: skip

    def _subsets(self) -> list[Block]:
        if self.subsets is None:
            return []
        summary = self.subsets.summary
        blocks: list[Block] = []
        if (summary["role"] == "external").any():
            figure = subsets_figure(
                summary,
                self.subsets.inputs,
                confidence=self.settings.confidence,
                title=f"{self.study.target}: the fusion with each subset of its inputs",
            )
            blocks.append(
                Picture("subsets", "What each input adds, on exams that have all of them.", figure)
            )
        caption = "AUROC of the fusion with each subset of its inputs."
        table = Table("subsets", caption, results_table(summary, None), summary, folded=True)
        return [*blocks, table]

    def _limits(self, absent: Sequence[str]) -> list[Block]:
        flow = None if self.cohort is None else self.cohort.flow
        told = limits(
            self.study, self.summary, self.own_summary, self.operating, flow, self.development
        )
        if absent:
            told.append(
                f"This report has no section on {' or '.join(absent).lower()}: they take the "
                "manifests, and predictions that are handed in come without."
            )
        return [Listing(told)]

    def _repeat(self) -> list[Block]:
        study = self.study
        facts = {"Command": study.command, "Commit": study.commit}
        facts = {name: text for name, text in facts.items() if text}
        facts["Seed"] = str(self.settings.seed)
        facts["Resamples"] = (
            f"{self.settings.auroc_resamples} of AUROCs and comparisons, "
            f"{self.settings.resamples} of all else"
        )
        facts |= {f"Version of {name}": version for name, version in study.versions.items()}
        blocks: list[Block] = [Facts(facts, code=True)]
        if study.digests:
            table = pd.DataFrame(study.digests.items(), columns=["data", "digest"])
            blocks.append(Table("digests", "Digests of the data.", table, folded=True))
        return blocks

    def _checklist(self, titles: Mapping[str, str]) -> list[Block]:
        answers = tripod_answers(
            self.study,
            self.summary,
            titles,
            pooled=self.pooled,
            calibration=self.calibration,
            development=self.development,
            external=self.external,
        )
        table = checklist(answers)
        counts = table["status"].value_counts()
        told = ", ".join(f"{counts.get(s, 0)} {s}" for s in (ANSWERED, PARTLY, AUTHOR))
        text = (
            f"{SOURCE}: of {len(table)} items and parts of items {told}. Topics are paraphrased; "
            "the published wording counts. D: development, E: evaluation."
        )
        return [Paragraph(text), Table("tripod_ai", "TRIPOD+AI.", table)]


def _beyond_least_squares(pretrainings: pd.DataFrame) -> str:
    more = int((pretrainings["explained_variance"] > pretrainings["least_squares"]).sum())
    if len(pretrainings) == 1:
        return f"the autoencoder has {'' if more else 'not '}learned more than that"
    return f"{more} of {len(pretrainings)} autoencoders learned more than that"


def _heterogeneity(pooled: pd.DataFrame) -> pd.DataFrame:
    rows = [
        {
            "model": row["model"],
            "institutions": row["institutions"],
            "left out": row["left_out"],
            "mean AUROC": estimate(row, "auroc"),
            "prediction interval": _range(row["predicted_low"], row["predicted_high"]),
            "I squared": _number(100 * row["i_squared"], 0, " %"),
            "tau squared (logit)": _number(row["tau_squared"], 3),
            "Cochran's Q": "" if pd.isna(row["q"]) else f"{row['q']:.1f}, {p_text(row['q_p'])}",
        }
        for _, row in pooled.iterrows()
    ]
    return pd.DataFrame(rows)


def _ranking(ranking: pd.DataFrame, lowest: float) -> pd.DataFrame:
    partial = {
        f"partial AUROC, {side} >= {lowest:.2f}": f"partial_auroc_{side}"
        for side in ("specificity", "sensitivity")
    }
    rows = [
        {
            "institution": row["institution"],
            "model": row["model"],
            "exams": f"{row['n']:,}",
            "prevalence": f"{100 * row['positives'] / row['n']:.1f} %",
            "average precision": estimate(row, "average_precision"),
            **{heading: estimate(row, name) for heading, name in partial.items()},
        }
        for _, row in ranking.iterrows()
    ]
    return pd.DataFrame(rows)


_MEASURES = {
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "ppv": "PPV",
    "npv": "NPV",
    "accuracy": "accuracy",
    "f1": "F1",
    "lr_positive": "LR+",
    "lr_negative": "LR-",
}


def _threshold_table(operating: pd.DataFrame) -> pd.DataFrame:
    """A row a measure, a column a model and operating point."""
    lines = [_operating_line(row) for _, row in operating.iterrows()]
    columns = {f"{line.pop('model')}, {line.pop('chosen for')}": line for line in lines}
    table = pd.DataFrame(columns).drop("institution")
    return table.rename_axis("measure").reset_index()


def _operating(operating: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame([_operating_line(row) for _, row in operating.iterrows()])


def _operating_line(row: pd.Series) -> dict[str, str]:
    known = pd.notna(row["tp"])
    return {
        "institution": row["institution"],
        "model": row["model"],
        "chosen for": row["operating_point"],
        "threshold": "by fold"
        if known and pd.isna(row["threshold"])
        else _number(row["threshold"], 3),
        "TP / FN": f"{row['tp']:,} / {row['fn']:,}" if known else "",
        "TN / FP": f"{row['tn']:,} / {row['fp']:,}" if known else "",
        **{heading: estimate(row, name, 2) for name, heading in _MEASURES.items()},
    }


def _calibration(calibration: pd.DataFrame) -> pd.DataFrame:
    told = dict(zip(METHODS, ("as predicted", "Platt", "isotonic"), strict=True))
    rows = [
        {
            "institution": row["institution"],
            "model": row["model"],
            "probabilities": told[row["recalibration"]],
            "exams": f"{row['n']:,}",
            "slope": estimate(row, "slope", 2),
            "intercept": estimate(row, "intercept", 2),
            "observed / expected": estimate(row, "observed_expected", 2),
            "expected calibration error": estimate(row, "ece"),
            "Brier score": estimate(row, "brier"),
            "scaled Brier": estimate(row, "scaled_brier", 2),
        }
        for _, row in calibration.iterrows()
    ]
    return pd.DataFrame(rows)


def _subgroups(table: pd.DataFrame) -> pd.DataFrame:
    rows = [
        {
            "variable": row["variable"],
            "subgroup": row["group"],
            "model": row["model"],
            "exams": f"{row['n']:,}",
            "positive": f"{row['positives']:,}",
            "AUROC": estimate(row, "auroc"),
            "slope": estimate(row, "slope", 2),
            "intercept": estimate(row, "intercept", 2),
            "observed / expected": estimate(row, "observed_expected", 2),
        }
        for _, row in table.iterrows()
    ]
    return pd.DataFrame(rows)


def _gaps(gaps: pd.DataFrame) -> pd.DataFrame:
    named = {"auroc": "AUROC", "observed_expected": "observed / expected"}
    rows = []
    for _, row in gaps.iterrows():
        between = "" if pd.isna(row["gap"]) else f"{row['group_a']} vs {row['group_b']}"
        rows.append(
            {
                "model": row["model"],
                "variable": row["variable"],
                "measure": named[row["statistic"]],
                "between": between,
                "gap": interval(row["gap"], row["gap_low"], row["gap_high"]),
                "p": p_text(row["q_p"]),
            }
        )
    return pd.DataFrame(rows)


def _range(low: float, high: float) -> str:
    return "not estimable" if pd.isna(low) else f"{low:.3f}-{high:.3f}"


def _number(value: float, digits: int, unit: str = "") -> str:
    return "not estimable" if pd.isna(value) else f"{value:.{digits}f}{unit}"
