"""The table that one institution hands in: its schema, and every bad row by name.

A row is an exam; the columns are those of the manifest contract, which inputs add theirs to, and
any other passes through.
"""

import csv
import io
import math
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PureWindowsPath
from typing import Any, Literal

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray
from pandas.api.types import is_datetime64_any_dtype, is_float_dtype, is_numeric_dtype

from datamodules.errors import InputError, listing

INSTITUTION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
IDS = ("patient_id", "exam_id")


@dataclass(frozen=True)
class Column:
    """What a column of the contract holds: its kind, and checks whose error follows the value.

    A path stays inside the manifest's folder. unit and conversions, of a number, are told where one
    is not as it should be. also_called: what people name it instead, once nothing but small letters
    and digits is left of the name; such a column is refused.
    """

    kind: Literal["text", "number", "time", "path"]
    checks: tuple[pa.Check, ...] = ()
    unit: str = ""
    conversions: str = ""
    also_called: re.Pattern[str] | None = None


ABSENT_WORDS = ("nan", "na", "n/a", "null", "none")
ISO_TIME = r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?)?"
ISO_TIME_ZONE = ISO_TIME + r"(?:Z|[+-]\d{2}(?::?\d{2})?)"
LIMIT = r"[<>≤≥]=?\s*\d+(?:\.\d+)?\D*"
THOUSANDS = r"\d{1,3}(?:[,' ]\d{3})+(?:\.\d+)?"
WITH_UNIT = r"\d+(?:\.\d+)?\s*[^\W\d].*"


def find_manifests(root: Path) -> dict[str, Path]:
    """Institution -> its `<institution>.csv` or `.parquet` directly in `root`, by name.

    Raises InputError where there is none, two for one institution, or a name that is not made of
    letters, digits, `-`, `_` and `.`.
    """
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder. Set cohort.root to the manifests'.")
    found: dict[str, Path] = {}
    problems = []
    for path in sorted(root.iterdir()):
        if path.suffix not in (".csv", ".parquet") or path.name.startswith("."):
            continue
        institution = path.stem
        if not INSTITUTION_NAME.fullmatch(institution):
            problems.append(
                f"{path.name}: an institution's name is made of the letters A-Z and a-z, digits, "
                "'-', '_' and '.'; rename the file"
            )
        elif institution in found:
            problems.append(
                f"{found[institution].name} and {path.name} are two manifests of one institution; "
                "keep one"
            )
        found[institution] = path
    if problems:
        raise InputError(f"{root}: not a folder of manifests:\n{listing(problems)}")
    if not found:
        raise InputError(
            f"{root}: there is no manifest here. Put one table an institution into it, "
            "<institution>.csv or <institution>.parquet."
        )
    return found


def read_manifest(
    path: Path, columns: Mapping[str, Column] | None = None, needs: Sequence[str] = ()
) -> pd.DataFrame:
    """Read and check the manifest of the institution that `path` is named after.

    `columns` are the inputs' own, beside those that every manifest may have. `patient_id` and
    `exam_id` must be there, and each column in `needs`; where a path is needed, every exam must
    have one. Whether a file exists is for its reader to say. Returns text as `str`, numbers as
    float64, times as datetime64, `institution` filled in; the index is the line in the CSV (the
    header is line 1) or the row in the Parquet file (from 1), for later messages. Raises one
    InputError with every bad row.
    """
    try:
        table, problems = _read_csv(path) if path.suffix == ".csv" else (_read_parquet(path), [])
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from error
    twice = table.columns[table.columns.duplicated()].unique()
    if len(twice):
        raise InputError(
            f"{path}: column {', '.join(map(repr, twice))} stands twice; keep one of the two."
        )
    return _check(table, str(path), path.stem, {**COMMON, **(columns or {})}, needs, problems)


