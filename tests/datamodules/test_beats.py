"""R waves of made ECGs whose beats are known, and beats cut out against closed forms."""

import pytest
import torch
from torch import Tensor

from datamodules.beats import Beats, aligned, average_beat, cut, evenly, find_beats

# Limb leads and precordial ones of a usual axis: some R waves up, some down (aVR, V1, V2).
GAINS = torch.tensor([0.6, 1.0, 0.4, -0.8, 0.1, 0.7, -0.5, -0.6, 0.5, 1.3, 1.1, 0.8])
SECONDS = 10


def ecg_of(times: Tensor, rate_hz: int, wide: Tensor | None = None, noise: float = 0.02) -> Tensor:
    """(1, 12, samples), in mV: P, QRS and T at R waves of so many seconds; `wide` ones are broad,
    tall, upside down and have no P wave."""
    generator = torch.Generator().manual_seed(0)
    wide = torch.zeros_like(times, dtype=torch.bool) if wide is None else wide
    time = torch.arange(SECONDS * rate_hz) / rate_hz
    since = time - times[:, None]

    def wave(height: float, at: float, width: float) -> Tensor:
        return height * torch.exp(-(((since - at) / width) ** 2) / 2)

    usual = wave(1.2, 0, 0.012) + wave(-0.25, 0.03, 0.012) + wave(-0.1, -0.03, 0.01)
    usual += wave(0.12, -0.16, 0.025) + wave(0.3, 0.24, 0.04)
    broad = wave(-1.6, 0, 0.03) + wave(0.4, 0.26, 0.05)
    ecg = GAINS[:, None] * torch.where(wide[:, None], broad, usual).sum(0)
    return (ecg + noise * torch.randn(ecg.shape, generator=generator))[None]


def found(ecg: Tensor, rate_hz: int) -> Tensor:
    """The one exam's R waves in seconds; those after them are -1, and `count` counts them."""
    beats = find_beats(ecg, rate_hz)
    n = int(beats.count[0])
    assert (beats.peaks[0, :n] >= 0).all()
    assert (beats.peaks[0, n:] == -1).all()
    assert (beats.peaks[0, :n].diff() > 0).all()
    return beats.peaks[0, :n] / rate_hz


def steady(a_minute: float) -> Tensor:
    return torch.arange(0.4, SECONDS - 0.3, 60 / a_minute)


@pytest.mark.parametrize("rate_hz", [100, 250, 500])
@pytest.mark.parametrize("a_minute", [30, 45, 60, 90, 120, 150, 200])
def test_every_beat_is_found_where_it_is(a_minute: float, rate_hz: int) -> None:
    times = steady(a_minute)
    torch.testing.assert_close(found(ecg_of(times, rate_hz), rate_hz), times, atol=0.02, rtol=0)


def test_irregular_beats_as_in_atrial_fibrillation() -> None:
    generator = torch.Generator().manual_seed(3)
    times = 0.4 + torch.cumsum(0.33 + 0.8 * torch.rand(12, generator=generator), 0)
    times = times[times < SECONDS - 0.3]
    assert times.diff().max() > 2 * times.diff().min()
    torch.testing.assert_close(found(ecg_of(times, 100), 100), times, atol=0.02, rtol=0)


def test_premature_broad_beats_are_beats() -> None:
    times = torch.tensor([0.8, 1.6, 2.1, 3.2, 4.0, 4.8, 5.3, 6.4, 7.2, 8.0, 8.8])
    wide = (times == 2.1) | (times == times[6])
    torch.testing.assert_close(found(ecg_of(times, 100, wide), 100), times, atol=0.03, rtol=0)


def test_the_scale_is_of_no_account() -> None:
    ecg = ecg_of(steady(72), 100)
    for factor in (1e-4, 0.1, 1e4):  # low voltage, volts, microvolts
        assert torch.equal(found(factor * ecg, 100), found(ecg, 100))


def test_leads_may_be_upside_down_or_absent() -> None:
    times = steady(72)
    ecg = ecg_of(times, 100)
    upside_down = ecg.clone()
    upside_down[:, [0, 3, 5]] *= -1
    for leads in ([1], [0, 1, 2], [6, 7, 8, 9, 10, 11]):
        few = torch.zeros_like(ecg)
        few[:, leads] = ecg[:, leads]
        torch.testing.assert_close(found(few, 100), times, atol=0.03, rtol=0)
        torch.testing.assert_close(found(ecg[:, leads], 100), times, atol=0.03, rtol=0)
    torch.testing.assert_close(found(upside_down, 100), times, atol=0.02, rtol=0)


@pytest.mark.parametrize("before", [0.05, 0.16])
def test_pacing_spikes_are_no_beats(before: float) -> None:
    times = steady(70)
    ecg = ecg_of(times, 500)
    spikes = ((times - before) * 500).round().long()
    ecg[:, :, spikes] += 1.5
    ecg[:, :, spikes + 1] += 1.5
    torch.testing.assert_close(found(ecg, 500), times, atol=0.02, rtol=0)


