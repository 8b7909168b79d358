"""Reads 12-lead ECGs in WFDB format, as PhysioNet, PTB-XL and the CinC Challenges ship them.

Format: https://physionet.org/physiotools/wag/header-5.htm and signal-5.htm. Numpy reads format 16
(nearly every 12-lead set); the wfdb package, ten times slower, reads all other signal formats.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, isfinite
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import check_ordinary
from datamodules.recordings.recording import LEADS, Recording, RecordingError

SUFFIXES = (".hea", ".dat", ".mat")
UNITS_PER_MV = {"mv": 1.0, "uv": 1e3, "µv": 1e3, "μv": 1e3, "v": 1e-3}
DEFAULT_GAIN = 200.0  # WFDB's, where a header gives none or 0
INT16 = np.iinfo(np.int16)

# header-5: NAME[/SEGMENTS] SIGNALS [RATE[/COUNTER RATE[(BASE)]] [SAMPLES ...]]
RATE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(?:/.*)?")
# header-5: FORMAT[xSAMPLES PER FRAME][:SKEW][+BYTE OFFSET] and GAIN[(BASELINE)][/UNITS]
FORMAT = re.compile(r"(\d+)(?:x(\d+))?(?::(\d+))?(?:\+(\d+))?")
GAIN = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?:\(([-+]?\d+)\))?(?:/(\S*))?")
COUNT = re.compile(r"[0-9]{1,12}")
# A lead's name in any case, alone or after LEAD, ECG or MDC_ECG_LEAD (HL7). Nothing else is
# guessed: -aVR is aVR upside down, and MLII is not II.
LEAD_NAME = re.compile(
    rf"(?:(?:MDC_ECG_)?LEAD[ _-]?|ECG[ _-])?({'|'.join(LEADS)})", flags=re.IGNORECASE
)
STANDARD_NAME = {lead.upper(): lead for lead in LEADS}

# signal-5: bytes a sample takes; the most negative value a format holds stands for "no sample".
# (8 holds differences, and 508, 516 and 524 are compressed: their files have no fixed size.)
BYTES_PER_SAMPLE = {
    8: 1.0,
    16: 2.0,
    24: 3.0,
    32: 4.0,
    61: 2.0,
    80: 1.0,
    160: 2.0,
    212: 1.5,
    310: 4 / 3,
    311: 4 / 3,
}
PACKED_FORMATS = (212, 310, 311)
NO_SAMPLE = {
    16: -(2**15),
    24: -(2**23),
    32: -(2**31),
    61: -(2**15),
    80: -(2**7),
    160: -(2**15),
    212: -(2**11),
    310: -(2**9),
    311: -(2**9),
    508: -(2**7),
    516: -(2**15),
    524: -(2**23),
}

RESTORE = "Copy the record again from its source"
MEND = "Mend the header, or export the record again"


@dataclass(frozen=True, slots=True)
class Signal:
    """One signal line of a header.

    gain: digital units a `units`; baseline: the digital value of 0 `units`; skew in samples.
    """

    file: str
    format: int
    samples_per_frame: int
    skew: int
    byte_offset: int
    gain: float
    baseline: int
    units: str
    initial_value: int | None
    checksum: int | None
    name: str


@dataclass(frozen=True, slots=True)
class Header:
    """A single-segment record's header; `n_samples` is a lead's."""

    sampling_rate_hz: int
    n_samples: int
    signals: tuple[Signal, ...]


def read_wfdb(path: Path) -> Recording:
    """Read one WFDB record, named with or without .hea, .dat or .mat.

    Leads may stand in any order, in any number of files and beside other signals, which are left
    out. Raises RecordingError for a record that is not whole, or lacks one of the 12 leads.
    """
    base = path.with_suffix("") if path.suffix.lower() in SUFFIXES else path
    header_path = Path(f"{base}.hea")
    header = read_header(header_path)
    leads = _twelve_leads(header_path, header)
    signals = [header.signals[i] for i in leads]
    files = {name: base.parent / name for name in dict.fromkeys(s.file for s in signals)}
    for name, file in files.items():
        _check_size(file, [signal for signal in header.signals if signal.file == name], header)
    if all(s.format == 16 and s.samples_per_frame == 1 for s in header.signals if s.file in files):
        digital = _read_format_16(header, leads, files)
    else:
        digital = _read_by_wfdb_package(base, header_path, leads)
    _check_samples(digital, signals, [files[signal.file] for signal in signals])
    return Recording(
        samples=digital.astype(np.int16, copy=False),
        units_per_mv=np.array([s.gain * UNITS_PER_MV[s.units.lower()] for s in signals]),
        baseline=np.array([signal.baseline for signal in signals], dtype=np.int32),
        sampling_rate_hz=header.sampling_rate_hz,
    )


def read_header(path: Path) -> Header:
    """Read a .hea file. The name that the record gives itself is not looked at.

    (43 headers of the Georgia set call the record `E00271.mat`, which wfdb refuses.) Raises
    RecordingError for a file that is no header, and for a line that is garbled or lacking.
    """
    try:
        check_ordinary(path)
        text = path.read_bytes().decode("utf-8-sig", errors="replace")
    except FileNotFoundError:
        raise RecordingError(
            path,
            "there is no such header",
            "Correct the path: a WFDB record (.hea beside .dat or .mat) is expected",
        ) from None
    except OSError as error:
        raise _unreadable(path, error) from None
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        raise RecordingError(path, "the header is empty", RESTORE)
    n_signals, sampling_rate_hz, n_samples = _record_line(path, lines[0])
    if len(lines) - 1 != n_signals:
        raise RecordingError(
            path, f"the header announces {n_signals} signals and lists {len(lines) - 1}", MEND
        )
    signals = tuple(_signal_line(path, line) for line in lines[1:])
    return Header(sampling_rate_hz, n_samples, signals)


def _unreadable(path: Path, error: OSError) -> RecordingError:
    return RecordingError(
        path, f"cannot be read ({error.strerror})", "Put a readable file in its place"
    )


def _record_line(path: Path, line: str) -> tuple[int, int, int]:
    """Number of signals, sampling rate and number of samples."""
    fields = line.split()
    if re.fullmatch(r".+/\d+", fields[0]):
        raise RecordingError(
            path, "the record has several segments", "Export each segment as a record of its own"
        )
    if len(fields) < 2 or COUNT.fullmatch(fields[1]) is None:
        raise RecordingError(path, f"not a WFDB header: its first line is {line[:80]!r}", RESTORE)
    if len(fields) < 3:
        raise RecordingError(
            path,
            "the header gives no sampling rate",
            "Write it, in Hz, after the number of signals in the header's first line",
        )
    rate = RATE.fullmatch(fields[2])
    if rate is None or not float(rate[1]).is_integer() or float(rate[1]) == 0:
        raise RecordingError(
            path,
            f"the sampling rate {fields[2]!r} is not a whole number of Hz",
            "Correct it in the header's first line, or resample the record",
        )
    if len(fields) < 4 or COUNT.fullmatch(fields[3]) is None or int(fields[3]) == 0:
        raise RecordingError(
            path,
            "the header gives no number of samples, without which a torn file goes unseen",
            "Write it after the sampling rate in the header's first line",
        )
    return int(fields[1]), int(float(rate[1])), int(fields[3])


def _signal_line(path: Path, line: str) -> Signal:
    """One signal: FILE FORMAT [GAIN [BITS [ZERO [INITIAL [CHECKSUM [BLOCK [NAME]]]]]]]."""
    fields = line.split(maxsplit=8)
    fields += [""] * (9 - len(fields))
    file, format_field, gain_field, _, zero, initial, checksum, _, name = fields
    layout = FORMAT.fullmatch(format_field)
    gain = GAIN.fullmatch(gain_field or "0")
    try:
        if layout is None or gain is None:
            raise ValueError
        adc_zero = int(zero or 0)
        baseline = int(gain[2]) if gain[2] else adc_zero
        if abs(baseline) >= 2**31 or not isfinite(float(gain[1])):
            raise ValueError
        signal = Signal(
            file=file,
            format=int(layout[1]),
            samples_per_frame=int(layout[2] or 1),
            skew=int(layout[3] or 0),
            byte_offset=int(layout[4] or 0),
            gain=float(gain[1]) or DEFAULT_GAIN,
            baseline=baseline,
            units=gain[3] or "mV",
            initial_value=int(initial) if initial else None,
            checksum=int(checksum) if checksum else None,
            name=name.strip(),
        )
    except ValueError:
        raise RecordingError(path, f"garbled signal line {line[:80]!r}", MEND) from None
    if re.search(r"[/\\\0]|\.\.", file):
        raise RecordingError(
            path,
            f"the signal file {file!r} lies outside the record's folder",
            "Put it beside the header and name it without a folder",
        )
    return signal


def _twelve_leads(path: Path, header: Header) -> list[int]:
    """Where each of the 12 leads stands among the header's signals, in standard order."""
    found: dict[str, int] = {}
    others = []
    for position, signal in enumerate(header.signals):
        match = LEAD_NAME.fullmatch(signal.name)
        if match is None:
            others.append(signal.name)
            continue
        lead = STANDARD_NAME[match[1].upper()]
        if lead in found:
            raise RecordingError(
                path, f"lead {lead} stands twice", "Keep one of the two in the header"
            )
        found[lead] = position
    missing = [lead for lead in LEADS if lead not in found]
    if missing:
        unknown = (
            f"; it has signals of unknown name: {', '.join(map(repr, others))}" if others else ""
        )
        raise RecordingError(
            path,
            f"the record lacks lead {', '.join(missing)}{unknown}",
            f"Name the leads {', '.join(LEADS)} in the header, or leave the record out",
        )
    for lead, position in found.items():
        signal = header.signals[position]
        if signal.units.lower() not in UNITS_PER_MV:
            raise RecordingError(
                path,
                f"lead {lead} is in {signal.units!r}, not in V, mV or uV",
                "Give its gain in digital units per mV",
            )
        if signal.samples_per_frame != 1:
            raise RecordingError(
                path,
                f"lead {lead} has {signal.samples_per_frame} samples a frame",
                "Export the leads with one sample a frame",
            )
        if signal.skew:
            raise RecordingError(
                path,
                f"lead {lead} is skewed by {signal.skew} samples against the others",
                "Export the record without skew",
            )
    return [found[lead] for lead in LEADS]


