"""What is found in predictions of labels that are numbers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import pandas as pd

from datamodules.errors import InputError
from datamodules.simulation import ceiling, lvef_ceiling
from experiments.evaluation.agreement import comparisons_json, estimates_json, summarise_estimates
from experiments.evaluation.comparison import comparison_table
from experiments.evaluation.errors import (
    LVEF,
    Errors,
    analyse_errors,
    check_thresholds,
    errors,
)
from experiments.evaluation.estimates import check_estimates
from experiments.evaluation.predictions import VAL
from experiments.evaluation.summary import results_table, summary_json
from experiments.figures.estimated import build
from experiments.figures.estimated_text import MAE, comparison_rows, digits_of, with_unit
from experiments.figures.report import Evidence
from experiments.figures.study import Study, titled
from experiments.figures.study_text import estimate
from experiments.stages.classification import with_every_institution
from experiments.stages.findings import Asked, Ceilings

METRICS = {
    "mae": "mae", "mae_low": "mae_low", "mae_high": "mae_high", "bias": "bias", "n": "exams"
}  # fmt: skip


@dataclass(frozen=True)
class Regression:
    """Findings of labels that are numbers, each by itself: their units differ.

    Where models have different exams the result is of those that all have, and each model on all
    its exams stands beside it, as in `Classification`. Nothing is found of `untested` labels,
    of which no tested exam has a truth; InputError where all are.
    """

    asked: Asked
    predictions: pd.DataFrame
    of_subsets: pd.DataFrame | None
    found: Mapping[str, Errors]
    ceilings: Ceilings
    untested: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        asked: Asked,
        predictions: pd.DataFrame,
        subsets: pd.DataFrame | None,
        ceilings: Ceilings | None,
    ) -> "Regression":
        label = asked.labels[0]
        checked = check_estimates(predictions, "this launch's predictions", label=label)
        if subsets is not None:
            source = "this launch's predictions with subsets of the inputs"
            subsets = None if subsets.empty else check_estimates(subsets, source, label=label)
        labels = list(dict.fromkeys((*asked.labels, *map(str, checked["label"]))))
        check_thresholds(asked.settings.truth_thresholds, labels)
        tested = set(checked.loc[checked["split"] != VAL, "label"])
        untested = tuple(name for name in labels if name not in tested)
        if not tested:
            raise InputError(
                f"{titled(labels)}: no exam of split test or external has a truth to judge by. "
                "Add some to the manifests, or ask for another target."
            )
        found = {
            str(name): errors(rows, asked.settings, common=subsets is not None)
            for name, rows in checked.groupby("label", sort=False)
            if name in tested
        }
        return cls(asked, checked, subsets, found, ceilings or {}, untested)

    @property
    def title(self) -> str:
        if len(self.found) == 1:
            return next(iter(self.tables))
        interval = f"{self.asked.settings.confidence:.0%} interval"
        return (
            f"{MAE.capitalize()} of {titled(list(self.found))}, each in its own unit ({interval})"
        )

    @property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        tables = {}
        for label, of in self.found.items():
            interval = f"{self.asked.settings.confidence:.0%} interval"
            heading = f"{with_unit(f'{MAE.capitalize()} of {label},', label)} ({interval})"
            heading = heading.replace(", (", " (")
            results, own = self._results[label]
            if own is None:
                tables[heading] = results
            else:
                tables[f"{heading}, exams that all models have"] = results
                tables[f"{heading}, each model on all its exams"] = own
            for name, threshold in of.thresholds.items():
                table = results_table(threshold.summary, self.ceilings.get(name))
                tables[f"AUROC for {name} ({interval})"] = table
            if label in self._subsets:
                title = (
                    f"{self.asked.fusion} with each subset of its inputs, exams with all of them"
                )
                tables[f"{label}: {title}"] = self._table(self._subsets[label], None)
        return tables

    @property
    def shown(self) -> pd.DataFrame:
        """The result; of several labels, label by label."""
        results = {label: results for label, (results, _) in self._results.items()}
        return self._together(results)

    @property
    def ceiling(self) -> str:
        if not self.ceilings:
            return ""
        return (
            f"The ceiling is the {MAE} of an ideal observer of what the simulated inputs were made "
            "from; of a threshold it is the observer's AUROC."
        )

    @property
    def files(self) -> Mapping[str, pd.DataFrame | str]:
        own = {label: own for label, (_, own) in self._results.items() if own is not None}
        compared = {label: of.comparisons for label, of in self.found.items()}
        files: dict[str, pd.DataFrame | str] = {
            "predictions.parquet": self.predictions,
            "summary.json": _json(
                row for of in self.found.values() for row in estimates_json(_every(of))
            ),
            "results.csv": self.shown,
            "comparisons.json": _json(
                row for table in compared.values() for row in comparisons_json(table)
            ),
            "comparisons.csv": self._together(
                {
                    label: comparison_rows(table, digits_of(self.found[label].summary))
                    for label, table in compared.items()
                }
            ),
        }
        if own:
            common = (row for of in self.found.values() for row in estimates_json(of.summary))
            files["common/summary.json"] = _json(common)
            files["results_own_exams.csv"] = self._together(own)
        thresholds = {
            name: of for each in self.found.values() for name, of in each.thresholds.items()
        }
        if thresholds:
            rows = [
                {"label": name} | row
                for name, of in thresholds.items()
                for row in summary_json(of.summary)
            ]
            files["thresholds/summary.json"] = _json(rows)
            files["thresholds/comparisons.csv"] = pd.concat(
                [
                    comparison_table(of.comparisons).assign(label=name)
                    for name, of in thresholds.items()
                ],
                ignore_index=True,
            )
        if self.of_subsets is not None:
            files["subsets/predictions.parquet"] = self.of_subsets
            rows = [row for table in self._subsets.values() for row in estimates_json(table)]
            files["subsets/summary.json"] = _json(rows)
            tables = {label: self._table(table, None) for label, table in self._subsets.items()}
            files["subsets/results.csv"] = self._together(tables)
        return files

    @property
    def metrics(self) -> Mapping[str, float]:
        metrics: dict[str, float] = {}
        for label, of in self.found.items():
            for row in _every(of).to_dict(orient="records"):
                where = f"{self._of(label)}{row['institution']}/{row['model']}"
                metrics |= {f"test/{name}/{where}": row[name] for name in ("mae", "bias")}
            for model, of_model in self.ceilings.get(label, {}).items():
                metrics |= {
                    f"ceiling/mae/{self._of(label)}{institution}/{model}": least
                    for institution, least in of_model.items()
                }
        return metrics

    @property
    def of_models(self) -> Mapping[str, Mapping[str, float]]:
        metrics: dict[str, dict[str, float]] = {}
        for label, of in self.found.items():
            for row in _every(of).to_dict(orient="records"):
                metrics.setdefault(row["model"], {}).update(
                    {
                        f"test/{metric}/{self._of(label)}{row['institution']}": row[column]
                        for column, metric in METRICS.items()
                    }
                )
        return metrics

    def evidence(self, study: Study, folds: Sequence[pd.DataFrame]) -> Evidence:
        """The report. Nothing of `folds` is needed: their external exams are in the predictions."""
        if self.untested:
            untested = f"Nothing is told of {', '.join(self.untested)}: no tested exam has a truth."
            study = replace(study, limits=[*study.limits, untested])
        exams = None if study.cohort is None else study.cohort.exams
        analyses = {
            label: analyse_errors(of, self.asked.settings, exams=exams)
            for label, of in self.found.items()
        }
        return build(analyses, study, self.ceilings, self._subsets)

    @cached_property
    def _results(self) -> Mapping[str, tuple[pd.DataFrame, pd.DataFrame | None]]:
        """By label the result and, where models have different exams, each on all its own."""
        results = {}
        for label, of in self.found.items():
            table = self._table(of.summary, self.ceilings.get(label))
            own = None if of.own_summary is None else self._table(of.own_summary, None)
            results[label] = table if own is None else with_every_institution(table, own), own
        return results

    @cached_property
    def _subsets(self) -> Mapping[str, pd.DataFrame]:
        if self.of_subsets is None:
            return {}
        options = self.asked.settings.of_aurocs
        return {
            str(label): summarise_estimates(rows, **options)
            for label, rows in self.of_subsets.groupby("label", sort=False)
            if label in self.found
        }

    def _table(
        self, summary: pd.DataFrame, ceilings: Mapping[str, Mapping[str, float]] | None
    ) -> pd.DataFrame:
        digits = digits_of(summary)
        return results_table(summary, ceilings, partial(_mae, digits=digits), digits)

    def _of(self, label: str) -> str:
        """What sets a label's metrics apart, where there are several."""
        return f"{label}/" if len(self.found) > 1 else ""

    def _together(self, tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        """Labels' tables as one, which names them where there are several."""
        if len(self.found) == 1:
            return next(iter(tables.values()))
        several = []
        for label, table in tables.items():
            named = table.copy()
            named.insert(0, "label", label)
            several.append(named)
        return pd.concat(several, ignore_index=True)


def least_errors(
    label: str,
    models: Sequence[str],
    institutions: Mapping[str, Mapping[str, Any]],
    thresholds: Sequence[float],
    seed: int,
) -> Ceilings:
    """What an ideal observer of simulated ECGs does, shared by `models`: by `label` the least
    error, and by threshold's name the highest AUROC; nothing where it is not known of the label.
    """
    if label != LVEF or not models:
        return {}
    best = {label: lvef_ceiling(institutions, seed=seed)} | {
        f"{label} < {threshold:g}": ceiling(institutions, seed=seed, lvef_below_percent=threshold)
        for threshold in thresholds
    }
    return {name: dict.fromkeys(models, of) for name, of in best.items()}


def _mae(row: Mapping[Any, Any], *, digits: int) -> str:
    return estimate(row, "mae", digits)


def _every(of: Errors) -> pd.DataFrame:
    """The errors of each model on all its exams."""
    return of.summary if of.own_summary is None else of.own_summary


def _json(rows: Any) -> str:
    return json.dumps(list(rows), indent=2)
