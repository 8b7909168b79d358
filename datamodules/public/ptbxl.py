"""PTB-XL (https://physionet.org/content/ptb-xl/1.0.3/): its database table -> exams."""

import ast
from math import nan
from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.errors import InputError, listing
from datamodules.public.codes import Codes

TABLE = "ptbxl_database.csv"
COLUMNS = (
    "ecg_id",
    "patient_id",
    "age",
    "sex",
    "site",
    "recording_date",
    "scp_codes",
    "filename_hr",
)
OVER_89 = 300  # stands for every age over 89, to keep people anonymous; 90 here
SEX = {"0": "male", "1": "female"}


def exams(folder: Path, root: Path, *, codes: Codes, likelihood_percent: float) -> pd.DataFrame:
    """The 500 Hz records of all sites; institution is `ptbxl_site<n>` (or `ptbxl_site_unknown`).

    A statement counts from `likelihood_percent` on, or where none is given (PTB-XL writes 0); one
    below leaves the ECG open, and so does NORM together with a pathological statement.
    Raises InputError, naming line and column, for what cannot be read.
    """
    path = folder / TABLE
    if not path.is_file():
        raise InputError(f"{path}: PTB-XL's table is missing. Copy it again from PhysioNet.")
    # Everything as text: this table's numbers come as 15709.0, and ids must not.
    try:
        table = pd.read_csv(path, dtype="str", keep_default_na=False)
    except (ValueError, OSError) as error:
        raise InputError(
            f"{path}: cannot be read as a table ({error}). Copy it again from PhysioNet."
        ) from error
    table.index = pd.RangeIndex(2, len(table) + 2, name="line")
    missing = [column for column in COLUMNS if column not in table]
    if missing:
        raise InputError(
            f"{path}: column {', '.join(missing)} missing. Copy the table again from PhysioNet."
        )
    if table.empty:
        raise InputError(f"{path}: there are no records in it. Copy it again from PhysioNet.")
    problems: list[str] = []

    def whole_numbers(column: str, *, absent: bool) -> pd.Series:
        """The column without its `.0`; None where empty."""
        numbers = pd.to_numeric(table[column], errors="coerce")
        bad = (numbers % 1 != 0) & ~((table[column] == "") & absent)
        problems.extend(
            f"line {line}, column {column}: {value!r} is not a whole number"
            for line, value in table.loc[bad, column].items()
        )
        return pd.Series(
            [None if np.isnan(n) or n % 1 else str(int(n)) for n in numbers],
            index=table.index,
            dtype=object,
        )

    ecg_ids = whole_numbers("ecg_id", absent=False)
    patients = whole_numbers("patient_id", absent=False)
    sites = whole_numbers("site", absent=True)
    ages = whole_numbers("age", absent=True).astype("float64")
    sex = whole_numbers("sex", absent=True)
    problems.extend(
        f"line {line}, column sex: {value!r} is not 0 (male) or 1 (female)"
        for line, value in table.loc[sex.notna() & ~sex.isin(list(SEX)), "sex"].items()
    )
    times = pd.to_datetime(table["recording_date"], format="ISO8601", errors="coerce")
    problems.extend(
        f"line {line}, column recording_date: {value!r} is not a time"
        for line, value in table.loc[times.isna(), "recording_date"].items()
        if value
    )
    abnormal = []
    for line, text in table["scp_codes"].items():
        try:
            statements = {str(code): float(given) for code, given in ast.literal_eval(text).items()}
        except (ValueError, SyntaxError, AttributeError, TypeError):
            problems.append(
                f"line {line}, column scp_codes: {text!r} is not a {{code: likelihood}}"
            )
            continue
        problems.extend(
            f"line {line}, column scp_codes: {code!r} stands in none of the source's codes; "
            "add it to one of them"
            for code in sorted(codes.unknown(statements.keys()))
        )
        abnormal.append(_abnormality(statements, codes, likelihood_percent))
    if problems:
        raise InputError(f"{path}:\n{listing(problems)}")
    base = folder.relative_to(root)
    return pd.DataFrame(
        {
            "institution": "ptbxl_site" + sites.fillna("_unknown"),
            "patient_id": "ptbxl-" + patients,
            "exam_id": "ptbxl-" + ecg_ids.str.zfill(5),
            "ecg_path": [(base / name).as_posix() for name in table["filename_hr"]],
            "ecg_time": times,
            "age_years": ages.replace(OVER_89, 90),
            "sex": sex.map(SEX),
            "abnormal": abnormal,
        },
        index=table.index,
    )


def _abnormality(statements: dict[str, float], codes: Codes, likelihood_percent: float) -> float:
    sure = {code for code, given in statements.items() if given == 0 or given >= likelihood_percent}
    if sure & codes.normal and sure & codes.abnormal:
        return nan
    return codes.abnormality(sure, in_doubt=len(sure) < len(statements))