def check_manifest(
    table: pd.DataFrame,
    source: str,
    columns: Mapping[str, Column] | None = None,
    needs: Sequence[str] = (),
) -> pd.DataFrame:
    """The checks of `read_manifest` for a table made in memory, with one value in `institution`.

    `source` names the table in messages, where a row goes by its index and the index's name.
    """
    if not len(table):
        raise InputError(f"{source}: the manifest has no exams.")
    if not table.index.is_unique:
        table = table.reset_index(drop=True)
    institutions: Sequence[object] = (
        list(table["institution"].unique()) if "institution" in table else []
    )
    if len(institutions) != 1 or not INSTITUTION_NAME.fullmatch(str(institutions[0])):
        raise InputError(
            f"{source}: column institution must hold one name, made of letters, digits, '-', '_' "
            f"and '.', on every row; it holds {', '.join(map(repr, institutions)) or 'nothing'}."
        )
    every = {**COMMON, **(columns or {})}
    return _check(table, source, str(institutions[0]), every, needs, [])


def target_of(
    exams: pd.DataFrame, target: str, *, lvsd: Mapping[str, Any], ph: Mapping[str, Any]
) -> pd.Series:
    """0.0, 1.0 or NaN (not known) an exam, on the index of `exams`.

    `lvsd` is LVEF < `lvef_below_percent`. `ph` is the column `ph`; where that is empty, PASP >=
    `pasp_at_least_mmhg` or TR velocity > `tr_velocity_above_m_s`, judged by what there is of the
    two. Neither is known where nothing of it was measured, or where ECG and echocardiogram both
    have a time and lie more than `echo_within_days` apart (None: any). Any other target is the
    column of that name, which holds 0, 1 and empty.

    The arguments `lvsd` and `ph` map these names to numbers. Raises InputError for a column that
    is missing or holds something else, by row, and for a `ph` that contradicts its own PASP and TR
    velocity.
    """
    if target == "lvsd":
        return _lvsd(exams, **lvsd)
    if target == "ph":
        return _ph(exams, **ph)
    numbers, text = _as_numbers(exams, target)
    bad = text | (numbers.notna() & ~numbers.isin([0, 1])).to_numpy()
    if bad.any():
        remedy = ""
        if not text.any() and numbers.nunique() > 2:
            remedy = f"\nFor how much {target} is, ask for task=regression."
        raise InputError(
            f"target={target}: the column must hold 0, 1, or nothing where it is not known:\n"
            + listing(_values(exams, target, bad, "is not 0 or 1"))
            + remedy
        )
    return numbers.rename(target)


# Numbers that an echocardiogram measures -> the target whose window of days holds for them.
OF_THE_ECHO = {"lvef_percent": "lvsd", "pasp_mmhg": "ph", "tr_velocity_m_s": "ph"}


def number_of(
    exams: pd.DataFrame, target: str, *, lvsd: Mapping[str, Any], ph: Mapping[str, Any]
) -> pd.Series:
    """The column `target` as float64, NaN where it is not known, on the index of `exams`.

    What an echocardiogram measures is known as for `target_of`: within `echo_within_days` of `lvsd`
    (LVEF) or `ph` (PASP, TR velocity). Raises InputError for a column that is missing, or holds
    something that is no number, by row.
    """
    if target in ("lvsd", "ph") and target not in exams:
        number = "lvef_percent" if target == "lvsd" else "pasp_mmhg"
        raise InputError(
            f"target={target}: that is a yes or no, and task=regression asks for a number: "
            f"target={number}, say."
        )
    numbers, text = _as_numbers(exams, target)
    if text.any():
        raise InputError(
            f"target={target}: the column must hold numbers, or nothing where it is not known:\n"
            + listing(_values(exams, target, text, "is not a number"))
        )
    if target in OF_THE_ECHO:
        days = {"lvsd": lvsd, "ph": ph}[OF_THE_ECHO[target]]["echo_within_days"]
        numbers = numbers.where(_echo_in_time(exams, days))
    return numbers.rename(target)


def _as_numbers(exams: pd.DataFrame, target: str) -> tuple[pd.Series, NDArray[np.bool_]]:
    """A column as float64, and where (n,) it holds something else."""
    _require(exams, target, f"target={target}")
    column = exams[target]
    words = column.astype("str").str.strip().str.lower()
    known = column.notna() & ~words.isin(ABSENT_WORDS)
    numbers = pd.to_numeric(column.where(known), errors="coerce").astype("float64")
    return numbers, (known & ~np.isfinite(numbers)).to_numpy()


