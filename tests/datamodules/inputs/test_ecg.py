import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wfdb
from scipy.signal import resample_poly

from datamodules.errors import InputError
from datamodules.inputs.ecg import ECG, ECGAugmentation, odd_reflection
from datamodules.recordings import LEADS, RecordingLimits


def ecg_input(**changes: Any) -> ECG:
    settings = {
        "sampling_rate_hz": 100,
        "seconds": 10,
        "high_pass_hz": 0.5,
        "low_pass_hz": 40.0,
        "filter_order": 2,
        "normalisation": "none",
        "statistics_exams": 10_000,
        "limits": RecordingLimits(10, 60, 100, 4000),
    }
    return ECG(**{**settings, **changes})


def sine(frequency: float, rate: int, seconds: int = 10) -> torch.Tensor:
    time = torch.arange(rate * seconds, dtype=torch.float64) / rate
    return torch.sin(2 * torch.pi * frequency * time).float().expand(1, 12, -1)


def amplitude(ecg: torch.Tensor) -> float:
    """Of a sine, away from the edges: sqrt(2) times its root mean square."""
    middle = ecg[..., ecg.shape[-1] // 4 : -ecg.shape[-1] // 4]
    return float(middle.square().mean().sqrt() * 2**0.5)


@pytest.mark.parametrize("frequency", [2, 10, 20, 40])
def test_the_gain_is_a_butterworths_forward_and_backward(frequency: float) -> None:
    filtered = ecg_input(sampling_rate_hz=500).filter_and_resample(sine(frequency, 500), 500)
    low = 1 / (1 + (frequency / 40) ** 4)
    high = 1 / (1 + (0.5 / frequency) ** 4)
    assert amplitude(filtered) == pytest.approx(low * high, abs=0.005)


@pytest.mark.parametrize("rate", [250, 257, 500, 1000])
def test_every_rate_gives_the_same_ecg_at_the_same_instants(rate: int) -> None:
    free = ecg_input(high_pass_hz=None, low_pass_hz=None)
    resampled = free.filter_and_resample(sine(7.3, rate), rate)
    torch.testing.assert_close(
        resampled[..., 50:-50], sine(7.3, 100)[..., 50:-50], atol=0.01, rtol=0
    )


def test_a_lower_rate_is_raised() -> None:
    free = ecg_input(sampling_rate_hz=500, high_pass_hz=None, low_pass_hz=None)
    raised = free.filter_and_resample(sine(7.3, 240), 240)
    assert raised.shape == (1, 12, 5000)
    torch.testing.assert_close(
        raised[..., 250:-250], sine(7.3, 500)[..., 250:-250], atol=0.01, rtol=0
    )


def test_resampling_agrees_with_scipys_polyphase_filter() -> None:
    rng = np.random.default_rng(0)
    slow = np.cumsum(rng.normal(size=(1, 12, 5000)), axis=2)
    slow = np.apply_along_axis(lambda x: np.convolve(x, np.hanning(101) / 50, "same"), 2, slow)
    ours = ecg_input(high_pass_hz=None, low_pass_hz=None).filter_and_resample(
        torch.tensor(slow, dtype=torch.float32), 500
    )
    scipys = resample_poly(slow, 1, 5, axis=2)
    difference = np.abs(ours.numpy() - scipys)[..., 100:-100]
    assert difference.max() < 0.01 * slow.std()


def test_a_constant_offset_and_slow_drift_go() -> None:
    drift = 3 + torch.linspace(-1, 1, 5000).expand(1, 12, -1)
    filtered = ecg_input().filter_and_resample(drift, 500)
    assert filtered[..., 100:-100].abs().max() < 0.1


def test_einthovens_law_survives() -> None:
    generator = torch.Generator().manual_seed(0)
    ecg = torch.randn(2, 12, 5000, generator=generator)
    ecg[:, 2] = ecg[:, 1] - ecg[:, 0]
    filtered = ecg_input().filter_and_resample(ecg, 500)
    torch.testing.assert_close(filtered[:, 2], filtered[:, 1] - filtered[:, 0], atol=1e-5, rtol=0)


def test_odd_reflection_continues_a_line() -> None:
    line = torch.arange(10.0)
    torch.testing.assert_close(odd_reflection(line, 3), torch.arange(-3.0, 13.0))


@pytest.mark.parametrize("normalisation", ["development", "exam", "none"])
def test_normalising_can_be_undone(normalisation: str) -> None:
    generator = torch.Generator().manual_seed(0)
    ecg = torch.randn(3, 12, 1000, generator=generator) * 0.4 + 0.1
    statistics = {
        "mean": tuple(torch.linspace(-0.1, 0.1, 12).tolist()),
        "deviation": tuple(torch.linspace(0.1, 0.5, 12).tolist()),
    }
    made = replace(
        ecg_input(high_pass_hz=None, low_pass_hz=None, normalisation=normalisation),
        **(statistics if normalisation == "development" else {}),
    )
    samples = torch.round(ecg * 10_000).to(torch.int16)
    of_all = torch.full((3, 12), 10_000.0), torch.zeros(3, 12, dtype=torch.int32)
    raw = {100: (torch.arange(3), samples, *of_all)}
    recorded = made.recorded(raw)
    torch.testing.assert_close(recorded, samples / 10_000, atol=1e-5, rtol=0)
    torch.testing.assert_close(made.restore(made.prepare(raw), raw), recorded)


def test_eight_leads_are_those_of_the_twelve_in_the_order_asked_for() -> None:
    generator = torch.Generator().manual_seed(0)
    samples = torch.randint(-500, 500, (2, 12, 5000), generator=generator, dtype=torch.int16)
    raw = {500: (torch.arange(2), samples, torch.full((2, 12), 1000.0), torch.zeros(2, 12))}
    leads = ("V1", "V2", "V3", "V4", "V5", "V6", "II", "I")
    eight = ecg_input(leads=leads)
    assert (eight.shape, eight.channels) == ({"leads": 8, "samples": 1000}, leads)
    twelve = ecg_input().prepare(raw)
    torch.testing.assert_close(eight.prepare(raw), twelve[:, [6, 7, 8, 9, 10, 11, 1, 0]])
    assert eight.describe().startswith("8 leads (V1, V2, V3, V4, V5, V6, II, I) x 10 s")
    assert len(eight.example()["ecg"]) == 12


@pytest.mark.parametrize("leads", [("I", "I"), ("I", "V7")])
def test_leads_are_named_once_each_and_known(leads: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="name each at most once, of I, II, III, aVR"):
        ecg_input(leads=leads)


def test_an_exams_own_normalisation_keeps_the_leads_proportions() -> None:
    ecg = torch.randn(2, 12, 1000) * torch.linspace(1, 3, 12)[:, None]
    out = ecg_input(normalisation="exam").normalise(ecg)
    torch.testing.assert_close(out.std((1, 2)), torch.ones(2), rtol=1e-3, atol=0)
    torch.testing.assert_close(
        out[:, 1].std(1) / out[:, 0].std(1), ecg[:, 1].std(1) / ecg[:, 0].std(1)
    )


def test_an_input_that_was_not_fitted_says_so() -> None:
    with pytest.raises(ValueError, match="not been fitted"):
        ecg_input(normalisation="development").normalise(torch.zeros(1, 12, 1000))


def test_it_travels_as_plain_values() -> None:
    unfitted = ecg_input(normalisation="development")
    for made in (unfitted, replace(unfitted, mean=(0.0,) * 12, deviation=(1.0,) * 12)):
        again = ECG.from_dict(json.loads(json.dumps(made.as_dict())))
        assert again == made
        assert again.limits == RecordingLimits(10, 60, 100, 4000)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalisation": "z"}, "development, exam, none"),
        ({"low_pass_hz": 60}, "half the network's sampling rate"),
        ({"high_pass_hz": 45.0}, "not below 40"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ecg_input(**changes)


def test_a_circular_shift_moves_all_leads_together() -> None:
    torch.manual_seed(0)
    ecg = torch.arange(100.0).expand(16, 12, -1)
    shifted = ECGAugmentation(True, 0.0, 0.0, 0.0)(ecg)
    start = shifted[:, 0, 0].long()
    assert len(start.unique()) > 4
    for exam in range(16):
        torch.testing.assert_close(shifted[exam], ecg[exam].roll(-int(start[exam]), -1))


def test_amplitude_noise_and_lead_dropout() -> None:
    torch.manual_seed(0)
    ones = torch.ones(500, 12, 50)
    scaled = ECGAugmentation(False, 0.2, 0.0, 0.0)(ones)
    assert (scaled == scaled[:, :1, :1]).all()
    assert 0.8 <= scaled.min() < 0.82
    assert 1.18 < scaled.max() <= 1.2
    noisy = ECGAugmentation(False, 0.0, 0.3, 0.0)(ones)
    each = noisy.std((1, 2))
    assert 0.27 < each.max() < 0.34
    assert each.mean() == pytest.approx(0.15, rel=0.1)
    dropped = ECGAugmentation(False, 0.0, 0.0, 0.25)(ones)[:, :, 0]
    assert dropped.mean() == pytest.approx(0.75, abs=5 * (0.25 * 0.75 / 6000) ** 0.5)
    assert ECGAugmentation(False, 0.0, 0.0, 0.0)(ones) is ones


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"amplitude": 1.0}, "amplitude 1.0 is not between 0 and 1"),
        ({"lead_dropout": 5}, "lead_dropout 5 is not between 0 and 1"),
        ({"noise": -0.1}, "noise -0.1 is not a standard deviation"),
        ({"noise": float("inf")}, "noise inf"),
    ],
)
def test_augmentations_that_cannot_be(changes: dict[str, float], message: str) -> None:
    settings = {"circular_shift": False, "amplitude": 0.0, "noise": 0.0, "lead_dropout": 0.0}
    with pytest.raises(ValueError, match=message):
        ecg_input().augmentation({**settings, **changes})


