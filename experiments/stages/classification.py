"""What is found in predictions of labels that are yes or no."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from datamodules.errors import InputError
from experiments.evaluation.analysis import (
    Aurocs,
    analyse,
    analyse_several,
    aurocs,
    macro_aurocs,
)
from experiments.evaluation.auroc import NOT_ESTIMABLE
from experiments.evaluation.comparison import common_exams, comparison_table, comparisons_json
from experiments.evaluation.macro import macro_summary, shared_labels
from experiments.evaluation.predictions import LABEL, RESERVED, ROLES, check_predictions
from experiments.evaluation.summary import results_table, summarise, summary_json
from experiments.figures.report import Evidence, build, build_several
from experiments.figures.study import Study, Subsets, titled
from experiments.stages.findings import Asked, Ceilings
from experiments.stages.fuse import SUBSET

METRICS = {"auroc": "auroc", "auroc_low": "auroc_low", "auroc_high": "auroc_high", "n": "exams"}


@dataclass(frozen=True)
class Classification:
    """Findings of one label, or of several and their macro average, which is then the result.

    Labels that no exam was tested for are in the predictions alone, and are said to be.

    Where models have different exams (fused ones, of which each has its own input), the result is
    of those that all have, label by label, one test set for all; each model on all its exams stands
    beside it, and in summary.json.
    """

    asked: Asked
    predictions: pd.DataFrame
    of_subsets: pd.DataFrame | None
    labels: Mapping[str, Aurocs]
    macro: Aurocs | None
    ceilings: Ceilings
    untested: Sequence[str]

    @classmethod
    def of(
        cls,
        asked: Asked,
        predictions: pd.DataFrame,
        subsets: pd.DataFrame | None,
        ceilings: Ceilings | None,
    ) -> "Classification":
        label = asked.labels[0] if len(asked.labels) == 1 else LABEL
        checked = check_predictions(predictions, "this launch's predictions", label=label)
        if subsets is not None:
            source = "this launch's predictions with subsets of the inputs"
            subsets = None if subsets.empty else check_predictions(subsets, source, label=label)
        settings, common = asked.settings, subsets is not None
        settings.check(checked["label"].unique().tolist())
        every = {
            str(name): aurocs(rows, settings, common=common)
            for name, rows in checked.groupby("label", sort=False)
        }
        labels = {name: found for name, found in every.items() if len(found.summary)}
        if not labels:
            raise InputError(
                f"no exam of {', '.join(every)} is tested: all are of split val. Predict exams of "
                "split test or external too."
            )
        if subsets is not None:
            tested = subsets[subsets["split"].isin(ROLES)]["label"].unique()
            subsets = subsets[subsets["label"].isin(tested)]
            subsets = None if subsets.empty else subsets
        macro = None
        if len(labels) > 1:
            of_labels = checked[checked["label"].isin(list(labels))]
            macro = macro_aurocs(of_labels, labels, settings, common=common)
        known = {name: best for name, best in (ceilings or {}).items() if name in labels}
        untested = [name for name in every if name not in labels]
        return cls(asked, checked, subsets, labels, macro, known, untested)

    @property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        heading = f"{self._measure} ({self.asked.settings.confidence:.0%} interval)"
        tables = {heading: self._results}
        own = self._own_results
        if own is not None:
            tables = {
                f"{heading}, exams that all models have": self._results,
                f"{heading}, each model on all its exams": own,
            }
        if self._subsets is not None:
            of_subsets = f"{self.asked.fusion} with each subset of its inputs, exams with all"
            tables[f"{of_subsets} of them"] = results_table(self._subsets.summary, None)
        return tables

    @property
    def title(self) -> str:
        return next(iter(self.tables))

    @property
    def shown(self) -> pd.DataFrame:
        """The fusion beside its submodels, and its ceiling, where models are fused."""
        table = self._results
        if not self.asked.fusion:
            return table
        ours = [*self.asked.models, self.asked.fusion]
        columns = ["institution", "role", "exams", "prevalence", "any label", *ours]
        columns.append(f"ceiling ({ours[-1]})")
        return table[[column for column in columns if column in table]]

    @property
    def ceiling(self) -> str:
        if not self.ceilings:
            return ""
        return (
            "The ceiling is the AUROC of an ideal observer of what the simulated inputs were made "
            "from."
        )

    @property
    def files(self) -> Mapping[str, pd.DataFrame | str]:
        comparisons = pd.concat([of.comparisons for of in self._found], ignore_index=True)
        told = comparison_table(comparisons)
        told.insert(0, "label", comparisons["label"])
        files: dict[str, pd.DataFrame | str] = {
            "predictions.parquet": self.predictions,
            "summary.json": _json([_every(of) for of in self._found]),
            "results.csv": pd.concat([self._results_of(of) for of in self._found]),
            "comparisons.json": json.dumps(comparisons_json(comparisons), indent=2),
            "comparisons.csv": told,
        }
        own = [of for of in self._found if of.own_summary is not None]
        if own:
            files["common/summary.json"] = _json([of.summary for of in self._found])
            tables = [_named(results_table(_every(of), None), of.label) for of in own]
            files["results_own_exams.csv"] = pd.concat(tables)
        if self.of_subsets is not None:
            of_labels = [rows for _, rows in self.of_subsets.groupby("label", sort=False)]
            summaries = [summarise(of, **self.asked.settings.of_aurocs) for of in of_labels]
            if self.macro is not None and self._subsets is not None:
                summaries.insert(0, self._subsets.summary)
            tables = [_named(results_table(of, None), of["label"].iloc[0]) for of in summaries]
            files["subsets/predictions.parquet"] = self.of_subsets
            files["subsets/summary.json"] = _json(summaries)
            files["subsets/results.csv"] = pd.concat(tables)
        return files

    @property
    def metrics(self) -> Mapping[str, float]:
        name = "auroc" if self.macro is None else "macro_auroc"
        rows = _every(self._overall).to_dict(orient="records")
        metrics = {f"test/{name}/{row['institution']}/{row['model']}": row["auroc"] for row in rows}
        for label, of_label in self.ceilings.items():
            of = "auroc" if self.macro is None else f"auroc/{label}"
            for model, of_model in of_label.items():
                metrics |= {f"ceiling/{of}/{where}/{model}": v for where, v in of_model.items()}
        return metrics

    @property
    def of_models(self) -> Mapping[str, Mapping[str, float]]:
        metrics: dict[str, dict[str, float]] = {}
        for of in self._found:
            for row in _every(of).to_dict(orient="records"):
                of_model = metrics.setdefault(str(row["model"]), {})
                where = row["institution"]
                if self.macro is None or of is self.macro:
                    prefix = "" if self.macro is None else "macro_"
                    for column, metric in METRICS.items():
                        name = metric if metric == "exams" else f"{prefix}{metric}"
                        of_model[f"test/{name}/{where}"] = row[column]
                else:
                    of_model[f"test/auroc/{of.label}/{where}"] = row["auroc"]
        return metrics

    def evidence(self, study: Study, folds: Sequence[pd.DataFrame]) -> Evidence:
        settings = self.asked.settings
        exams = None if study.cohort is None else study.cohort.exams
        known = replace(
            study,
            target=titled(tuple(self.labels)) if self.untested else study.target,
            ceilings=self._ceilings_of(self._overall),
            subsets=self._subsets,
            untested=self.untested,
        )
        of_folds = {
            label: [self._judged(fold[fold["label"] == label]) for fold in folds]
            for label in self.labels
        }
        if self.macro is None:
            ((label, found),) = self.labels.items()
            return build(analyse(found, settings, exams=exams, folds=of_folds[label]), known)
        several = analyse_several(self.macro, self.labels, settings, exams=exams, folds=of_folds)
        return build_several(several, known)

    def _judged(self, fold: pd.DataFrame) -> pd.DataFrame:
        """The rows of a fold that its label is judged on."""
        return fold if self.of_subsets is None else common_exams(fold, fold["model"].unique())

    @property
    def _found(self) -> list[Aurocs]:
        return [*([] if self.macro is None else [self.macro]), *self.labels.values()]

    @property
    def _overall(self) -> Aurocs:
        return self._found[0]

    @property
    def _measure(self) -> str:
        if self.macro is None:
            return f"AUROC for {titled(tuple(self.labels))}"
        averaged = shared_labels(self.macro.predictions)["label"].unique()
        return f"Macro average AUROC of {titled(tuple(averaged))}"

    @cached_property
    def _results(self) -> pd.DataFrame:
        return self._results_of(self._overall).drop(columns="label")

    @cached_property
    def _own_results(self) -> pd.DataFrame | None:
        own = self._overall.own_summary
        return None if own is None else results_table(own, None)

    def _results_of(self, found: Aurocs) -> pd.DataFrame:
        table = results_table(found.summary, self._ceilings_of(found))
        if found.own_summary is not None:
            table = with_every_institution(table, results_table(found.own_summary, None))
        return _named(table, found.label)

    def _ceilings_of(self, found: Aurocs) -> Mapping[str, Mapping[str, float]] | None:
        """Those of the label; the macro average's where each of its labels has one, and counts."""
        if found is not self.macro:
            return self.ceilings.get(found.label)
        if set(self.ceilings) != set(self.labels):
            return None
        shared = shared_labels(found.predictions)["label"].unique()
        best: dict[str, dict[str, float]] = {}
        for row in found.summary[found.summary["left_out"] == ""].to_dict(orient="records"):
            model, where = row["model"], row["institution"]
            values = [self.ceilings[label].get(model, {}).get(where) for label in shared]
            known = [value for value in values if value is not None]
            if len(known) == len(values):
                best.setdefault(model, {})[where] = float(np.mean(known))
        return best or None

    @cached_property
    def _subsets(self) -> Subsets | None:
        if self.of_subsets is None:
            return None
        settings = self.asked.settings
        if self.macro is None:
            summary = summarise(self.of_subsets, **settings.of_aurocs)
        else:
            summary = macro_summary(self.of_subsets, confidence=settings.confidence)
        names = summary["model"].unique()
        return Subsets(summary, {name: tuple(name.split(SUBSET)) for name in names})


def _every(found: Aurocs) -> pd.DataFrame:
    """The AUROCs of each model on all its exams."""
    return found.summary if found.own_summary is None else found.own_summary


def _named(table: pd.DataFrame, label: str) -> pd.DataFrame:
    table.insert(0, "label", label)
    return table


def _json(summaries: Sequence[pd.DataFrame]) -> str:
    return json.dumps([row for summary in summaries for row in summary_json(summary)], indent=2)


def with_every_institution(table: pd.DataFrame, own: pd.DataFrame) -> pd.DataFrame:
    """Institutions without an exam that has every input are in the table too, and say so."""
    missing = own[~own["institution"].isin(table["institution"])].assign(exams=0)
    missing[own.columns[3]] = ""
    missing = missing.reindex(columns=table.columns, fill_value="")
    models = [name for name in own.columns if name in table and name not in RESERVED]
    missing[models] = NOT_ESTIMABLE
    everything = pd.concat([table, missing], ignore_index=True)
    order = {institution: place for place, institution in enumerate(own["institution"])}
    return everything.sort_values("institution", key=lambda names: names.map(order))