def _values(exams: pd.DataFrame, column: str, bad: NDArray[np.bool_], problem: str) -> list[str]:
    return [
        f"{place}, column {column}: {_shown(value)} {problem}"
        for place, value in zip(_places(exams[bad]), exams.loc[bad, column].tolist(), strict=True)
    ]


def _lvsd(
    exams: pd.DataFrame, *, lvef_below_percent: float, echo_within_days: float | None
) -> pd.Series:
    _require(exams, "lvef_percent", "target=lvsd")
    lvef = exams["lvef_percent"]
    known = lvef.notna() & _echo_in_time(exams, echo_within_days)
    return (lvef < lvef_below_percent).astype("float64").where(known).rename("lvsd")


def _ph(
    exams: pd.DataFrame,
    *,
    pasp_at_least_mmhg: float,
    tr_velocity_above_m_s: float,
    echo_within_days: float | None,
) -> pd.Series:
    columns = ("ph", "pasp_mmhg", "tr_velocity_m_s")
    if not set(columns) & set(exams.columns):
        raise InputError(
            f"target=ph: {_institutions(exams)} has none of the columns {', '.join(columns)}; "
            f"one is needed. Columns here: {', '.join(exams.columns)}."
        )
    stated, pasp, velocity = (
        exams[name] if name in exams else pd.Series(np.nan, exams.index) for name in columns
    )
    # Rounded, because 2.8 also comes as 2.8000000000000003, out of a sum or of single precision.
    high = (pasp.round(4) >= pasp_at_least_mmhg) | (velocity.round(4) > tr_velocity_above_m_s)
    derived = high.astype("float64").where(pasp.notna() | velocity.notna())
    in_time = _echo_in_time(exams, echo_within_days)
    contradicted = in_time & stated.notna() & derived.notna() & (stated != derived)
    if contradicted.any():
        problems = [
            f"{place}: ph {_shown(of_ph)}, pasp_mmhg {_shown(mmhg)}, tr_velocity_m_s {_shown(m_s)}"
            for place, of_ph, mmhg, m_s in zip(
                _places(exams[contradicted]),
                *(values[contradicted].tolist() for values in (stated, pasp, velocity)),
                strict=True,
            )
        ]
        raise InputError(
            f"target=ph: {len(problems)} exam{'s' if len(problems) > 1 else ''} with a ph that "
            f"contradicts its own echo values (PH is pasp_mmhg >= {pasp_at_least_mmhg:g} or "
            f"tr_velocity_m_s > {tr_velocity_above_m_s:g}):\n{listing(problems)}\n"
            "Mend these rows, or change ph.pasp_at_least_mmhg and ph.tr_velocity_above_m_s. If ph "
            "is the hospital's own diagnosis, give the column another name, say ph_diagnosed, and "
            "ask for target=ph_diagnosed."
        )
    return stated.fillna(derived).where(in_time).rename("ph")


def _echo_in_time(exams: pd.DataFrame, within_days: float | None) -> pd.Series:
    """False where ECG and echocardiogram are known to lie more than `within_days` apart."""
    if within_days is None or not {"ecg_time", "echo_time"} <= set(exams.columns):
        return pd.Series(True, exams.index)
    apart = (exams["echo_time"] - exams["ecg_time"]).abs()
    return ~(apart > pd.Timedelta(days=within_days))


def _require(exams: pd.DataFrame, column: str, wanted_by: str) -> None:
    if column not in exams:
        raise InputError(
            f"{wanted_by}: {_institutions(exams)} has no column {column!r}"
            f"{_nearest(column, exams.columns)}. Columns here: {', '.join(exams.columns)}."
        )


def _institutions(exams: pd.DataFrame) -> str:
    names = sorted(set(exams["institution"])) if "institution" in exams else []
    return ", ".join(names) or "the manifest"


def _places(exams: pd.DataFrame) -> list[str]:
    names = exams["institution"] if "institution" in exams else [""] * len(exams)
    return [f"{name}, {_row(exams, label)}" for name, label in zip(names, exams.index, strict=True)]


