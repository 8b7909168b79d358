"""The same recording published under two patients: those are one person."""

from collections.abc import Hashable, Iterable
from pathlib import Path

import pandas as pd

from datamodules.parallel import parallel_map
from datamodules.recordings import RecordingError
from datamodules.recordings.wfdb import read_header


def join_copies(exams: pd.DataFrame, root: Path) -> pd.Series:
    """`exams.patient_id`, with one id (the first) for patients who share a recording.

    `exams` has patient_id and ecg_path (of the record, without .hea, relative to `root`), and the
    ids come back on its index.

    Public sets hold such pairs (PTB-XL 145 and 463, Georgia E07509 and E07510). With two ids they
    could land in training and in test. A recording is known by its header: first value and
    checksum of every signal. A header that cannot be read is left to the recording's reader.
    """
    headers = [root / f"{path}.hea" for path in exams["ecg_path"]]
    marks = parallel_map(_fingerprint, headers, 1, description="comparing recordings")
    return joined(exams["patient_id"], marks)


def joined(patients: pd.Series, marks: Iterable[Hashable | None]) -> pd.Series:
    """`patients` with one id (the first) for those who share a recording.

    `marks`: one an exam, alike where recordings are; None where a recording is not known.
    """
    same: dict[str, str] = {}

    def person(patient: str) -> str:
        while patient in same:
            patient = same[patient]
        return patient

    owner: dict[Hashable, str] = {}
    for patient, mark in zip(patients, marks, strict=True):
        if mark is None:
            continue
        first, other = person(owner.setdefault(mark, patient)), person(patient)
        if first != other:
            same[other] = first
    return patients.map(person)


def _fingerprint(path: Path) -> tuple[object, ...] | None:
    try:
        header = read_header(path)
    except RecordingError:
        return None
    if any(s.checksum is None or s.initial_value is None for s in header.signals):
        return None
    values = tuple((s.initial_value, (s.checksum or 0) % 2**16) for s in header.signals)
    return (header.sampling_rate_hz, header.n_samples, *values)
