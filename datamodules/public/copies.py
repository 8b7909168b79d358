"""The same recording published under two patients: those are one person."""

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
    joined: dict[str, str] = {}

    def person(patient: str) -> str:
        while patient in joined:
            patient = joined[patient]
        return patient

    owner: dict[tuple[object, ...], str] = {}
    headers = [root / f"{path}.hea" for path in exams["ecg_path"]]
    marks = parallel_map(_fingerprint, headers, 1, description="comparing recordings")
    for patient, mark in zip(exams["patient_id"], marks, strict=True):
        if mark is None:
            continue
        first, other = person(owner.setdefault(mark, patient)), person(patient)
        if first != other:
            joined[other] = first
    return exams["patient_id"].map(person)


def _fingerprint(path: Path) -> tuple[object, ...] | None:
    try:
        header = read_header(path)
    except RecordingError:
        return None
    if any(s.checksum is None or s.initial_value is None for s in header.signals):
        return None
    values = tuple((s.initial_value, (s.checksum or 0) % 2**16) for s in header.signals)
    return (header.sampling_rate_hz, header.n_samples, *values)
