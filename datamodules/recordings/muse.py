"""Reads 12-lead ECGs in the XML that GE MUSE exports (root element RestingECG, restecg.dtd).

A file holds waveforms, of which the one of type Rhythm is the recording (Median is the average
beat). Each LeadData holds one lead: little-endian int16 samples in base64, and what a digital unit
is in microvolts. MUSE stores I, II and V1 to V6; III, aVR, aVL and aVF are sums of I and II.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import check_ordinary
from datamodules.recordings.recording import LEADS, Recording, RecordingError

SUFFIX = ".xml"
ROOT = "RestingECG"
INT16 = np.iinfo(np.int16)

# Einthoven's and Goldberger's leads as sums of I and II. The augmented ones are twice themselves
# here, so that they are whole numbers: their digital unit is half as large.
DERIVED = {"III": (-1, 1, 1), "aVR": (-1, -1, 2), "aVL": (2, -1, 2), "aVF": (-1, 2, 2)}
STORED = tuple(lead for lead in LEADS if lead not in DERIVED)
STANDARD_NAME = {lead.upper(): lead for lead in LEADS}

AGAIN = "Export the ECG from MUSE again"


def read_muse(path: Path) -> Recording:
    """Read the Rhythm waveform of one MUSE XML file.

    Leads may stand in any order and beside others (V3R, V7), which are left out. Of III, aVR, aVL
    and aVF those that the file does not store are computed from I and II, exactly: aVR, aVL and aVF
    then have twice the units a millivolt. A lead's first-sample baseline is its digital value of
    0 mV. Raises RecordingError for a file that is not such XML, or lacks a lead or samples, or
    whose samples differ from their checksum.
    """
    waveform = _rhythm(path, read_xml(path))
    rate_hz = _rate_hz(path, waveform)
    leads = _leads(path, waveform)
    samples: dict[str, NDArray[np.int16]] = {}
    units_per_mv: dict[str, float] = {}
    baseline: dict[str, int] = {}
    for lead, data in leads.items():
        samples[lead] = _samples(path, lead, data)
        units_per_mv[lead] = 1000 / _microvolts(path, lead, data)
        baseline[lead] = _whole(
            path, f"lead {lead}'s FirstSampleBaseline", data, "FirstSampleBaseline", 0
        )
    counts = {lead: len(values) for lead, values in samples.items()}
    if len(set(counts.values())) > 1:
        shortest = min(counts, key=lambda lead: counts[lead])
        longest = max(counts, key=lambda lead: counts[lead])
        raise RecordingError(
            path,
            f"lead {shortest} has {counts[shortest]} samples and lead {longest} {counts[longest]}",
            AGAIN,
        )
    for lead, (of_one, of_two, factor) in DERIVED.items():
        if lead in samples:
            continue
        if units_per_mv["I"] != units_per_mv["II"]:
            raise RecordingError(
                path,
                f"leads I and II have different units, and lead {lead} is not stored",
                "Export the ECG with all 12 leads",
            )
        whole = of_one * samples["I"].astype(np.int32) + of_two * samples["II"].astype(np.int32)
        if whole.min() < INT16.min or whole.max() > INT16.max:
            raise RecordingError(
                path,
                f"leads I and II are so large that lead {lead} cannot be computed from them",
                "An electrode was off or a lead was saturated: leave the recording out",
            )
        samples[lead] = whole.astype(np.int16)
        units_per_mv[lead] = factor * units_per_mv["I"]
        baseline[lead] = of_one * baseline["I"] + of_two * baseline["II"]
    return Recording(
        samples=np.stack([samples[lead] for lead in LEADS]),
        units_per_mv=np.array([units_per_mv[lead] for lead in LEADS]),
        baseline=np.array([baseline[lead] for lead in LEADS], dtype=np.int32),
        sampling_rate_hz=rate_hz,
    )


def read_xml(path: Path) -> Element:
    """The RestingECG element of one MUSE XML file; RecordingError for a file that is none."""
    try:
        check_ordinary(path)
        data = path.read_bytes()
    except FileNotFoundError:
        raise RecordingError(
            path, "there is no such file", "Correct the path: a MUSE XML file is expected"
        ) from None
    except OSError as error:
        raise RecordingError(
            path, f"cannot be read ({error.strerror})", "Put a readable file in its place"
        ) from None
    if b"<!ENTITY" in data:
        raise RecordingError(path, "the XML declares entities, which MUSE never does", AGAIN)
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise RecordingError(path, f"not whole XML ({error})", AGAIN) from None
    if root.tag != ROOT:
        raise RecordingError(
            path,
            f"the XML's root element is {root.tag[:80]}, not {ROOT}: it is not a MUSE export",
            "Export the ECG from MUSE as XML, or convert it to WFDB",
        )
    return root


def _rhythm(path: Path, root: Element) -> Element:
    found = [w for w in root.iter("Waveform") if _text(w, "WaveformType").lower() == "rhythm"]
    if len(found) != 1:
        raise RecordingError(
            path,
            f"it holds {len(found) or 'no'} waveform{'s' if len(found) > 1 else ''} of type Rhythm",
            "Export the ECG from MUSE again, with its one rhythm waveform",
        )
    return found[0]


def _rate_hz(path: Path, waveform: Element) -> int:
    """SampleBase x 10^SampleExponent."""
    base = _whole(path, "SampleBase", waveform, "SampleBase", None)
    exponent = _whole(path, "SampleExponent", waveform, "SampleExponent", 0)
    rate = base * 10**exponent if abs(exponent) <= 6 else 0
    if rate <= 0 or rate != int(rate):
        raise RecordingError(
            path,
            f"the sampling rate, SampleBase {base} x 10^{exponent}, is not a whole number of Hz",
            AGAIN,
        )
    return int(rate)


def _leads(path: Path, waveform: Element) -> Mapping[str, Element]:
    """Standard lead -> its LeadData."""
    leads: dict[str, Element] = {}
    for data in waveform.iter("LeadData"):
        lead = STANDARD_NAME.get(_text(data, "LeadID").upper())
        if lead is None:
            continue
        if lead in leads:
            raise RecordingError(path, f"lead {lead} stands in it twice", AGAIN)
        leads[lead] = data
    absent = [lead for lead in STORED if lead not in leads]
    if absent:
        raise RecordingError(
            path,
            f"lead {', '.join(absent)} missing",
            "Export the ECG with the leads I, II and V1 to V6 at least",
        )
    return leads


def _samples(path: Path, lead: str, data: Element) -> NDArray[np.int16]:
    size = _whole(path, f"lead {lead}'s LeadSampleSize", data, "LeadSampleSize", 2)
    if size != 2:
        raise RecordingError(
            path, f"lead {lead} has samples of {size} bytes, not 2", "Export the ECG as int16"
        )
    late = _whole(path, f"lead {lead}'s LeadOffsetFirstSample", data, "LeadOffsetFirstSample", 0)
    if late:
        raise RecordingError(
            path, f"lead {lead} begins {late} samples late", "Export the leads simultaneously"
        )
    try:
        raw = base64.b64decode("".join(_text(data, "WaveFormData").split()), validate=True)
    except (binascii.Error, ValueError):
        raise RecordingError(path, f"lead {lead}'s samples are not base64", AGAIN) from None
    announced = _whole(
        path, f"lead {lead}'s LeadSampleCountTotal", data, "LeadSampleCountTotal", None
    )
    if len(raw) != 2 * announced or not raw:
        raise RecordingError(
            path,
            f"lead {lead} announces {announced} samples and holds {len(raw) / 2:g}",
            AGAIN,
        )
    checksum = _text(data, "LeadDataCRC32")
    if checksum and checksum != str(crc32(raw)):
        raise RecordingError(path, f"lead {lead}'s samples differ from their checksum", AGAIN)
    return np.frombuffer(raw, dtype="<i2").astype(np.int16)


def _microvolts(path: Path, lead: str, data: Element) -> float:
    """What a digital unit is, in microvolts."""
    unit = _text(data, "LeadAmplitudeUnits")
    if unit.upper() != "MICROVOLTS":
        raise RecordingError(
            path, f"lead {lead} is in {unit or 'no unit'}, not in MICROVOLTS", AGAIN
        )
    text = _text(data, "LeadAmplitudeUnitsPerBit")
    try:
        microvolts = float(text)
    except ValueError:
        microvolts = 0.0
    if not (isfinite(microvolts) and microvolts > 0):
        raise RecordingError(
            path, f"lead {lead}'s LeadAmplitudeUnitsPerBit {text!r} is not a positive number", AGAIN
        )
    return microvolts


def _whole(path: Path, what: str, element: Element, tag: str, default: int | None) -> int:
    """The whole number in the child `tag`; where it is absent or empty, `default`, if one."""
    text = _text(element, tag)
    if not text and default is not None:
        return default
    if re.fullmatch(r"[-+]?\d{1,9}", text) is None:
        raise RecordingError(path, f"{what} {text!r} is not a whole number", AGAIN)
    return int(text)


def _text(element: Element, tag: str) -> str:
    return (element.findtext(tag) or "").strip()
