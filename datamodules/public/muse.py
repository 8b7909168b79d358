"""A folder of GE MUSE XML files without labels -> exams.

Of whom and when stands in each file, where its publisher left it: PatientID, PatientAge with its
AgeUnits, Gender, AcquisitionDate and AcquisitionTime.
"""

import hashlib
import re
from math import nan
from pathlib import Path
from xml.etree.ElementTree import Element

import pandas as pd

from datamodules.errors import InputError, listing
from datamodules.parallel import parallel_map
from datamodules.public.copies import joined
from datamodules.recordings import RecordingError
from datamodules.recordings.muse import SUFFIX, read_xml

SEX = {"MALE": "male", "M": "male", "FEMALE": "female", "F": "female"}
PER_YEAR = {"": 1, "YEARS": 1, "MONTHS": 12, "WEEKS": 365.25 / 7, "DAYS": 365.25, "HOURS": 8766}
NO_AGE = "0"  # MUSE's, where nobody typed one in


def exams(folder: Path, root: Path, *, institution: str) -> pd.DataFrame:
    """All MUSE XML files in `folder` and below, as one institution; `abnormal` is empty.

    Files without a PatientID count as a patient each; one recording under two ids is one person's.
    Exams go by their paths in `folder`. A file that is no MUSE XML is left to the reader of
    recordings. Raises InputError, naming the file, where there are no such files and for an age,
    sex or time that cannot be read.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() == SUFFIX)
    if not files:
        raise InputError(
            f"{folder}: there are no XML files here. Copy the data set again, or name its folder."
        )
    found = parallel_map(_read, files, 1, description="reading MUSE files")
    problems: list[str] = []
    rows, marks = [], []
    for file, (said, mark) in zip(files, found, strict=True):
        name = file.relative_to(folder).as_posix()
        exam = f"{institution}-{name.removesuffix(file.suffix)}"
        age, sex, when = (said.get(column) for column in ("age", "sex", "time"))
        for column, value in (("PatientAge", age), ("Gender", sex), ("AcquisitionDate", when)):
            if isinstance(value, Unreadable):
                problems.append(f"{name}, {column}: {value.text}")
        patient = said.get("patient")
        rows.append(
            {
                "institution": institution,
                "patient_id": f"{institution}-{patient}" if patient else exam,
                "exam_id": exam,
                "ecg_path": file.relative_to(root).as_posix(),
                "ecg_time": when,
                "age_years": nan if age is None else age,
                "sex": sex,
                "abnormal": nan,
            }
        )
        marks.append(mark)
    if problems:
        raise InputError(f"{folder}:\n{listing(problems)}")
    table = pd.DataFrame(rows, index=pd.Index([f.name for f in files], name="file"))
    table["patient_id"] = joined(table["patient_id"], marks)
    table["ecg_time"] = pd.to_datetime(table["ecg_time"])
    return table


class Unreadable:
    """What stands where something else should."""

    def __init__(self, text: str) -> None:
        self.text = text


def _read(file: Path) -> tuple[dict[str, object], str | None]:
    """Whose ECG it is, and a mark of its samples."""
    try:
        root = read_xml(file)
    except RecordingError:
        return {}, None
    samples = [data.text or "" for data in root.iter("WaveFormData")]
    mark = hashlib.sha256("\n".join("".join(s.split()) for s in samples).encode()).hexdigest()
    return {
        "patient": _text(root, "PatientDemographics/PatientID"),
        "age": _age(root),
        "sex": _sex(root),
        "time": _time(root),
    }, mark if samples else None


def _age(root: Element) -> float | Unreadable | None:
    age = _text(root, "PatientDemographics/PatientAge")
    units = _text(root, "PatientDemographics/AgeUnits").upper()
    if age in ("", NO_AGE):
        return None
    if re.fullmatch(r"\d+(\.\d+)?", age) is None or units not in PER_YEAR:
        return Unreadable(f"{age!r} {units} is not an age in {', '.join(filter(None, PER_YEAR))}")
    return float(age) / PER_YEAR[units]


def _sex(root: Element) -> str | Unreadable | None:
    sex = _text(root, "PatientDemographics/Gender").upper()
    if sex in ("", "UNKNOWN", "U"):
        return None
    return SEX.get(sex) or Unreadable(f"{sex!r} is not MALE, FEMALE or UNKNOWN")


def _time(root: Element) -> pd.Timestamp | Unreadable | None:
    date = _text(root, "TestDemographics/AcquisitionDate")
    time = _text(root, "TestDemographics/AcquisitionTime")
    if not date:
        return None
    try:
        return pd.to_datetime(f"{date} {time or '00:00:00'}", format="%m-%d-%Y %H:%M:%S")
    except ValueError:
        return Unreadable(f"{date!r} {time} is not a month-day-year with a time")


def _text(root: Element, path: str) -> str:
    return (root.findtext(path) or "").strip()