def _nearest(wanted: str, names: Sequence[str] | pd.Index) -> str:
    near = get_close_matches(wanted, [str(name) for name in names], n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _row(table: pd.DataFrame, label: object) -> str:
    return f"{table.index.name or 'row'} {label}"


def _shown(value: object) -> str:
    if isinstance(value, float):
        return "empty" if math.isnan(value) else f"{value:.10g}"
    return repr(value)


def _read_csv(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Every column as text, absent where empty, on the line number; and the lines left out."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: the text is not UTF-8; save the table as 'CSV UTF-8'."
        ) from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    problems: list[str] = []
    rows: list[list[str]] = []
    lines: list[int] = []
    line = 1
    try:
        header = next(reader, [])
        if len(header) == 1 and re.search("[;\t]", header[0]):
            raise InputError(
                f"{path}, line 1: columns are separated by semicolons or tabs; write commas, and "
                "a point for decimals (in a spreadsheet: save as 'CSV UTF-8, comma delimited')."
            )
        line = reader.line_num + 1
        for row in reader:
            if len(row) == len(header):
                if any(row):
                    rows.append(row)
                    lines.append(line)
            elif row:
                problems.append(
                    f"{path.name}, line {line}: {len(row)} values where the header has "
                    f"{len(header)}; a text with a comma in it goes in double quotes"
                )
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}, line {line}: not a CSV table: {error}.") from error
    index = pd.Index(lines, name="line", dtype="int64")
    table = pd.DataFrame(rows, columns=header, index=index, dtype="str")
    return table.mask(table == ""), problems


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        with path.open("rb") as file:
            contents = pyarrow.parquet.read_table(file)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
        raise InputError(f"{path}: not a whole Parquet file ({error}); write it again.") from error
    if len(set(contents.column_names)) < contents.num_columns:
        return pd.DataFrame(columns=contents.column_names)
    table: pd.DataFrame = contents.to_pandas(ignore_metadata=True)
    table.index = pd.RangeIndex(1, len(table) + 1, name="row")
    return table


def _check(
    table: pd.DataFrame,
    source: str,
    institution: str,
    columns: Mapping[str, Column],
    needs: Sequence[str],
    unread: list[str],
) -> pd.DataFrame:
    """`table` with its columns' types, or one InputError with `unread` and every other problem."""
    name = Path(source).name
    if not len(table) and not unread:
        raise InputError(f"{source}: the manifest has no exams.")
    problems: list[tuple[int, str]] = []
    positions = {label: position for position, label in enumerate(table.index)}

    def refuse(column: str, label: object, text: str) -> None:
        where = "" if label is None else f"{_row(table, label)}, "
        position = -1 if label is None else positions[label]
        problems.append((position, f"{name}, {where}column {column}: {text}"))

    for column in table.columns:
        wanted = _also_called(str(column), columns)
        if wanted and wanted not in table:
            unit, conversions = columns[wanted].unit, columns[wanted].conversions
            refuse(
                str(column),
                None,
                f"the name gives no {unit}; call it {wanted} and write {unit} "
                f"({conversions}), or give it a name that says something else",
            )
    typed = {}
    for column in table.columns:
        typed[column], bad = _typed(table[column], columns.get(str(column)))
        for label, text in bad:
            refuse(column, label, text)
    exams = pd.DataFrame(typed, index=table.index)

    if "institution" in exams:
        wrong = exams["institution"].notna() & (exams["institution"] != institution)
        for label, value in exams.loc[wrong, "institution"].items():
            refuse("institution", label, f"{value!r} is not {institution!r}, as the file is named")
    try:
        _schema(columns, needs).validate(exams, lazy=True)
    except pa.errors.SchemaErrors as errors:
        for column, label, text in _failures(errors, exams):
            refuse(column, label, text)
    if problems or unread:
        everything = unread + [text for _, text in sorted(problems)]
        raise InputError(
            f"The manifest {source} has {len(everything)} "
            f"problem{'s' if len(everything) > 1 else ''}:\n{listing(everything)}"
        )
    exams["institution"] = pd.Series(institution, index=exams.index, dtype="str")
    return exams