def record(folder: Path, seconds: float, rate: int = 500) -> tuple[np.ndarray, dict[str, Any]]:
    """A WFDB record of random walks in `folder`: its millivolts (12, n), and a manifest's row."""
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.normal(size=(int(seconds * rate), 12)), axis=0) / rate**0.5 / 3
    wfdb.wrsamp(
        "e",
        fs=rate,
        units=["mV"] * 12,
        sig_name=list(LEADS),
        p_signal=walk,
        fmt=["16"] * 12,
        adc_gain=[1000.0] * 12,
        baseline=[7] * 12,
        write_dir=str(folder),
    )
    return wfdb.rdrecord(str(folder / "e")).p_signal.T, {"ecg_path": "e"}


def test_one_exam_alone_is_its_first_seconds(tmp_path: Path) -> None:
    millivolts, row = record(tmp_path, 12, rate=250)
    made = ecg_input()
    read = made.of_exam(row, tmp_path)
    assert read is not None
    raw, measured = read
    first = torch.tensor(millivolts[None, :, :2500], dtype=torch.float32)
    expected = made.filter_and_resample(first, 250)
    torch.testing.assert_close(made.prepare(raw), expected, atol=1e-4, rtol=1e-4)
    assert measured["ECG sampling rate (Hz)"] == 250
    assert measured["ECG amplitude (mV)"] == pytest.approx(expected.std().item(), rel=1e-3)
    assert made.of_exam({"bnp_pg_ml": 30.0}, tmp_path) is None


def test_one_exam_that_is_too_short_is_refused(tmp_path: Path) -> None:
    _, row = record(tmp_path, 9.5)
    with pytest.raises(InputError, match=r"is 9\.5 s long, and the model reads 10 s"):
        ecg_input().of_exam(row, tmp_path)


def test_what_is_read_of_an_exam() -> None:
    made = ecg_input(sampling_rate_hz=250)
    assert made.reads == ("ecg_path",)
    assert made.arguments == {"ecg": "ecg_path"}
    assert made.shape == {"leads": 12, "samples": 2500}
    assert made.rate_hz == 250
    assert made.contents is not None
    assert made.contents.settings == {
        "min_seconds": 10,
        "max_seconds": 60,
        "min_sampling_rate_hz": 100,
        "max_sampling_rate_hz": 4000,
    }


def test_no_augmentation_is_none() -> None:
    assert ecg_input().augmentation({}) is None
