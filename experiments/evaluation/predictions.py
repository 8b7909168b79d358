"""The predictions table, from which alone every figure and statistic is computed.

One row an exam and model. `split` is "val" (validation) or "test" (internal test) for exams of
development institutions, and "external" for exams of institutions the model never saw.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import logit

from datamodules.errors import InputError
from experiments.evaluation.tables import RowChecks, read_table

KEYS = ("model", "institution", "split", "patient_id", "exam_id")
NUMBERS = ("target", "logit", "probability")
COLUMNS = KEYS + NUMBERS
SPLITS = ("val", "test", "external")
ROLES = {"test": "development", "external": "external"}  # of the splits that are tested on
POOLED = "all-external"
RESERVED = ("institution", "role", "exams", "prevalence")  # columns of the table of results

_CLIP = 1e-7


def read_predictions(path: Path) -> pd.DataFrame:
    """Read and check a predictions table (.parquet or .csv); raise InputError where it is unusable.

    Identifiers keep their leading zeros: a CSV's columns are read as text first. Where there is no
    column logit, it is `logit_of` the probability.
    """
    table = read_table(path, "predictions")
    if "logit" not in table and "probability" in table:
        probability = pd.to_numeric(table["probability"], errors="coerce")
        table["logit"] = logit_of(probability.fillna(0.5))  # what is no number is refused as such
    return check_predictions(table, str(path))


def logit_of(probability: ArrayLike) -> NDArray[np.float64]:
    """The logit of probabilities, taken within 1e-7 of 0 and 1, as near as float32 keeps apart."""
    return np.asarray(logit(np.clip(np.asarray(probability, np.float64), _CLIP, 1 - _CLIP)))


def read_several(paths: Sequence[str]) -> pd.DataFrame:
    """Several files' predictions as one table.

    A model's name that stands in two files is told apart by the file's, and where these are the
    same by their folders': `cnn from theirs`. Raises InputError where there is no file, or one is
    named twice. Whether they agree about their exams is for `compare` to say.
    """
    if not paths:
        raise InputError("Name the predictions to compare: predictions=[ours.parquet,theirs.csv].")
    files = [Path(path) for path in paths]
    if len({file.resolve() for file in files}) < len(files):
        raise InputError(f"predictions={list(paths)}: one file is named twice. Name each once.")
    tables = [read_predictions(file) for file in files]
    counts = pd.Series([model for table in tables for model in table["model"].unique()])
    twice = counts[counts.duplicated()].unique()
    for table, name in zip(tables, _short_names(files), strict=True):
        new = {model: f"{model} from {name}" for model in twice}
        table["model"] = table["model"].replace(new)
    return check_predictions(pd.concat(tables, ignore_index=True), ", ".join(map(str, paths)))


def _short_names(files: Sequence[Path]) -> list[str]:
    """As much of each path's end as tells the files apart, without the ending."""
    parts = [file.resolve().with_suffix("").parts for file in files]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(file) for file in files]  # they differ in their endings alone


def check_predictions(table: pd.DataFrame, source: str) -> pd.DataFrame:
    """The eight columns of the contract in their order, as text, int64 (target) and float64.

    `source` names the table in messages; where it ends in .csv rows are counted as lines of the
    file (the header is line 1), else from row 1. Raises one InputError that lists every bad row.
    """
    rows = RowChecks(table, COLUMNS, source, what="predictions", remedy="Predict some exams first.")
    checked = rows.texts(KEYS)
    unknown = ~checked["split"].isin(SPLITS) & (checked["split"] != "")
    rows.refuse(unknown, "split", f"must be one of {', '.join(SPLITS)}")
    named = checked["model"].isin(RESERVED)
    rows.refuse(named, "model", "this name stands for a column of the results; take another")
    reserved = checked["institution"] == POOLED
    rows.refuse(reserved, "institution", "this name stands for all external institutions together")

    numbers = rows.numbers(NUMBERS)
    rows.refuse(~numbers["target"].isin((0.0, 1.0)), "target", "must be 0 or 1")
    rows.refuse(numbers["logit"].isna(), "logit", "must be a number")
    improbable = ~numbers["probability"].between(0.0, 1.0)
    rows.refuse(improbable, "probability", "must be a number from 0 to 1")

    known = checked[checked["split"].isin(SPLITS)]
    roles = (known["split"] == "external").groupby([known["model"], known["institution"]])
    for model, institution in roles.mean().loc[lambda share: share % 1 > 0].index:
        rows.refuse_table(
            f"model {model!r}: {institution} is both a development institution (split val or "
            "test) and external; a model knows an institution or it does not"
        )
    person = ["model", "institution", "patient_id"]
    parts = known.groupby(person, sort=False)["split"].nunique()
    twice = parts[parts > 1].reset_index().groupby(["model", "institution"], sort=False)
    for (model, institution), patients in twice["patient_id"]:
        rows.refuse_table(
            f"model {model!r}: {len(patients)} patient(s) of {institution} are in both val and "
            f"test, {patients.iloc[0]!r} among them; thresholds come from val. Split by patient"
        )
    exam = ["model", "institution", "exam_id"]
    for row in checked.index[checked.duplicated(exam) & (checked["exam_id"] != "")]:
        model, institution, exam_id = checked.loc[row, exam]
        rows.refuse_row(
            row,
            "exam_id",
            f"{exam_id!r} of {institution} is there more than once for model {model!r}; keep one "
            "row an exam and model",
        )
    rows.finish()

    checked["target"] = numbers["target"].astype("int64")
    checked[["logit", "probability"]] = numbers[["logit", "probability"]]
    return checked