def _typed(column: pd.Series, known: Column | None) -> tuple[pd.Series, list[tuple[object, str]]]:
    """The column as text, numbers or times by what it is, and (row, what is wrong) of the rest."""
    if known is not None:
        if known.kind == "time":
            return _times(column)
        if known.kind == "number":
            return _numbers(column, known)
        if column.name in IDS and is_float_dtype(column):
            return column.astype("str"), [
                (None, "ids are stored as floating-point numbers; store them as text")
            ]
        return column.astype("str"), []
    if is_float_dtype(column):
        return _numbers(column)
    if column.dtype == object or column.dtype == "str":
        text = column.astype("str")
        values = text[text.notna()]
        words = values[~values.str.lower().isin(ABSENT_WORDS)]
        numeric = pd.to_numeric(words, errors="coerce").notna().all()
        if numeric and (len(words) or not len(values)):
            return _numbers(text)
        return text, []
    return column, []


def _also_called(name: str, columns: Mapping[str, Column]) -> str | None:
    """The column of the contract that `name` is another word for."""
    letters = re.sub(r"[\W_]", "", name.lower())
    for column, known in columns.items():
        if known.also_called is not None and known.also_called.fullmatch(letters):
            return column
    return None


def _numbers(
    column: pd.Series, known: Column = Column("number")
) -> tuple[pd.Series, list[tuple[object, str]]]:
    if is_numeric_dtype(column):
        numbers = column.astype("float64")
    else:
        column = column.astype("str")
        numbers = pd.to_numeric(column, errors="coerce").astype("float64")
    bad: list[tuple[object, str]] = []
    wrong = column.notna() & ~np.isfinite(numbers)
    for (label, value), number in zip(column[wrong].items(), numbers[wrong], strict=True):
        if str(value).lower() in ABSENT_WORDS:
            text = f"{value!r} is not a number; leave it empty"
        elif math.isinf(number):
            text = f"{value} is infinite; leave it empty where there is no number"
        else:
            text = _no_number(str(value), known)
        bad.append((label, text))
    return numbers.where(np.isfinite(numbers)), bad


def _no_number(value: str, known: Column) -> str:
    if re.fullmatch(LIMIT, value):
        alone = f"alone, in {known.unit}" if known.unit else "alone"
        return f"{value!r} is a limit, not a number; write the limit {alone}, or leave it empty"
    if known.unit and re.fullmatch(WITH_UNIT, value):
        told = f" ({known.conversions})" if known.conversions else ""
        return f"{value!r} has its unit in it; write {known.unit} and no unit{told}"
    between = ", nothing between the thousands" if re.fullmatch(THOUSANDS, value) else ""
    return f"{value!r} is not a number; write digits and a point{between}, or leave it empty"


def _times(column: pd.Series) -> tuple[pd.Series, list[tuple[object, str]]]:
    zone = "has a time zone; write the local time without one"
    if is_datetime64_any_dtype(column):
        if getattr(column.dt, "tz", None) is not None:
            return column.dt.tz_localize(None), [(None, f"it {zone}")]
        return column.astype("datetime64[us]"), []
    text = column.astype("str")
    looks_right = text.str.fullmatch(ISO_TIME).fillna(False).astype(bool)
    times = pd.Series(pd.NaT, index=column.index, name=column.name, dtype="datetime64[us]")
    times[looks_right] = pd.to_datetime(text[looks_right], format="ISO8601", errors="coerce")
    bad = [
        (
            label,
            f"{value!r} {zone}"
            if re.fullmatch(ISO_TIME_ZONE, value)
            else f"{value!r} is not a time; write 2024-03-01 or 2024-03-01T09:30:00",
        )
        for label, value in text[text.notna() & times.isna()].items()
    ]
    return times, bad


def _stays_inside(path: str) -> bool:
    """Whether the path is relative and, by its text alone, does not leave its folder."""
    return not (
        "\\" in path
        or "\0" in path
        or path.startswith("/")
        or PureWindowsPath(path).drive
        or posixpath.normpath(path) in (".", "..")
        or posixpath.normpath(path).startswith("../")
    )


