"""Tables that a person hands in: how they are read, and how every bad row is named."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from datamodules.errors import InputError, listing


def read_table(path: Path, what: str) -> pd.DataFrame:
    """A .parquet or .csv table of `what`; InputError where there is none that can be read.

    A CSV's columns are read as text, so that identifiers keep their leading zeros.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file. Name an existing table of {what}.")
    suffix = path.suffix.lower()
    if suffix not in (".parquet", ".csv"):
        raise InputError(f"{path}: {what} are read from .parquet or .csv. Convert the table.")
    try:
        if suffix == ".parquet":
            return pd.read_parquet(path)
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:  # pandas' and pyarrow's parser errors are ValueErrors
        raise InputError(
            f"{path}: not a readable {path.suffix} table ({str(error).strip()}). Write it again."
        ) from error


class RowChecks:
    """The unusable values of a table, collected and then refused together.

    `source` names the table in messages; where it ends in .csv rows are counted as lines of the
    file (the header is line 1), else from row 1. `original` holds `columns` with a new index, by
    which rows are meant. Raises InputError where a column is missing, or there is no row.
    """

    def __init__(
        self, table: pd.DataFrame, columns: Sequence[str], source: str, *, what: str, remedy: str
    ) -> None:
        missing = [column for column in columns if column not in table.columns]
        if missing:
            raise InputError(
                f"{source}: the table of {what} lacks {', '.join(missing)}. "
                f"It needs the columns {', '.join(columns)}."
            )
        if table.empty:
            raise InputError(f"{source}: the table of {what} has no rows. {remedy}")
        self.original = table.loc[:, list(columns)].reset_index(drop=True)
        self.source = source
        self._unit, self._first = ("line", 2) if source.lower().endswith(".csv") else ("row", 1)
        self._problems: list[tuple[int, str]] = []

    def refuse(self, bad: pd.Series, column: str, remedy: str) -> None:
        """The values of `column` in the rows where `bad` is true, each shown with the remedy."""
        for row in bad.index[bad]:
            value = str(self.original.at[row, column])
            shown = "empty" if value in ("", "nan", "None", "<NA>") else repr(value)
            self.refuse_row(row, column, f"{shown}; {remedy}")

    def refuse_row(self, row: int, column: str, text: str) -> None:
        """One row, in words of its own."""
        self._problems.append((row, f"{self._unit} {row + self._first}, {column}: {text}"))

    def refuse_table(self, text: str) -> None:
        """Something that no single row is to blame for."""
        self._problems.append((-1, text))

    def texts(self, columns: Sequence[str]) -> pd.DataFrame:
        """Columns as trimmed text; an empty one is refused."""
        checked = pd.DataFrame(index=self.original.index)
        for column in columns:
            text = self.original[column].astype("string").fillna("").str.strip()
            self.refuse(text == "", column, "give every row one")
            checked[column] = text.astype(str)
        return checked

    def numbers(self, columns: Sequence[str]) -> pd.DataFrame:
        """Columns as float64, NaN where there is no number."""
        numeric = {name: pd.to_numeric(self.original[name], errors="coerce") for name in columns}
        return pd.DataFrame(numeric).astype("float64")

    def finish(self) -> None:
        """Raise one InputError with everything refused, in the order of the rows."""
        if self._problems:
            lines = [text for _, text in sorted(self._problems, key=lambda problem: problem[0])]
            raise InputError(
                f"{self.source}: {len(lines)} unusable value(s) in it:\n{listing(lines)}"
            )
