"""The 12-lead ECG: from recordings to a network's input."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.errors import InputError
from datamodules.inputs.input import (
    Augmentation,
    Fitted,
    Input,
    Raw,
    Reader,
    as_numbers,
    lowest_highest,
)
from datamodules.manifest import Column
from datamodules.recordings import (
    LEADS,
    RecordingError,
    RecordingLimits,
    check_recording,
    read_recording,
)
from datamodules.recordings.packed import Signals, packed_signal
from datamodules.store import Store

NORMALISATIONS = ("development", "exam", "none")
RATE, AMPLITUDE = "ECG sampling rate (Hz)", "ECG amplitude (mV)"
# A model's own length is asked for, and any sampling rate taken: a strange one is warned of.
_ANY = RecordingLimits(0, float("inf"), 0, 2**31)
_FITTED_AT_ONCE = 64  # exams
RATES_HZ = (50, 50_000)  # of arrays, which have no header to trust
# Of the middle lead's deviation: electrodes drift by a few mV, and have microvolts of noise.
_LEAST_MV, _MOST_MV = 1e-3, 20.0


@dataclass(frozen=True)
class ECG(Input):
    """12-lead ECGs, filtered, resampled and normalised: the network's input is (B, leads, samples).

    sampling_rate_hz and seconds give the network's input; high_pass_hz and low_pass_hz the pass
    band of a zero-phase Butterworth filter of filter_order each way (None: no such filter).
    normalisation: "development" divides by each lead's standard deviation over the development
    institutions' training exams (`mean`, `deviation`, fitted on at most `statistics_exams` of them;
    a lead's voltage stays information), "exam" by the exam's own over all leads, "none" leaves
    millivolts. limits: which recordings are packed, as `RecordingLimits` or its values. leads:
    those that the network is given, in this order (None: all twelve); recordings have twelve all
    the same.
    """

    columns: ClassVar[Mapping[str, Column]] = {"ecg_path": Column("path")}
    array: ClassVar[str] = "ecg"
    timed: ClassVar[bool] = True

    sampling_rate_hz: int
    seconds: int
    high_pass_hz: float | None
    low_pass_hz: float | None
    filter_order: int
    normalisation: str
    statistics_exams: int
    limits: RecordingLimits
    leads: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.limits, RecordingLimits):
            object.__setattr__(self, "limits", RecordingLimits(**self.limits))
        if self.normalisation not in NORMALISATIONS:
            raise ValueError(
                f"normalisation {self.normalisation!r} is not one of {', '.join(NORMALISATIONS)}"
            )
        if len(set(self.channels)) < len(self.channels) or not {*self.channels} <= {*LEADS}:
            raise ValueError(
                f"leads [{', '.join(self.channels)}]: name each at most once, of {', '.join(LEADS)}"
            )
        for name in ("high_pass_hz", "low_pass_hz"):
            cutoff = getattr(self, name)
            if cutoff is not None and not 0 < cutoff < self.sampling_rate_hz / 2:
                raise ValueError(
                    f"{name} {cutoff} is not between 0 and half the network's sampling rate "
                    f"of {self.sampling_rate_hz} Hz"
                )
        if self.high_pass_hz and self.low_pass_hz and self.high_pass_hz >= self.low_pass_hz:
            raise ValueError(f"high_pass_hz {self.high_pass_hz} is not below {self.low_pass_hz}")

    @property
    def label(self) -> str:
        return "ECG"

    @property
    def reads(self) -> tuple[str, ...]:
        return ("ecg_path",)

    @property
    def arguments(self) -> Mapping[str, str]:
        return {"ecg": "ecg_path"}

    @property
    def samples(self) -> int:
        """Length of the network's input."""
        return self.sampling_rate_hz * self.seconds

    @property
    def shape(self) -> dict[str, int]:
        return {"leads": len(self.channels), "samples": self.samples}

    @property
    def channels(self) -> tuple[str, ...]:
        return LEADS if self.leads is None else self.leads

    @property
    def rate_hz(self) -> float:
        return self.sampling_rate_hz

    @property
    def contents(self) -> Signals:
        return Signals(self.limits)

    def reader(
        self, exams: pd.DataFrame, stores: Sequence[Store], institution: NDArray[np.int64]
    ) -> "ECGReader":
        return ECGReader(stores, institution, exams["row"].to_numpy(np.int64), self.seconds)

    def example_statistics(self) -> dict[str, Any]:
        return {"lead_covariance": np.eye(len(self.channels)).tolist()}

    def augmentation(self, settings: Mapping[str, Any]) -> "ECGAugmentation | None":
        if not settings:
            return None
        return ECGAugmentation(**settings, sampling_rate_hz=self.sampling_rate_hz)

    def prepare(self, raw: Raw) -> Tensor:
        """What `ECGReader` gave -> (B, leads, samples), normalised."""
        return self.normalise(self.recorded(raw))

    def recorded(self, raw: Raw) -> Tensor:
        """What `ECGReader` gave -> (B, leads, samples) in mV, filtered and resampled."""
        signals: Mapping[int, tuple[Tensor, Tensor, Tensor, Tensor]] = raw
        exams = sum(len(places) for places, *_ in signals.values())
        ecg = None
        for rate, (places, samples, units_per_mv, baseline) in signals.items():
            part = self._recorded(samples, units_per_mv, baseline, rate)
            if ecg is None:
                ecg = part.new_empty(exams, *part.shape[1:])
            ecg[places] = part
        assert ecg is not None
        return ecg

    def _recorded(self, samples: Tensor, units: Tensor, baseline: Tensor, rate: int) -> Tensor:
        """Digital samples (b, 12, n) at one rate -> (b, leads, samples) in mV, as `recorded`."""
        ecg_mv = millivolts(samples, units, baseline)
        if self.leads is not None:
            ecg_mv = ecg_mv[:, [LEADS.index(lead) for lead in self.leads]]
        return self.filter_and_resample(ecg_mv, rate)

    def filter_and_resample(self, ecg_mv: Tensor, sampling_rate_hz: int) -> Tensor:
        """(B, leads, sampling_rate_hz * seconds) -> (B, leads, samples), both in mV.

        One pass through the spectrum: the Butterworth's squared magnitude (what filtering forward
        and backward gives), and as much of the spectrum as the new rate holds. A second of odd
        reflection at each end keeps the edges from wrapping round, as in scipy's filtfilt.
        """
        seconds = self.seconds + 2
        padded = odd_reflection(ecg_mv, sampling_rate_hz)
        spectrum = torch.fft.rfft(padded)
        target = seconds * self.sampling_rate_hz
        bins = min(spectrum.shape[-1], target // 2 + 1)
        spectrum = spectrum[..., :bins] * self._gain(bins, seconds, spectrum.device)
        resampled = torch.fft.irfft(spectrum, n=target) * (target / padded.shape[-1])
        inner: Tensor = resampled[..., self.sampling_rate_hz : target - self.sampling_rate_hz]
        return inner

    def _gain(self, bins: int, seconds: int, device: torch.device) -> Tensor:
        frequency = torch.arange(bins, device=device) / seconds
        gain = torch.ones(bins, device=device)
        if self.low_pass_hz is not None:
            gain = gain / (1 + (frequency / self.low_pass_hz) ** (2 * self.filter_order))
        if self.high_pass_hz is not None:
            ratio = (frequency / self.high_pass_hz) ** (2 * self.filter_order)
            gain = gain * ratio / (1 + ratio)
        return gain

    def normalise(self, ecg_mv: Tensor) -> Tensor:
        """(B, leads, samples) in mV -> the network's units."""
        if self.normalisation == "development":
            mean, deviation = self._statistics(ecg_mv)
            return (ecg_mv - mean) / deviation
        if self.normalisation == "exam":
            centred = ecg_mv - ecg_mv.mean((1, 2), keepdim=True)
            return centred / centred.std((1, 2), keepdim=True).clamp_min(1e-6)
        return ecg_mv

    def restore(self, prepared: Tensor, raw: Raw) -> Tensor:
        """(B, leads, samples) in the network's units -> mV; `raw` gives the exams' own scale."""
        if self.normalisation == "development":
            mean, deviation = self._statistics(prepared)
            return prepared * deviation + mean
        if self.normalisation == "exam":
            like_mv = self.recorded(raw).to(prepared.device)
            mean = like_mv.mean((1, 2), keepdim=True)
            return prepared * (like_mv - mean).std((1, 2), keepdim=True).clamp_min(1e-6) + mean
        return prepared

    def _statistics(self, ecg: Tensor) -> tuple[Tensor, Tensor]:
        if self.mean is None or self.deviation is None:
            raise ValueError("this input has not been fitted on development exams")
        return _constant(self.mean, ecg.device), _constant(self.deviation, ecg.device)

    def fit(self, read: Reader, exams: pd.DataFrame, stores: Mapping[str, Store]) -> Fitted:
        """`statistics` holds the `lead_covariance` (leads, leads) of prepared ECGs.

        At most `statistics_exams` are read, spread evenly over the table.
        """
        spread = np.linspace(0, len(exams) - 1, min(self.statistics_exams, len(exams)))
        chosen = exams.index.to_numpy(np.int64)[spread.astype(int)]
        leads = len(self.channels)
        total, outer, n = torch.zeros(leads), torch.zeros(leads, leads), 0
        unscaled = self.normalisation == "development"
        amplitudes: list[Tensor] = []
        rates: set[int] = set()
        for start in range(0, len(chosen), _FITTED_AT_ONCE):
            raw = read(chosen[start : start + _FITTED_AT_ONCE])
            rates.update(raw)
            for rate, (_, samples, units, baseline) in raw.items():
                ecg = self._recorded(samples, units, baseline, rate)
                amplitudes.append(amplitude_mv(ecg))
                ecg = ecg if unscaled else self.normalise(ecg)
                total += ecg.sum((0, 2))
                outer += torch.einsum("blt,bmt->lm", ecg, ecg)
                n += ecg.shape[0] * ecg.shape[2]
        ranges = {
            RATE: lowest_highest(list(rates)),
            AMPLITUDE: lowest_highest(torch.cat(amplitudes).tolist()),
        }
        mean = total / n
        covariance = outer / n - mean[:, None] * mean
        fitted = self
        if unscaled:
            deviation = covariance.diagonal().sqrt()
            fitted = replace(self, mean=tuple(mean.tolist()), deviation=tuple(deviation.tolist()))
            covariance = covariance / torch.outer(deviation, deviation)
        return Fitted(fitted, ranges, {"lead_covariance": covariance.tolist()})

    def of_exam(
        self, values: Mapping[str, Any], folder: Path
    ) -> tuple[Raw, dict[str, float]] | None:
        if "ecg_path" not in values:
            return None
        path = folder / values["ecg_path"]
        recording = read_recording(path)
        rate = recording.sampling_rate_hz
        samples = recording.samples[:, : rate * self.seconds]
        if samples.shape[1] < rate * self.seconds:
            length = samples.shape[1] / rate
            raise RecordingError(
                path,
                f"the recording is {length:g} s long, and the model reads {self.seconds} s",
                "Give a longer recording",
            )
        check_recording(recording, path, _ANY)
        raw = {
            rate: (
                torch.zeros(1, dtype=torch.int64),
                torch.from_numpy(samples[None].astype(np.int16)),
                torch.from_numpy(recording.units_per_mv[None].astype(np.float32)),
                torch.from_numpy(recording.baseline[None]),
            )
        }
        return raw, {RATE: rate, AMPLITUDE: amplitude_mv(self.recorded(raw)).item()}

    def of_array(self, array: Any, sampling_rate_hz: float | None) -> tuple[Raw, dict[str, float]]:
        """`array` is (12, n) in mV, leads in standard order (I, II, III, aVR, aVL, aVF, V1-V6)."""
        rate = _whole_rate(sampling_rate_hz)
        signal = as_numbers(array, "ecg")
        if signal.ndim != 2 or signal.shape[0] != len(LEADS):
            transposed = signal.ndim == 2 and signal.shape[1] == len(LEADS)
            told = "transpose it: ecg.T." if transposed else f"{', '.join(LEADS)}, in this order."
            raise InputError(
                f"ecg: the array is {signal.shape}, and a 12-lead ECG (12, samples): {told}"
            )
        seconds = signal.shape[1] / rate
        if seconds < self.seconds:
            raise InputError(
                f"ecg: {signal.shape[1]} samples at {rate} Hz are {seconds:g} s, and the model "
                f"reads {self.seconds} s. Give a longer recording, or its own sampling rate."
            )
        flat = [lead for lead, of in zip(LEADS, signal, strict=True) if of.min() == of.max()]
        if flat:
            raise InputError(
                f"ecg: flat lead {', '.join(flat)}: every sample has the same value. The electrode "
                "was off, or the export lost the lead: leave the recording out."
            )
        spread = float(np.median(signal.std(axis=1, dtype=np.float64)))
        if not _LEAST_MV <= spread <= _MOST_MV:
            unit, remedy = ("volts", "Multiply") if spread < _LEAST_MV else ("microvolts", "Divide")
            raise InputError(
                f"ecg: its leads deviate by {spread:.3g}, and an ECG's in mV by some 0.2: is it in "
                f"{unit}? {remedy} it by 1000: mV are read."
            )
        samples = signal[None, :, : rate * self.seconds].astype(np.float32)
        raw = {
            rate: (
                torch.zeros(1, dtype=torch.int64),
                torch.from_numpy(samples),
                torch.ones(1, len(LEADS)),
                torch.zeros(1, len(LEADS)),
            )
        }
        return raw, {RATE: rate, AMPLITUDE: amplitude_mv(self.recorded(raw)).item()}

    def example(self) -> dict[str, Any]:
        """Twelve sine waves, at a rate that keeps them small."""
        rate = max(RATES_HZ[0], min(100, self.sampling_rate_hz))
        time = np.arange(rate * self.seconds) / rate
        waves = [np.sin(2 * np.pi * (1 + lead / 4) * time) / 2 for lead in range(len(LEADS))]
        return {"ecg": np.round(waves, 3), "ecg_sampling_rate_hz": float(rate)}

    @property
    def endings(self) -> str:
        return ".hea"

    def files_in(self, folder: Path) -> list[Path]:
        return sorted(folder.glob("*.hea"))

    def describe(self) -> str:
        bands = {"high-pass": self.high_pass_hz, "low-pass": self.low_pass_hz}
        filters = [f"{word} {hz:g} Hz" for word, hz in bands.items() if hz is not None]
        scale = {
            "development": "each lead divided by its deviation over development training exams",
            "exam": "each exam divided by its own deviation",
            "none": "in millivolts",
        }[self.normalisation]
        return (
            f"{_told(self.channels)} x {self.seconds} s at {self.sampling_rate_hz} Hz; "
            f"{', '.join(filters) or 'no filter'} (zero-phase Butterworth); {scale}"
        )


class ECGReader:
    """ECGs of one or more stores as they were recorded, grouped by sampling rate."""

    def __init__(
        self,
        stores: Sequence[Store],
        institution: NDArray[np.int64],
        row: NDArray[np.int64],
        seconds: int,
    ) -> None:
        self.stores, self.institution, self.row, self.seconds = stores, institution, row, seconds
        self.rate = np.empty(len(row), dtype=np.int64)
        for i, store in enumerate(stores):
            mine = institution == i
            self.rate[mine] = store.index["sampling_rate_hz"].to_numpy()[row[mine]]

    def __call__(
        self, exams: NDArray[np.int64]
    ) -> dict[int, tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Sampling rate -> its exams' places in the batch (b,), their first `seconds` as int16
        (b, 12, n), and units a mV and baseline (b, 12)."""
        signals = {}
        for rate in np.unique(self.rate[exams]):
            places = np.flatnonzero(self.rate[exams] == rate)
            n = int(rate) * self.seconds
            of_rate = [
                (self.stores[self.institution[exam]], self.row[exam]) for exam in exams[places]
            ]

            def each(column: str, of_rate: Any = of_rate) -> list[NDArray[Any]]:
                return [store.matrix(column)[row] for store, row in of_rate]

            signals[int(rate)] = (
                torch.from_numpy(places),
                torch.from_numpy(
                    np.stack([packed_signal(store, row, n) for store, row in of_rate])
                ),
                torch.from_numpy(np.stack(each("units_per_mv"), dtype=np.float32)),
                torch.from_numpy(np.stack(each("baseline"))),
            )
        return signals


@dataclass(frozen=True)
class ECGAugmentation(Augmentation):
    """Random changes to training ECGs (B, leads, samples) in the network's units.

    circular_shift starts the recording anywhere; amplitude scales a whole exam by up to that
    share; noise adds white noise of up to that standard deviation, an exam's own; lead_dropout
    blanks each lead with that probability. high_pass_hz and low_pass_hz, each from least to most,
    filter an exam as another electrocardiograph might have: a second-order Butterworth's squared
    magnitude, whose cut-off is drawn evenly in its logarithm.
    """

    on_device: ClassVar[bool] = True

    circular_shift: bool
    amplitude: float
    noise: float
    lead_dropout: float
    high_pass_hz: Sequence[float] | None = None
    low_pass_hz: Sequence[float] | None = None
    sampling_rate_hz: float | None = None

    def __post_init__(self) -> None:
        for name in ("high_pass_hz", "low_pass_hz"):
            band = getattr(self, name)
            if band is not None and not (len(band) == 2 and 0 < band[0] <= band[1]):
                raise ValueError(f"{name} {list(band)}: give the least and the most, in Hz")
        if (self.high_pass_hz or self.low_pass_hz) and self.sampling_rate_hz is None:
            raise ValueError("sampling_rate_hz must be given where signals are filtered")
        for name in ("amplitude", "lead_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} is not between 0 and 1")
        if not 0 <= self.noise < float("inf"):
            raise ValueError(f"noise {self.noise} is not a standard deviation")

    def __call__(self, ecg: Tensor) -> Tensor:
        batch, leads, samples = ecg.shape
        if self.circular_shift:
            start = torch.randint(samples, (batch, 1, 1), device=ecg.device)
            index = (torch.arange(samples, device=ecg.device) + start) % samples
            ecg = ecg.gather(2, index.expand(-1, leads, -1))
        if self.high_pass_hz or self.low_pass_hz:
            ecg = self._filtered(ecg)
        if self.amplitude:
            ecg = ecg * (1 + self.amplitude * (2 * torch.rand_like(ecg[:, :1, :1]) - 1))
        if self.noise:
            ecg = ecg + self.noise * torch.rand_like(ecg[:, :1, :1]) * torch.randn_like(ecg)
        if self.lead_dropout:
            ecg = ecg * (torch.rand_like(ecg[:, :, :1]) >= self.lead_dropout)
        return ecg

    def _filtered(self, ecg: Tensor) -> Tensor:
        assert self.sampling_rate_hz is not None
        spectrum = torch.fft.rfft(ecg)
        bins, samples = spectrum.shape[-1], ecg.shape[-1]
        hz = torch.arange(bins, device=ecg.device) * (self.sampling_rate_hz / samples)

        def share(band: Sequence[float]) -> Tensor:
            """Of a cut-off (B, 1, 1), each frequency's, to the fourth power."""
            low, high = np.log(band)
            cut_off = torch.exp(low + (high - low) * torch.rand_like(ecg[:, :1, :1]))
            power: Tensor = (hz / cut_off) ** 4
            return power

        if self.high_pass_hz is not None:
            power = share(self.high_pass_hz)
            spectrum = spectrum * (power / (1 + power))
        if self.low_pass_hz is not None:
            spectrum = spectrum / (1 + share(self.low_pass_hz))
        filtered: Tensor = torch.fft.irfft(spectrum, n=samples)
        return filtered


def _told(leads: Sequence[str]) -> str:
    return f"{len(leads)} leads" + ("" if tuple(leads) == LEADS else f" ({', '.join(leads)})")


def _whole_rate(sampling_rate_hz: float | None) -> int:
    """An array's sampling rate; InputError where it is absent or impossible."""
    if sampling_rate_hz is None:
        raise InputError("ecg: an array has no sampling rate of its own. Give sampling_rate_hz=.")
    low, high = RATES_HZ
    try:
        rate = float(sampling_rate_hz)
    except (TypeError, ValueError):
        rate = np.nan
    if not low <= rate <= high or rate != int(rate):
        raise InputError(
            f"sampling_rate_hz={sampling_rate_hz}: give a whole number of Hz, from {low} to "
            f"{high:,}."
        )
    return int(rate)


def millivolts(samples: Tensor, units_per_mv: Tensor, baseline: Tensor) -> Tensor:
    """Digital samples (b, 12, n) with units a mV and baseline (b, 12) -> float32 mV."""
    return (samples.float() - baseline.float()[..., None]) / units_per_mv[..., None]


def amplitude_mv(ecg_mv: Tensor) -> Tensor:
    """An exam's amplitude (B,): the standard deviation of all leads of (B, leads, n), in mV."""
    return ecg_mv.std((1, 2))


def odd_reflection(signal: Tensor, width: int) -> Tensor:
    """(..., n) -> (..., n + 2 * width): each end continued as its own mirror image, upside down."""
    first, last = signal[..., :1], signal[..., -1:]
    before = 2 * first - signal[..., 1 : width + 1].flip(-1)
    after = 2 * last - signal[..., -width - 1 : -1].flip(-1)
    return torch.cat([before, signal, after], dim=-1)


@lru_cache(maxsize=16)
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    # Kept on the device: a copy from the host every batch would make it wait.
    return torch.tensor(values, device=device)[:, None]