def _check_size(file: Path, signals: Sequence[Signal], header: Header) -> None:
    """Refuse a signal file that is missing, or shorter or longer than its header says."""
    try:
        check_ordinary(file)
        size = file.stat().st_size
    except FileNotFoundError:
        raise RecordingError(file, "the header's signal file is missing", RESTORE) from None
    except OSError as error:
        raise _unreadable(file, error) from None
    if len({(signal.format, signal.byte_offset) for signal in signals}) > 1:
        raise RecordingError(
            file, "the header gives it several formats or byte offsets, which cannot be", MEND
        )
    bytes_per_sample = BYTES_PER_SAMPLE.get(signals[0].format)
    if bytes_per_sample is None:
        return
    n_samples = header.n_samples * sum(signal.samples_per_frame for signal in signals)
    expected = signals[0].byte_offset + ceil(n_samples * bytes_per_sample)
    # Formats that pack samples into groups of 3 or 4 bytes may fill the last group up.
    spare = 3 if signals[0].format in PACKED_FORMATS else 0
    if not expected <= size <= expected + spare:
        raise RecordingError(
            file,
            f"the signal file has {size} bytes where its header says {expected}: it is torn, or "
            "not this header's",
            RESTORE,
        )


def _read_format_16(
    header: Header, leads: Sequence[int], files: dict[str, Path]
) -> NDArray[np.int16]:
    """Digital values of the leads at the positions `leads`, [12, n]."""
    digital = np.empty((len(leads), header.n_samples), dtype=np.int16)
    for name, file in files.items():
        inside = [i for i, signal in enumerate(header.signals) if signal.file == name]
        offset = header.signals[inside[0]].byte_offset
        try:
            frames = np.fromfile(file, dtype="<i2", offset=offset).reshape(-1, len(inside))
        except OSError as error:
            raise _unreadable(file, error) from None
        for row, lead in enumerate(leads):
            if lead in inside:
                digital[row] = frames[:, inside.index(lead)]
    return digital


