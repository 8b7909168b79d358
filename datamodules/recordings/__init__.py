"""One reader a file format, all giving the same Recording: 12 leads in standard order.

A hospital's own format joins here: a module with a `read_<format>(path)`, called below.
"""

from pathlib import Path

from datamodules.recordings import muse
from datamodules.recordings.recording import (
    LEADS,
    Recording,
    RecordingError,
    RecordingLimits,
    check_recording,
)
from datamodules.recordings.wfdb import read_wfdb

__all__ = [
    "LEADS",
    "Recording",
    "RecordingError",
    "RecordingLimits",
    "check_recording",
    "read_recording",
]


def read_recording(path: Path) -> Recording:
    """Read one 12-lead ECG from a WFDB record, named with or without .hea, .dat or .mat, or from
    a MUSE XML file, named with its .xml.

    Its samples are [12, n], digital, in standard order. Raises RecordingError if it is not a whole,
    readable 12-lead ECG; length, sampling rate and flat leads are `check_recording`'s.
    """
    return muse.read_muse(path) if path.suffix.lower() == muse.SUFFIX else read_wfdb(path)