def test_neither_a_flat_line_nor_noise_has_beats() -> None:
    flat = torch.zeros(1, 12, 1000)
    noise = torch.randn(1, 12, 1000, generator=torch.Generator().manual_seed(0))
    for ecg in (flat, flat + 0.3, noise):
        assert len(found(ecg, 100)) == 0


def test_an_exam_is_the_same_whatever_it_is_batched_with() -> None:
    exams = [ecg_of(steady(a_minute), 100) for a_minute in (40, 75, 150)]
    together = find_beats(torch.cat([*exams, torch.zeros_like(exams[0])]), 100)
    assert together.count[3] == 0
    for number, exam in enumerate(exams):
        alone = find_beats(exam, 100)
        assert torch.equal(alone.peaks[0], together.peaks[number])
        assert alone.count[0] == together.count[number]


def test_a_cut_repeats_the_ends_value_beyond_the_end() -> None:
    ramp = torch.stack([torch.arange(10.0), -torch.arange(10.0)])[None]
    beats = cut(ramp, torch.tensor([[1, 5, 9]]), 2, 3)
    expected = torch.tensor([[0.0, 0, 1, 2, 3], [3, 4, 5, 6, 7], [7, 8, 9, 9, 9]])
    assert torch.equal(beats, torch.stack([expected, -expected])[None])


def test_even_places_are_the_middles_of_equal_parts() -> None:
    assert evenly(80, 4).tolist() == [10, 30, 50, 70]


def test_centres_that_are_off_are_moved_back() -> None:
    times = torch.arange(1.0, 9.1, 1.0)
    ecg = ecg_of(times, 100, noise=0.0)
    off = torch.tensor([[0, 2, -1, 1, -2, 0, 1, 0, -1]])
    moved = aligned(ecg, (times * 100).long()[None] + off, 30, 50, 4)
    assert moved.diff().unique().tolist() == [100]
    assert (moved - (times * 100).long()).abs().max() <= 1
    # At most so far, and what isn't there stays where it isn't.
    centres = torch.cat([(times * 100).long()[None] + 3 * off, torch.tensor([[-1, -1]])], 1)
    moved = aligned(ecg, centres, 30, 50, 2)
    assert (moved - centres).abs().max() <= 2
    assert moved[0, -2:].tolist() == [-1, -1]


def test_the_average_beat_is_the_beat_that_was_repeated() -> None:
    peaks = torch.arange(100, 901, 100)[None]
    ecg = ecg_of(peaks[0] / 100, 100, noise=0.0)
    middle = ecg[:, :, 470:550]
    average = average_beat(ecg, find_beats(ecg, 100), 30, 50, 4)
    torch.testing.assert_close(average, middle, atol=1e-3, rtol=0)
    # A median: one artefact of several millivolts in a single beat does not change it.
    ecg[:, 4, 310:330] += 5
    average = average_beat(ecg, Beats(peaks, torch.tensor([9])), 30, 50, 0)
    torch.testing.assert_close(average, middle, atol=1e-3, rtol=0)


def test_the_median_is_of_each_exams_own_beats() -> None:
    ecg = torch.arange(100.0).expand(3, 1, 100)
    peaks = torch.tensor([[10, 20, 60, 80], [40, 50, -1, -1], [-1, -1, -1, -1]])
    beats = Beats(peaks, torch.tensor([4, 2, 0]))
    average = average_beat(ecg, beats, 2, 2, 0)[:, 0]
    around = torch.tensor([-2.0, -1, 0, 1])
    # Between the middle two of an even number; without a beat, of eight even places (6 ... 93).
    places = torch.tensor([6.0, 18, 31, 43, 56, 68, 81, 93])
    assert places.tolist() == evenly(100, 8).tolist()
    torch.testing.assert_close(average, torch.tensor([[40.0], [45.0], [49.5]]) + around)


def test_beats_that_the_end_cuts_take_no_part_where_there_are_whole_ones() -> None:
    ecg = torch.arange(100.0)[None, None]
    peaks = torch.tensor([[1, 20, 50, 60]])
    average = average_beat(ecg, Beats(peaks, torch.tensor([4])), 5, 5, 0)
    torch.testing.assert_close(average[0, 0], 50 + torch.arange(-5.0, 5))
    peaks = torch.tensor([[1, 20]])
    average = average_beat(ecg, Beats(peaks, torch.tensor([2])), 2, 2, 0)
    torch.testing.assert_close(
        average[0, 0], (torch.tensor([0.0, 0, 1, 2]) + 20 + torch.tensor([-2.0, -1, 0, 1])) / 2
    )
