"""From recorded samples to a network's input: batched, in torch, on the batch's device."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

NORMALISATIONS = ("development", "exam", "none")


@dataclass(frozen=True)
class ECGPreprocessing:
    """Filter, resample and normalise 12-lead ECGs; plain values, so that checkpoints carry it.

    sampling_rate_hz and seconds give the network's input; high_pass_hz and low_pass_hz the pass
    band of a zero-phase Butterworth filter of filter_order each way (None: no such filter).
    normalisation: "development" divides by each lead's standard deviation over the development
    institutions' training exams (`mean`, `deviation`, fitted; a lead's voltage stays
    information), "exam" by the exam's own over all leads, "none" leaves millivolts.
    """

    sampling_rate_hz: int
    seconds: int
    high_pass_hz: float | None
    low_pass_hz: float | None
    filter_order: int
    normalisation: str
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.normalisation not in NORMALISATIONS:
            raise ValueError(
                f"normalisation {self.normalisation!r} is not one of {', '.join(NORMALISATIONS)}"
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

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ECGPreprocessing":
        """From what `as_dict` gave, as a checkpoint holds it."""
        fitted = {k: None if values[k] is None else tuple(values[k]) for k in ("mean", "deviation")}
        return cls(**{**values, **fitted})

    def as_dict(self) -> dict[str, Any]:
        """Plain values: numbers, text, lists."""
        fitted = {
            k: None if getattr(self, k) is None else list(getattr(self, k))
            for k in ("mean", "deviation")
        }
        return {**asdict(self), **fitted}

    @property
    def samples(self) -> int:
        """Length of the network's input."""
        return self.sampling_rate_hz * self.seconds

    def fitted(self, mean: Tensor, deviation: Tensor) -> "ECGPreprocessing":
        """The same with the development institutions' mean and deviation of each lead (leads,)."""
        return replace(self, mean=tuple(mean.tolist()), deviation=tuple(deviation.tolist()))

    def __call__(self, ecg_mv: Tensor, sampling_rate_hz: int) -> Tensor:
        """(B, leads, sampling_rate_hz * seconds) in mV -> (B, leads, samples), normalised."""
        return self.normalise(self.filter_and_resample(ecg_mv, sampling_rate_hz))

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
        return resampled[..., self.sampling_rate_hz : target - self.sampling_rate_hz]

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

    def to_millivolts(self, ecg: Tensor, like_mv: Tensor) -> Tensor:
        """Undo `normalise`; `like_mv` (same shape, in mV) gives the exam's own scale."""
        if self.normalisation == "development":
            mean, deviation = self._statistics(ecg)
            return ecg * deviation + mean
        if self.normalisation == "exam":
            mean = like_mv.mean((1, 2), keepdim=True)
            return ecg * (like_mv - mean).std((1, 2), keepdim=True).clamp_min(1e-6) + mean
        return ecg

    def _statistics(self, ecg: Tensor) -> tuple[Tensor, Tensor]:
        if self.mean is None or self.deviation is None:
            raise ValueError("this preprocessing has not been fitted on development exams")
        return _constant(self.mean, ecg.device), _constant(self.deviation, ecg.device)


@lru_cache(maxsize=16)
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    # Kept on the device: a copy from the host every batch would make it wait.
    return torch.tensor(values, device=device)[:, None]


def odd_reflection(signal: Tensor, width: int) -> Tensor:
    """(..., n) -> (..., n + 2 * width): each end continued as its own mirror image, upside down."""
    first, last = signal[..., :1], signal[..., -1:]
    before = 2 * first - signal[..., 1 : width + 1].flip(-1)
    after = 2 * last - signal[..., -width - 1 : -1].flip(-1)
    return torch.cat([before, signal, after], dim=-1)


@dataclass(frozen=True)
class ECGAugmentation:
    """Random changes to training ECGs (B, leads, samples) in the network's units.

    circular_shift starts the recording anywhere; amplitude scales a whole exam by up to that
    share; noise adds white noise of that standard deviation; lead_dropout blanks each lead with
    that probability.
    """

    circular_shift: bool
    amplitude: float
    noise: float
    lead_dropout: float

    def __call__(self, ecg: Tensor) -> Tensor:
        batch, leads, samples = ecg.shape
        if self.circular_shift:
            start = torch.randint(samples, (batch, 1, 1), device=ecg.device)
            index = (torch.arange(samples, device=ecg.device) + start) % samples
            ecg = ecg.gather(2, index.expand(-1, leads, -1))
        if self.amplitude:
            ecg = ecg * (1 + self.amplitude * (2 * torch.rand_like(ecg[:, :1, :1]) - 1))
        if self.noise:
            ecg = ecg + self.noise * torch.randn_like(ecg)
        if self.lead_dropout:
            ecg = ecg * (torch.rand_like(ecg[:, :, :1]) >= self.lead_dropout)
        return ecg