def within(low: float, high: float, remedy: str) -> pa.Check:
    """A check of a number's range, ends included; `remedy` tells the unit to write."""
    return pa.Check.in_range(
        low, high, error=f"is outside {low:g}-{high:g}; {remedy}, or leave it empty"
    )


_TRIMMED = pa.Check(
    lambda ids: ids == ids.str.strip(), error="has white space around it; remove it"
)
_INSIDE = pa.Check(
    _stays_inside,
    element_wise=True,
    error="is not a path inside the manifest's folder; write it relative to that folder, "
    "with / between folders",
)
_FRACTIONS = pa.Check(
    lambda values: not 0 < values.max() <= 1,
    error="every value is at most 1: fractions? Multiply them by 100 and write per cent",
)
_A_FRACTION = pa.Check(
    lambda values: ~((values > 0) & (values <= 1) & (values.max() > 1)),
    error="is a fraction beside per cent; multiply it by 100, or leave it empty",
)
_NO_ZERO = pa.Check.ne(0, error="is not a measurement; write per cent, or leave it empty")
_SEXES = pa.Check.isin(
    ["female", "male"], error="is not female or male; write one of them, or leave it empty"
)
_ZERO_ONE = pa.Check.isin([0, 1], error="is not 0 or 1; write one of them, or leave it empty")

# What every manifest may have; inputs add their own.
COMMON: Mapping[str, Column] = {
    "institution": Column("text"),
    "patient_id": Column("text", (_TRIMMED,)),
    "exam_id": Column("text", (_TRIMMED,)),
    "sex": Column("text", (_SEXES,)),
    "age_years": Column("number", (within(0, 120, "write years"),)),
    "ecg_time": Column("time"),
    "echo_time": Column("time"),
    "lvef_percent": Column(
        "number", (within(0, 100, "write per cent"), _NO_ZERO, _FRACTIONS, _A_FRACTION)
    ),
    "tr_velocity_m_s": Column("number", (within(0, 7, "write metres per second"),)),
    "pasp_mmhg": Column("number", (within(0, 200, "write mmHg"),)),
    "ph": Column("number", (_ZERO_ONE,)),
}


def _schema(columns: Mapping[str, Column], needs: Sequence[str]) -> pa.DataFrameSchema:
    """What holds within a typed manifest; an error's text follows the value that broke it."""
    known = {**columns, **{name: Column("text") for name in needs if name not in columns}}
    return pa.DataFrameSchema(
        {
            name: pa.Column(
                None,
                list(column.checks) + ([_INSIDE] if column.kind == "path" else []),
                required=name in IDS or name in needs,
                nullable=not (name in IDS or (column.kind == "path" and name in needs)),
                unique=name == "exam_id",
                report_duplicates="exclude_first",
            )
            for name, column in known.items()
        }
    )


def _failures(
    errors: pa.errors.SchemaErrors, exams: pd.DataFrame
) -> Iterator[tuple[str, object, str]]:
    """(column, row or None for the whole column, what is wrong) of each of pandera's findings."""
    first: pd.Series | None = None
    cases = errors.failure_cases
    for column, check, value, label in zip(
        cases["column"], cases["check"], cases["failure_case"], cases["index"], strict=True
    ):
        if check == "column_in_dataframe":
            near = _nearest(str(value), exams.columns)
            here = ", ".join(map(repr, exams.columns))
            yield str(value), None, f"is missing{near or '.'} Columns here: {here}"
        elif check == "not_nullable":
            yield column, label, "is empty; every exam needs one"
        elif check == "field_uniqueness":
            if first is None:
                known = exams.index[~exams[column].duplicated() & exams[column].notna()]
                first = pd.Series(known, index=exams.loc[known, column])
            # An empty id is already reported as empty.
            if pd.notna(value):
                place = _row(exams, first[value])
                yield column, label, f"{value!r} stands already on {place}; an exam has one row"
        elif pd.isna(label):
            yield column, None, str(check)
        else:
            yield column, label, f"{_shown(value)} {check}"