def _read_by_wfdb_package(
    base: Path, header_path: Path, leads: Sequence[int]
) -> NDArray[np.signedinteger]:
    """Digital values of the leads at the positions `leads`, [12, n], in any WFDB format."""
    import wfdb  # takes over a second: only where it is needed

    try:
        record = wfdb.rdrecord(str(base), channels=list(leads), physical=False)
        digital: NDArray[np.signedinteger] = record.d_signal.T
    except Exception as error:  # wfdb raises what its inner workings happen to raise
        raise RecordingError(
            header_path,
            f"wfdb cannot read the record ({type(error).__name__}: {error})",
            "Write it again, for example as format 16 with wfdb.wrsamp",
        ) from error
    return digital


def _check_samples(
    digital: NDArray[np.signedinteger], signals: Sequence[Signal], files: Sequence[Path]
) -> None:
    """Refuse samples that are missing, that int16 cannot hold, or that fail their checksum."""
    lowest, highest = digital.min(axis=1), digital.max(axis=1)
    # The sum of a signal's samples, modulo 2^16; headers write it with or without a sign.
    sums = digital.sum(axis=1, dtype=np.int64)
    for row, (lead, signal, file) in enumerate(zip(LEADS, signals, files, strict=True)):
        no_sample = NO_SAMPLE.get(signal.format)
        if no_sample is not None and lowest[row] <= no_sample:
            count = int((digital[row] == no_sample).sum())
            raise RecordingError(
                file,
                f"lead {lead} has {count} missing samples (NaN, stored as {no_sample})",
                "Export it without gaps, or leave the record out",
            )
        if lowest[row] < INT16.min or highest[row] > INT16.max:
            raise RecordingError(
                file,
                f"lead {lead} runs from {lowest[row]} to {highest[row]} digital units and does not "
                f"fit into 16 bits ({INT16.min} to {INT16.max})",
                "Export it with 16 bits a sample",
            )
        if signal.checksum is not None and (int(sums[row]) - signal.checksum) % 2**16:
            raise RecordingError(
                file,
                f"the samples of lead {lead} do not match the header's checksum: the file is "
                "damaged, or not this header's",
                RESTORE,
            )
