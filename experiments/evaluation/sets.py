"""The test sets that a predictions table holds."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from experiments.evaluation.bootstrap import renumbered, resampled_sums
from experiments.evaluation.predictions import ALL_EXTERNAL, EXTERNAL, POOLED, ROLES, VAL

# no names that a person's subgroups might have
_PATIENT, _STRATUM = "__patient", "__stratum"


@dataclass(frozen=True, slots=True, eq=False)
class PatientExams:
    """A model's exams at one institution, or at all external ones together, and whose they are.

    `cluster` [n] and `stratum_sizes` are those of `clusters`, with the institutions as strata.
    `row` is how its rows begin: model, institution, role, n.
    """

    row: dict[str, Any]
    exams: pd.DataFrame
    cluster: NDArray[np.integer]
    stratum_sizes: NDArray[np.integer]

    @property
    def independent(self) -> bool:
        """Whether every patient has one exam."""
        return int(self.stratum_sizes.sum()) == self.cluster.size

    def patients(self, mask: NDArray[np.bool_]) -> int:
        """How many patients have an exam in `mask` [n]."""
        return pd.unique(self.cluster[mask]).size

    def resampled_sums(self, columns: Any, resamples: int, seed: int) -> NDArray[np.float64]:
        """The sums [resamples, k] of `columns` [n, k] over the exams of the patients drawn."""
        return resampled_sums(columns, self.cluster, self.stratum_sizes, resamples, seed)


@dataclass(frozen=True, slots=True, eq=False)
class ExamSet(PatientExams):
    """Exams with a class: `target` (bool) and `probability` are [n]; `row` has positives too."""

    target: NDArray[np.bool_]
    probability: NDArray[np.float64]


def exam_sets(predictions: pd.DataFrame) -> Iterator[ExamSet]:
    """The `tested_exams` of a table with target and probability."""
    return map(with_class, tested_exams(predictions))


def tested_exams(predictions: pd.DataFrame) -> Iterator[PatientExams]:
    """The sets that `summarise` has rows of, in its order: for each model the internal tests, the
    external institutions and, where those are two or more, all of them together.
    """
    predictions = numbered(predictions)
    for model, of_model in predictions.groupby("model", sort=False):
        for split, role in ROLES.items():
            in_role = of_model[of_model["split"] == split]
            for institution, exams in in_role.groupby("institution", sort=False):
                yield patient_exams(exams, str(model), str(institution), role)
            if role == EXTERNAL and in_role["institution"].nunique() > 1:
                yield patient_exams(in_role, str(model), ALL_EXTERNAL, POOLED)


def numbered(predictions: pd.DataFrame) -> pd.DataFrame:
    """The table with its patients and institutions as numbers, in order, in columns of their own.

    Once for many sets, as texts are slow to sort.
    """
    columns = {_PATIENT: "patient_id", _STRATUM: "institution"}
    return predictions.assign(
        **{name: pd.factorize(predictions[of], sort=True)[0] for name, of in columns.items()}
    )


def patient_exams(exams: pd.DataFrame, model: str, institution: str, role: str) -> PatientExams:
    """`exams`, rows of one model in a `numbered` table, as a set of this name."""
    cluster, sizes = renumbered(exams[_PATIENT].to_numpy(), exams[_STRATUM].to_numpy())
    row = {"model": model, "institution": institution, "role": role, "n": len(exams)}
    return PatientExams(row, exams, cluster, sizes)


def with_class(of: PatientExams) -> ExamSet:
    """The same set of a table with target and probability."""
    target = of.exams["target"].to_numpy().astype(bool)
    row = of.row | {"positives": int(target.sum())}
    probability = of.exams["probability"].to_numpy()
    return ExamSet(row, of.exams, of.cluster, of.stratum_sizes, target, probability)


def validation_exams(predictions: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The development validation exams of each model that has some, of both classes."""
    validation = predictions[predictions["split"] == VAL]
    return {
        str(model): exams
        for model, exams in validation.groupby("model", sort=False)
        if exams["target"].nunique() == 2
    }
