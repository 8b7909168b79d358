import json

import numpy as np
import pytest
import torch
from scipy.signal import resample_poly

from datamodules.transforms import ECGAugmentation, ECGPreprocessing, odd_reflection


def preprocessing(**changes: object) -> ECGPreprocessing:
    settings = {
        "sampling_rate_hz": 100,
        "seconds": 10,
        "high_pass_hz": 0.5,
        "low_pass_hz": 40.0,
        "filter_order": 2,
        "normalisation": "none",
    }
    return ECGPreprocessing(**{**settings, **changes})  # type: ignore[arg-type]


def sine(frequency: float, rate: int, seconds: int = 10) -> torch.Tensor:
    time = torch.arange(rate * seconds, dtype=torch.float64) / rate
    return torch.sin(2 * torch.pi * frequency * time).float().expand(1, 12, -1)


def amplitude(ecg: torch.Tensor) -> float:
    """Of a sine, away from the edges: sqrt(2) times its root mean square."""
    middle = ecg[..., ecg.shape[-1] // 4 : -ecg.shape[-1] // 4]
    return float(middle.square().mean().sqrt() * 2**0.5)


@pytest.mark.parametrize("frequency", [2, 10, 20, 40])
def test_the_gain_is_a_butterworths_forward_and_backward(frequency: float) -> None:
    filtered = preprocessing(sampling_rate_hz=500).filter_and_resample(sine(frequency, 500), 500)
    low = 1 / (1 + (frequency / 40) ** 4)
    high = 1 / (1 + (0.5 / frequency) ** 4)
    assert amplitude(filtered) == pytest.approx(low * high, abs=0.005)


@pytest.mark.parametrize("rate", [250, 257, 500, 1000])
def test_every_rate_gives_the_same_ecg_at_the_same_instants(rate: int) -> None:
    free = preprocessing(high_pass_hz=None, low_pass_hz=None)
    resampled = free.filter_and_resample(sine(7.3, rate), rate)
    torch.testing.assert_close(
        resampled[..., 50:-50], sine(7.3, 100)[..., 50:-50], atol=0.01, rtol=0
    )


def test_a_lower_rate_is_raised() -> None:
    free = preprocessing(sampling_rate_hz=500, high_pass_hz=None, low_pass_hz=None)
    raised = free.filter_and_resample(sine(7.3, 240), 240)
    assert raised.shape == (1, 12, 5000)
    torch.testing.assert_close(
        raised[..., 250:-250], sine(7.3, 500)[..., 250:-250], atol=0.01, rtol=0
    )


def test_resampling_agrees_with_scipys_polyphase_filter() -> None:
    rng = np.random.default_rng(0)
    slow = np.cumsum(rng.normal(size=(1, 12, 5000)), axis=2)
    slow = np.apply_along_axis(lambda x: np.convolve(x, np.hanning(101) / 50, "same"), 2, slow)
    ours = preprocessing(high_pass_hz=None, low_pass_hz=None).filter_and_resample(
        torch.tensor(slow, dtype=torch.float32), 500
    )
    scipys = resample_poly(slow, 1, 5, axis=2)
    difference = np.abs(ours.numpy() - scipys)[..., 100:-100]
    assert difference.max() < 0.01 * slow.std()


def test_a_constant_offset_and_slow_drift_go() -> None:
    drift = 3 + torch.linspace(-1, 1, 5000).expand(1, 12, -1)
    filtered = preprocessing().filter_and_resample(drift, 500)
    assert filtered[..., 100:-100].abs().max() < 0.1


def test_einthovens_law_survives() -> None:
    generator = torch.Generator().manual_seed(0)
    ecg = torch.randn(2, 12, 5000, generator=generator)
    ecg[:, 2] = ecg[:, 1] - ecg[:, 0]
    filtered = preprocessing().filter_and_resample(ecg, 500)
    torch.testing.assert_close(filtered[:, 2], filtered[:, 1] - filtered[:, 0], atol=1e-5, rtol=0)


def test_odd_reflection_continues_a_line() -> None:
    line = torch.arange(10.0)
    torch.testing.assert_close(odd_reflection(line, 3), torch.arange(-3.0, 13.0))


@pytest.mark.parametrize("normalisation", ["development", "exam", "none"])
def test_normalising_can_be_undone(normalisation: str) -> None:
    generator = torch.Generator().manual_seed(0)
    ecg = torch.randn(3, 12, 1000, generator=generator) * 0.4 + 0.1
    made = preprocessing(normalisation=normalisation)
    if normalisation == "development":
        made = made.fitted(torch.linspace(-0.1, 0.1, 12), torch.linspace(0.1, 0.5, 12))
    torch.testing.assert_close(made.to_millivolts(made.normalise(ecg), ecg), ecg)


def test_an_exams_own_normalisation_keeps_the_leads_proportions() -> None:
    ecg = torch.randn(2, 12, 1000) * torch.linspace(1, 3, 12)[:, None]
    out = preprocessing(normalisation="exam").normalise(ecg)
    torch.testing.assert_close(out.std((1, 2)), torch.ones(2), rtol=1e-3, atol=0)
    torch.testing.assert_close(
        out[:, 1].std(1) / out[:, 0].std(1), ecg[:, 1].std(1) / ecg[:, 0].std(1)
    )


def test_unfitted_preprocessing_says_so() -> None:
    with pytest.raises(ValueError, match="not been fitted"):
        preprocessing(normalisation="development").normalise(torch.zeros(1, 12, 1000))


def test_it_travels_as_plain_values() -> None:
    fitted = preprocessing(normalisation="development").fitted(torch.zeros(12), torch.ones(12))
    again = ECGPreprocessing.from_dict(json.loads(json.dumps(fitted.as_dict())))
    assert again == fitted


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
        preprocessing(**changes)


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
    assert noisy.std() == pytest.approx(0.3, rel=0.01)
    dropped = ECGAugmentation(False, 0.0, 0.0, 0.25)(ones)[:, :, 0]
    assert dropped.mean() == pytest.approx(0.75, abs=5 * (0.25 * 0.75 / 6000) ** 0.5)
    assert ECGAugmentation(False, 0.0, 0.0, 0.0)(ones) is ones
