"""The predictions table, from which alone every figure and statistic is computed.

One row an exam, model and label. `label` is what is predicted; a table without this column is of
one label. `split` is VAL (validation) or TEST (internal test) for exams of development
institutions, and EXTERNAL for exams of institutions the model never saw. What is tested on has a
role: DEVELOPMENT, EXTERNAL or, for all external exams together (the institution ALL_EXTERNAL),
POOLED.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import pandas as pd

from datamodules.errors import InputError
from experiments.evaluation.tables import RowChecks, read_table
from lightning_modules.tasks.decision import logit_of

EXAM_KEYS = ("institution", "split", "patient_id", "exam_id")
KEYS = ("model", "label", *EXAM_KEYS)
NUMBERS = ("target", "logit", "probability")
COLUMNS = KEYS + NUMBERS
EXAM = ("institution", "exam_id")  # what tells an exam from the others of a table
LABEL = "target"  # the label of a table that names none
MACRO = "macro average"  # stands where a label does: the mean over labels

TRAIN = "train"  # who is trained on is in no predictions table
VAL, TEST, EXTERNAL = SPLITS = ("val", "test", "external")
DEVELOPMENT, POOLED = "development", "pooled"
ROLES = {TEST: DEVELOPMENT, EXTERNAL: EXTERNAL}  # of the splits that are tested on
ALL_EXTERNAL = "all-external"
RESERVED = ("institution", "role", "exams", "prevalence", "any label")  # columns of results


class Check(Protocol):
    """`check_predictions`, or that of another task."""

    def __call__(self, table: pd.DataFrame, source: str, *, label: str = LABEL) -> pd.DataFrame: ...


def read_predictions(path: Path) -> pd.DataFrame:
    """Read and check a predictions table (.parquet or .csv); raise InputError where it is unusable.

    Identifiers keep their leading zeros: a CSV's columns are read as text first. Where there is no
    column logit, it is `logit_of` the probability; where there is no column label, it is LABEL.
    """
    return check_predictions(_read(path), str(path))


def _read(path: Path) -> pd.DataFrame:
    table = read_table(path, "predictions")
    if "logit" not in table and "probability" in table:
        probability = pd.to_numeric(table["probability"], errors="coerce")
        table["logit"] = logit_of(probability.fillna(0.5))  # what is no number is refused as such
    return table


def read_files(paths: Sequence[str]) -> list[pd.DataFrame]:
    """Several files' tables as they are; InputError where there is none, or one is named twice."""
    if not paths:
        raise InputError("Name the predictions to compare: predictions=[ours.parquet,theirs.csv].")
    files = [Path(path) for path in paths]
    if len({file.resolve() for file in files}) < len(files):
        raise InputError(f"predictions={list(paths)}: one file is named twice. Name each once.")
    return [_read(file) for file in files]


def together(paths: Sequence[str], read: Sequence[pd.DataFrame], check: Check) -> pd.DataFrame:
    """What was read of several files as one table, after its `check`.

    A model's name that stands in two files is told apart by the file's, and where these are the
    same by their folders': `cnn from theirs`. A file without labels is of the one that the others
    are of, or of LABEL where they have none or several. Whether they agree about their exams is for
    `compare` to say.
    """
    files = [Path(path) for path in paths]
    labels = {
        str(label).strip()
        for table in read
        if "label" in table
        for label in table["label"].unique()
    }
    label = labels.pop() if len(labels) == 1 else LABEL
    tables = [check(table, str(file), label=label) for table, file in zip(read, files, strict=True)]
    counts = pd.Series([model for table in tables for model in table["model"].unique()])
    twice = counts[counts.duplicated()].unique()
    for table, name in zip(tables, _short_names(files), strict=True):
        new = {model: f"{model} from {name}" for model in twice}
        table["model"] = table["model"].replace(new)
    source = ", ".join(map(str, paths))
    return check(pd.concat(tables, ignore_index=True), source, label=label)


