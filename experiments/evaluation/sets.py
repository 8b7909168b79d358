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
class ExamSet:
    """A model's exams at one institution, or at all external ones together.

    `target` (bool) and `probability` are [n], `cluster` and `stratum_sizes` those of `clusters`,
    with the institutions as strata. `row` is how its rows begin: model, institution, role, n,
    positives.
    """

    row: dict[str, Any]
    exams: pd.DataFrame
    target: NDArray[np.bool_]
    probability: NDArray[np.float64]
    cluster: NDArray[np.integer]
    stratum_sizes: NDArray[np.integer]

    @property
    def independent(self) -> bool:
        """Whether every patient has one exam."""
        return int(self.stratum_sizes.sum()) == self.target.size

    def patients(self, mask: NDArray[np.bool_]) -> int:
        """How many patients have an exam in `mask` [n]."""
        return pd.unique(self.cluster[mask]).size

    def resampled_sums(self, columns: Any, resamples: int, seed: int) -> NDArray[np.float64]:
        """The sums [resamples, k] of `columns` [n, k] over the exams of the patients drawn."""
        return resampled_sums(columns, self.cluster, self.stratum_sizes, resamples, seed)


def exam_sets(predictions: pd.DataFrame) -> Iterator[ExamSet]:
    """The sets that `summarise` has rows of, in its order: for each model the internal tests, the
    external institutions and, where those are two or more, all of them together.
    """
    predictions = numbered(predictions)
    for model, of_model in predictions.groupby("model", sort=False):
        for split, role in ROLES.items():
            in_role = of_model[of_model["split"] == split]
            for institution, exams in in_role.groupby("institution", sort=False):
                yield exam_set(exams, str(model), str(institution), role)
            if role == EXTERNAL and in_role["institution"].nunique() > 1:
                yield exam_set(in_role, str(model), ALL_EXTERNAL, POOLED)


def numbered(predictions: pd.DataFrame) -> pd.DataFrame:
    """The table with its patients and institutions as numbers, in order, in columns of their own.

    Once for many sets, as texts are slow to sort.
    """
    columns = {_PATIENT: "patient_id", _STRATUM: "institution"}
    return predictions.assign(
        **{name: pd.factorize(predictions[of], sort=True)[0] for name, of in columns.items()}
    )


def exam_set(exams: pd.DataFrame, model: str, institution: str, role: str) -> ExamSet:
    """`exams`, rows of one model in a `numbered` table, as a set of this name."""
    target = exams["target"].to_numpy().astype(bool)
    cluster, sizes = renumbered(exams[_PATIENT].to_numpy(), exams[_STRATUM].to_numpy())
    row = {
        "model": model,
        "institution": institution,
        "role": role,
        "n": target.size,
        "positives": int(target.sum()),
    }
    return ExamSet(row, exams, target, exams["probability"].to_numpy(), cluster, sizes)


def validation_exams(predictions: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The development validation exams of each model that has some, of both classes."""
    validation = predictions[predictions["split"] == VAL]
    return {
        str(model): exams
        for model, exams in validation.groupby("model", sort=False)
        if exams["target"].nunique() == 2
    }
