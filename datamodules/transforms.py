"""From what was recorded to a network's input: batched, in torch, on the batch's device.

Only films are augmented on the CPU, by albumentations.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

NORMALISATIONS = ("development", "exam", "none")
MARKERS = ("bnp_pg_ml", "nt_probnp_pg_ml")


@dataclass(frozen=True)
class ECGPreprocessing:
    """Filter, resample and normalise 12-lead ECGs; plain values, so that checkpoints carry it.

    sampling_rate_hz and seconds give the network's input; high_pass_hz and low_pass_hz the pass
    band of a zero-phase Butterworth filter of filter_order each way (None: no such filter).
    normalisation: "development" divides by each lead's standard deviation over the development
    institutions' training exams (`mean`, `deviation`, fitted; a lead's voltage stays
    information), "exam" by the exam's own over all leads, "none" leaves millivolts.
    """

    input: ClassVar[str] = "ecg"

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
        return cls(**_with_statistics(values, tuple))

    def as_dict(self) -> dict[str, Any]:
        """Plain values: numbers, text, lists."""
        return _with_statistics(asdict(self), list)

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


def _with_statistics(values: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """The same with mean and deviation, where they are fitted, as tuples or lists."""
    fitted = {k: None if values[k] is None else kind(values[k]) for k in ("mean", "deviation")}
    return {**values, **fitted}


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


@dataclass(frozen=True)
class CXRPreprocessing:
    """Chest X-rays as squares of `size` pixels; plain values, so that checkpoints carry it."""

    input: ClassVar[str] = "cxr"

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size {self.size} is not a number of pixels")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "CXRPreprocessing":
        """From what `as_dict` gave, as a checkpoint holds it."""
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def resize(self, pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
        """A film [height, width] in 0..1 -> [size, size] in 0..255, as it is packed.

        The longer side becomes `size`, by averages over areas, and the rest is black.
        """
        from datamodules.radiographs import to_square  # OpenCV: only where films are

        return to_square(pixels, self.size)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (B, size, size) -> (B, 1, size, size), each of mean 0 and deviation 1."""
        grey = images.float()[:, None]
        centred = grey - grey.mean((2, 3), keepdim=True)
        return centred / centred.std((2, 3), keepdim=True).clamp_min(1e-6)


@dataclass(frozen=True)
class CXRAugmentation:
    """Random changes to training films; left stays left, for the heart lies on one side.

    rotation_degrees turns by up to that angle either way, shift moves by up to that share of the
    side, scale enlarges or shrinks by up to that share; brightness adds, and contrast multiplies
    by, up to that share of the whole range.
    """

    rotation_degrees: float
    shift: float
    scale: float
    brightness: float
    contrast: float

    def __post_init__(self) -> None:
        if not 0 <= self.rotation_degrees <= 45:
            raise ValueError(f"rotation_degrees {self.rotation_degrees} is not between 0 and 45")
        for name in ("shift", "scale", "brightness", "contrast"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} is not between 0 and 1")

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 (B, size, size) -> the same shape, each film changed by itself.

        The draws follow from one of torch's generator, so that they are the same where that is.
        """
        changes = _film_changes(self)
        changes.set_random_seed(int(torch.randint(2**31, ())))
        return np.stack([changes(image=image)["image"] for image in images])


@lru_cache(maxsize=4)
def _film_changes(augmentation: CXRAugmentation) -> Any:
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # else its import asks the network
    import albumentations  # over a second: only where films are trained on

    def either_way(limit: float, around: float = 0) -> tuple[float, float]:
        return around - limit, around + limit

    shift = either_way(augmentation.shift)
    return albumentations.Compose(
        [
            albumentations.Affine(
                rotate=either_way(augmentation.rotation_degrees),
                translate_percent={"x": shift, "y": shift},
                scale=either_way(augmentation.scale, around=1),
                keep_ratio=True,
                p=1,
            ),
            albumentations.RandomBrightnessContrast(
                brightness_limit=either_way(augmentation.brightness),
                contrast_limit=either_way(augmentation.contrast),
                p=1,
            ),
        ]
    )


@dataclass(frozen=True)
class BNPPreprocessing:
    """A blood test and what else is known, standardised; plain values for the checkpoint.

    marker: "bnp_pg_ml" or "nt_probnp_pg_ml", the manifest's column; the two are never mixed. age,
    sex: whether they are features too. mean and deviation are those of the development
    institutions' training exams, fitted.
    """

    input: ClassVar[str] = "bnp"

    marker: str
    age: bool
    sex: bool
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.marker not in MARKERS:
            raise ValueError(f"marker {self.marker!r} is not one of {', '.join(MARKERS)}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "BNPPreprocessing":
        """From what `as_dict` gave, as a checkpoint holds it."""
        return cls(**_with_statistics(values, tuple))

    def as_dict(self) -> dict[str, Any]:
        """Plain values: numbers, text, lists."""
        return _with_statistics(asdict(self), list)

    @property
    def names(self) -> tuple[str, ...]:
        """The manifest's columns behind the features, in their order."""
        asked = {self.marker: True, "age_years": self.age, "sex": self.sex}
        return tuple(name for name, is_asked in asked.items() if is_asked)

    def features(self, table: pd.DataFrame) -> NDArray[np.float64]:
        """float64 (n, k) of a manifest's rows, not standardised; NaN where a value is absent.

        The natural logarithm of the marker in pg/mL, below 1 pg/mL that of 1; age in years; sex, 1
        for male and 0 for female. A column that the table lacks is absent in every row.
        """
        columns = table.reindex(columns=list(self.names))
        columns = columns.replace({"sex": {"male": 1.0, "female": 0.0}})
        features = columns.to_numpy(np.float64, na_value=np.nan, copy=True)
        features[:, 0] = np.log(np.maximum(features[:, 0], 1))
        return features

    def fitted(self, features: NDArray[np.float64]) -> "BNPPreprocessing":
        """The same with the mean and deviation of raw `features` (n, k), none of them absent.

        A feature without spread is only centred, as in scikit-learn's StandardScaler.
        """
        if np.isnan(features).any():
            raise ValueError("a feature is absent: leave such exams out")
        deviation = features.std(axis=0)
        return replace(
            self,
            mean=tuple(features.mean(axis=0).tolist()),
            deviation=tuple(np.where(deviation > 0, deviation, 1.0).tolist()),
        )

    def __call__(self, features: Tensor) -> Tensor:
        """Raw features (B, k) -> standardised, of the same dtype."""
        if self.mean is None or self.deviation is None:
            raise ValueError("this preprocessing has not been fitted on development exams")
        return (features - features.new_tensor(self.mean)) / features.new_tensor(self.deviation)