def _short_names(files: Sequence[Path]) -> list[str]:
    """As much of each path's end as tells the files apart, without the ending."""
    parts = [file.resolve().with_suffix("").parts for file in files]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(file) for file in files]  # they differ in their endings alone


def label_of(predictions: pd.DataFrame) -> str:
    """The label of a table of one."""
    return str(predictions["label"].iloc[0]) if "label" in predictions else LABEL


def check_predictions(table: pd.DataFrame, source: str, *, label: str = LABEL) -> pd.DataFrame:
    """The nine COLUMNS in their order, as text, int64 (target) and float64.

    Where there is no column label, all rows are of `label`. `source` names the table in messages;
    where it ends in .csv rows are counted as lines of the file (the header is line 1), else from
    row 1. Raises one InputError that lists every bad row.
    """
    rows, checked = exam_checks(table, NUMBERS, source, label=label)
    numbers = rows.numbers(NUMBERS)
    rows.refuse(~numbers["target"].isin((0.0, 1.0)), "target", "must be 0 or 1")
    rows.refuse(numbers["logit"].isna(), "logit", "must be a number")
    improbable = ~numbers["probability"].between(0.0, 1.0)
    rows.refuse(improbable, "probability", "must be a number from 0 to 1")
    rows.finish()

    checked["target"] = numbers["target"].astype("int64")
    checked[["logit", "probability"]] = numbers[["logit", "probability"]]
    return checked


def exam_checks(
    table: pd.DataFrame, numbers: Sequence[str], source: str, *, label: str
) -> tuple[RowChecks, pd.DataFrame]:
    """What tables of predictions of any task have in common: the checks of their KEYS so far, and
    these as text. The columns `numbers` must be there; to judge them, and to `finish`, is left.
    """
    keys, columns = (
        [name for name in names if name != "label" or name in table]
        for names in (KEYS, (*KEYS, *numbers))
    )
    rows = RowChecks(table, columns, source, what="predictions", remedy="Predict some exams first.")
    checked = rows.texts(keys)
    if "label" not in checked:
        checked.insert(1, "label", label)
    unknown = ~checked["split"].isin(SPLITS) & (checked["split"] != "")
    rows.refuse(unknown, "split", f"must be one of {', '.join(SPLITS)}")
    named = checked["model"].isin(RESERVED)
    rows.refuse(named, "model", "this name stands for a column of the results; take another")
    rows.refuse(checked["label"] == MACRO, "label", "this name stands for the mean over labels")
    reserved = checked["institution"] == ALL_EXTERNAL
    rows.refuse(reserved, "institution", "this name stands for all external institutions together")

    known = checked[checked["split"].isin(SPLITS)]
    roles = (known["split"] == EXTERNAL).groupby([known["model"], known["institution"]])
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
    several = checked["label"].nunique() > 1
    for column in ("patient_id", "split") if several else ():
        first = checked.groupby(["model", *EXAM], sort=False)[column].transform("first")
        for row in checked.index[(checked[column] != first) & (checked["exam_id"] != "")]:
            model, institution, exam_id, value = checked.loc[row, ["model", *EXAM, column]]
            rows.refuse_row(
                row,
                column,
                f"{value!r}, but {first[row]!r} in an earlier row of exam {exam_id!r} of "
                f"{institution} and model {model!r}; give an exam one {column} for all labels",
            )
    exam = ["model", *["label"] * several, *EXAM]
    for row in checked.index[checked.duplicated(exam) & (checked["exam_id"] != "")]:
        model, of_label, institution, exam_id = checked.loc[row, ["model", "label", *EXAM]]
        of = f" and label {of_label!r}" if several else ""
        rows.refuse_row(
            row,
            "exam_id",
            f"{exam_id!r} of {institution} is there more than once for model {model!r}{of}; keep "
            f"one row an exam and model{' and label' if several else ''}",
        )
    return rows, checked
