"""What is found in a study's predictions, whatever kind of target they are of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd

from experiments.evaluation.analysis import Settings
from experiments.figures.report import Evidence
from experiments.figures.study import LEAVE_SITE_OUT, Study
from experiments.schema import Config

# Label -> model -> institution -> the best possible figure, known in a simulation.
Ceilings = Mapping[str, Mapping[str, Mapping[str, float]]]


@dataclass(frozen=True)
class Asked:
    """What predictions are judged for: the labels, and the statistics' settings.

    models, fusion: the study's own, if it trained some, and how they are put together, if they are.
    by_fold: whether exams were scored by another model in each fold. simulated: whether the cohort
    is.
    """

    labels: tuple[str, ...]
    settings: Settings
    models: tuple[str, ...] = ()
    fusion: str = ""
    by_fold: bool = False
    simulated: bool = False

    @staticmethod
    def by(config: Config) -> "Asked":
        """By a launch's configuration."""
        statistics = config.statistics
        low, high, step = statistics.decision_thresholds
        return Asked(
            tuple(config.target),
            Settings(
                confidence=statistics.confidence,
                resamples=statistics.report_resamples,
                auroc_resamples=statistics.resamples,
                seed=config.seed,
                sensitivity=statistics.sensitivity,
                partial_auroc_from=statistics.partial_auroc_from,
                age_edges=tuple(statistics.age_edges),
                decision_thresholds=np.arange(low, high + step / 2, step).tolist(),
                subgroups=tuple(statistics.subgroups),
                truth_thresholds={
                    label: tuple(of) for label, of in statistics.truth_thresholds.items()
                },
                thresholds=dict(statistics.thresholds),
                label_sections=statistics.label_sections,
            ),
            tuple(config.models),
            "" if config.fusion is None else config.fusion.name,
            config.protocol == LEAVE_SITE_OUT,
            bool(config.models) and config.cohort.source == "simulated",
        )


class Findings(Protocol):
    """What predictions tell, as it is left on a run and put into the report.

    Made by `of(asked, predictions, subsets, ceilings)`, which raises InputError where the
    predictions are unusable; `subsets` are those of a fusion with each subset of its inputs.
    """

    @property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """By heading, the tables of the note that MLflow shows; the first is the result."""

    @property
    def title(self) -> str:
        """What `shown` is of."""

    @property
    def shown(self) -> pd.DataFrame:
        """The result as it fits a terminal."""

    @property
    def ceiling(self) -> str:
        """What the tables' ceilings are; empty where they have none."""

    @property
    def files(self) -> Mapping[str, pd.DataFrame | str]:
        """By path, the parent run's files: tables (.csv, .parquet) and texts."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """Of the parent run."""

    @property
    def of_models(self) -> Mapping[str, Mapping[str, float]]:
        """By model, the metrics of its `test` run."""

    def evidence(self, study: Study, folds: Sequence[pd.DataFrame]) -> Evidence:
        """The report; `study` is all that is known beside the predictions. `folds` are the
        predictions of leave-site-out folds, validation exams among them.
        """
