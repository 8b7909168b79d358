"""NIH ChestX-ray14 (https://nihcc.app.box.com/v/ChestXray-NIHCC): its table and images -> exams.

The images may lie anywhere in their folder: in `images_001/images` to `images_012/images` as NIH
ships them, in one `images`, or as a part of them. The findings were text-mined from the reports,
and are expected to be right in more than 90 % (Wang et al., CVPR 2017, arXiv:1705.02315).
"""

import re
from collections import Counter
from math import nan
from pathlib import Path

import pandas as pd

from datamodules.errors import InputError, listing

COLUMNS = ("Image Index", "Finding Labels", "Patient ID", "Patient Age")
SEX_COLUMNS = ("Patient Gender", "Patient Sex")  # the table's versions differ
SEX = {"M": "male", "F": "female", "": None}
NO_FINDING = "no finding"
FINDINGS = (
    "atelectasis",
    "cardiomegaly",
    "consolidation",
    "edema",
    "effusion",
    "emphysema",
    "fibrosis",
    "hernia",
    "infiltration",
    "mass",
    "nodule",
    "pleural_thickening",
    "pneumonia",
    "pneumothorax",
)
AGE = re.compile(r"(\d{1,3})([YMWD]?)")  # 58, or 058Y as DICOM writes an age
PER_YEAR = {"": 1, "Y": 1, "M": 12, "W": 365.25 / 7, "D": 365.25}
OLDEST = 120  # the table has people of 414 years


def exams(table: Path, folder: Path, root: Path, *, institution: str) -> pd.DataFrame:
    """Every row of `table`, with a 0/1 column a finding; `patient_id` is `nih-` and NIH's number.

    An age above 120 years is absent. Of a patient's several images each is an exam. Columns of
    other parties, a split among them, are not read. A row's image that is not below `folder` is
    left to the reader of images. Raises InputError, naming line and column, for what cannot be
    read, and where no row's image is there.
    """
    rows = _read(table)
    name = rows["Image Index"]
    images = sorted(folder.rglob("*.png"))
    copies = Counter(image.name for image in images)
    paths = {image.name: image.relative_to(root).as_posix() for image in images}
    problems = [
        f"line {line}, column Image Index: {image!r} lies {copies[image]} times below {folder}; "
        "keep one"
        for line, image in name.items()
        if copies[image] > 1
    ]
    if not name.isin(set(paths)).any():
        raise InputError(
            f"{folder}: none of the {len(name)} images named in {table.name} is here, such as "
            f"{name.iloc[0]}. Name the folder that holds them, or one above it."
        )

    def bad(column: str, fits: "pd.Series[bool]", what: str) -> None:
        problems.extend(
            f"line {line}, column {column}: {value!r} is not {what}"
            for line, value in rows.loc[~fits, column].items()
        )

    findings = rows["Finding Labels"].str.lower().str.split("|").map(set)
    known = findings.map(lambda stated: stated == {NO_FINDING} or stated <= set(FINDINGS))
    bad("Finding Labels", known, "'No Finding', nor findings of ChestX-ray14 with | between them")
    patient = rows["Patient ID"]
    bad("Patient ID", patient.str.fullmatch(r"\d+"), "a whole number")
    age = rows["Patient Age"]
    bad("Patient Age", age.str.fullmatch(AGE) | (age == ""), "an age such as 58 or 058Y")
    sex_column = next(column for column in SEX_COLUMNS if column in rows)
    sex = rows[sex_column]
    bad(sex_column, sex.isin(list(SEX)), "M or F")
    if problems:
        raise InputError(f"{table}:\n{listing(problems)}")
    base = folder.relative_to(root)
    return pd.DataFrame(
        {
            "institution": institution,
            "patient_id": "nih-" + patient.map(lambda number: str(int(number))),
            "exam_id": name.map(lambda image: Path(image).stem),
            "cxr_path": [paths.get(image, (base / image).as_posix()) for image in name],
            "age_years": age.map(_years).astype("float64"),
            "sex": sex.map(SEX),
        }
        | {
            finding: findings.map(lambda stated, finding=finding: float(finding in stated))
            for finding in FINDINGS
        },
        index=rows.index,
    )


def _read(path: Path) -> pd.DataFrame:
    """The table as text, empty where absent, on its line numbers."""
    if not path.is_file():
        raise InputError(f"{path}: ChestX-ray14's table is missing. Copy it again from NIH.")
    try:
        table = pd.read_csv(path, dtype="str", keep_default_na=False).fillna("")
    except (ValueError, OSError) as error:
        raise InputError(
            f"{path}: cannot be read as a table ({error}). Copy it again from NIH."
        ) from error
    missing = [column for column in COLUMNS if column not in table]
    if not any(column in table for column in SEX_COLUMNS):
        missing.append(SEX_COLUMNS[0])
    if missing:
        raise InputError(
            f"{path}: column {', '.join(missing)} missing. Copy the table again from NIH."
        )
    if table.empty:
        raise InputError(f"{path}: there are no images in it. Copy it again from NIH.")
    table.index = pd.RangeIndex(2, len(table) + 2, name="line")
    return table


def _years(age: str) -> float:
    found = AGE.fullmatch(age)
    years = int(found[1]) / PER_YEAR[found[2]] if found else nan
    return years if years <= OLDEST else nan
