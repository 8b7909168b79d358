"""The predictions table of a regression: what was measured, and what a model estimates.

One row an exam, model and label, as in `predictions`, with `truth` and `estimate`, both in the
label's own unit, in place of target, logit and probability.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.errors import InputError
from experiments.evaluation.predictions import (
    KEYS,
    LABEL,
    check_predictions,
    exam_checks,
    read_files,
    together,
)
from experiments.evaluation.tables import read_table

NUMBERS = ("truth", "estimate")
COLUMNS = KEYS + NUMBERS


def is_regression(table: pd.DataFrame) -> bool:
    """Whether a table of predictions is a regression's."""
    return set(NUMBERS) <= set(table.columns)


def read_estimates(path: Path) -> pd.DataFrame:
    """Read and check a regression's predictions (.parquet or .csv), as `read_predictions` does."""
    return check_estimates(read_table(path, "predictions"), str(path))


def check_estimates(table: pd.DataFrame, source: str, *, label: str = LABEL) -> pd.DataFrame:
    """The eight COLUMNS in their order, as text and float64.

    Institutions, splits, patients and exams are checked as by `check_predictions`, with the same
    `source` and `label`. Raises one InputError that lists every bad row.
    """
    rows, checked = exam_checks(table, NUMBERS, source, label=label)
    numbers = rows.numbers(NUMBERS)
    for name in NUMBERS:
        rows.refuse(~np.isfinite(numbers[name]), name, "must be a finite number")
    rows.finish()
    return checked.assign(**{name: numbers[name] for name in NUMBERS})


def read_several(paths: Sequence[str]) -> pd.DataFrame:
    """Several files' predictions as one checked table (see `together`), a regression's or of a
    class; InputError where some are the one and some the other.
    """
    read = read_files(paths)
    regressions = [is_regression(table) for table in read]
    if any(regressions) and not all(regressions):
        named = dict(zip(paths, regressions, strict=True))
        numbers, classes = (
            [path for path, it in named.items() if it is of] for of in (True, False)
        )
        raise InputError(
            f"{', '.join(numbers)} holds estimates of a number (truth, estimate), and "
            f"{', '.join(classes)} does not: they can't be compared. Judge each kind by itself."
        )
    return together(paths, read, check_estimates if all(regressions) else check_predictions)
