"""The predictions table, from which alone every figure and statistic is computed.

One row an exam and model. `split` is "val" (validation) or "test" (internal test) for exams of
development institutions, and "external" for exams of institutions the model never saw.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from datamodules.errors import InputError, listing

KEYS = ("model", "institution", "split", "patient_id", "exam_id")
NUMBERS = ("target", "logit", "probability")
COLUMNS = KEYS + NUMBERS
SPLITS = ("val", "test", "external")
POOLED = "all-external"
RESERVED = ("institution", "role", "exams", "prevalence")  # columns of the table of results


def read_predictions(path: Path) -> pd.DataFrame:
    """Read and check a predictions table (.parquet or .csv); raise InputError where it is unusable.

    Identifiers keep their leading zeros: a CSV's columns are read as text first.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file. Name an existing predictions table.")
    if path.suffix == ".parquet":
        read: Callable[[Path], pd.DataFrame] = pd.read_parquet
    elif path.suffix == ".csv":

        def read(path: Path) -> pd.DataFrame:
            return pd.read_csv(path, dtype=str, keep_default_na=False)
    else:
        raise InputError(f"{path}: predictions are read from .parquet or .csv. Convert the table.")
    try:
        table = read(path)
    except (OSError, ValueError) as error:  # pandas' and pyarrow's parser errors are ValueErrors
        raise InputError(
            f"{path}: not a readable {path.suffix} table ({str(error).strip()}). Write it again."
        ) from error
    return check_predictions(table, str(path))


def read_several(paths: Sequence[str]) -> pd.DataFrame:
    """Several files' predictions as one table.

    A model's name that stands in two files is told apart by the file's, and where these are the
    same by their folders': `cnn from theirs`. Raises InputError where there is no file, one is
    named twice, or two say different things of one exam.
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
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing:
        raise InputError(
            f"{source}: the predictions table lacks {', '.join(missing)}. "
            f"It needs the columns {', '.join(COLUMNS)}."
        )
    if table.empty:
        raise InputError(f"{source}: the predictions table has no rows. Predict some exams first.")

    original = table.loc[:, list(COLUMNS)].reset_index(drop=True)
    unit, first = ("line", 2) if source.endswith(".csv") else ("row", 1)
    problems: list[tuple[int, str]] = []

    def report(bad: pd.Series, column: str, remedy: str) -> None:
        for row in bad.index[bad]:
            value = str(original.at[row, column])
            shown = "empty" if value in ("", "nan", "None", "<NA>") else repr(value)
            problems.append((row, f"{unit} {row + first}, {column}: {shown}; {remedy}"))

    checked = pd.DataFrame(index=original.index)
    for column in KEYS:
        text = original[column].astype("string").fillna("").str.strip()
        report(text == "", column, "give every row one")
        checked[column] = text.astype(str)
    unknown = ~checked["split"].isin(SPLITS) & (checked["split"] != "")
    report(unknown, "split", f"must be one of {', '.join(SPLITS)}")
    named = checked["model"].isin(RESERVED)
    report(named, "model", "this name stands for a column of the results; take another")
    reserved = checked["institution"] == POOLED
    report(reserved, "institution", "this name stands for all external institutions together")

    numbers = original[list(NUMBERS)].apply(pd.to_numeric, errors="coerce").astype("float64")
    report(~numbers["target"].isin((0.0, 1.0)), "target", "must be 0 or 1")
    report(numbers["logit"].isna(), "logit", "must be a number")
    report(~numbers["probability"].between(0.0, 1.0), "probability", "must be a number from 0 to 1")

    known = checked[checked["split"].isin(SPLITS)]
    roles = (known["split"] == "external").groupby([known["model"], known["institution"]])
    for model, institution in roles.mean().loc[lambda share: share % 1 > 0].index:
        problems.append(
            (
                -1,
                f"model {model!r}: {institution} is both a development institution (split val or "
                "test) and external; a model knows an institution or it does not",
            )
        )
    exam = ["model", "institution", "exam_id"]
    for row in checked.index[checked.duplicated(exam) & (checked["exam_id"] != "")]:
        model, institution, exam_id = checked.loc[row, exam]
        problems.append(
            (
                row,
                f"{unit} {row + first}, exam_id: {exam_id!r} of {institution} is there more than "
                f"once for model {model!r}; keep one row an exam and model",
            )
        )
    if problems:
        lines = [line for _, line in sorted(problems, key=lambda problem: problem[0])]
        raise InputError(f"{source}: {len(lines)} unusable value(s) in it:\n{listing(lines)}")

    checked["target"] = numbers["target"].astype("int64")
    checked[["logit", "probability"]] = numbers[["logit", "probability"]]
    return checked
