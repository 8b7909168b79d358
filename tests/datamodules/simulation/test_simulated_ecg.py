from dataclasses import replace

import numpy as np
import pytest
from scipy.signal import find_peaks, welch

from datamodules.simulation.ecg import Anatomy, simulate_ecg
from datamodules.simulation.institutions import read_institutions
from datamodules.simulation.patients import LATENTS

AVERAGE = Anatomy(np.zeros(3), np.zeros(3), np.zeros(11), 0.0, np.zeros(3))


@pytest.fixture
def quiet(institutions):
    """The first institution's device on a patient who lies still."""
    device = read_institutions(institutions)["quillhaven"]
    return replace(device, mains_mv=0.0, baseline_wander_mv=0.0, muscle_mv=0.0)


def record(device, seed=0, **latents):
    """Lead -> mV."""
    values = np.array([latents.get(name, 0.0) for name in LATENTS])
    digital = simulate_ecg(np.random.default_rng(seed), values, AVERAGE, True, device)
    return dict(zip(device.leads, (digital.T - device.baseline) / device.units_per_mv, strict=True))


def r_peaks(ecg, device):
    speed = np.abs(np.gradient(np.array([ecg[f"V{i}"] for i in range(1, 7)]), axis=1)).sum(axis=0)
    energy = np.convolve(speed, np.ones(device.sampling_rate_hz // 12), "same")
    return find_peaks(energy, height=0.4 * energy.max(), distance=device.sampling_rate_hz // 4)[0]


def mean_beat(ecg, device):
    """Lead -> mV from 0.3 s before to 0.5 s after the QRS complex, its baseline before P at 0."""
    rate = device.sampling_rate_hz
    peaks = r_peaks(ecg, device)
    peaks = peaks[(peaks > 0.3 * rate) & (peaks < (device.seconds - 0.5) * rate)]
    beats = {
        lead: np.mean([x[p - int(0.3 * rate) : p + int(0.5 * rate)] for p in peaks], axis=0)
        for lead, x in ecg.items()
    }
    return {lead: beat - beat[: int(0.03 * rate)].mean() for lead, beat in beats.items()}


def test_a_healthy_ecg_looks_like_one(quiet):
    ecg = record(quiet)
    beat = mean_beat(ecg, quiet)
    rate = quiet.sampling_rate_hz
    qrs, t_wave, p_wave = (
        slice(int(a * rate), int(b * rate)) for a, b in ((0.24, 0.38), (0.48, 0.72), (0.1, 0.22))
    )
    assert len(r_peaks(ecg, quiet)) == pytest.approx(70 / 6, abs=2)  # 70 a minute, for 10 s
    r_wave = [beat[f"V{i}"][qrs].max() for i in range(1, 5)]
    assert r_wave == sorted(r_wave)  # R wave progression
    assert -beat["V1"][qrs].min() > r_wave[0]  # rS in V1
    for lead in ("I", "II", "V3", "V4", "V5", "V6"):
        assert beat[lead][t_wave].max() > 2 * -beat[lead][t_wave].min(), lead
    assert beat["aVR"][qrs].min() < -0.3
    assert 0.05 < beat["II"][p_wave].max() < 0.3
    assert 0.5 < beat["II"][qrs].max() < 2


def test_each_latent_does_what_its_name_says(quiet):
    rate = quiet.sampling_rate_hz

    def beat(**latents):
        return mean_beat(record(quiet, **latents), quiet)

    def width(x):
        speed = np.abs(np.gradient(x[int(0.22 * rate) : int(0.45 * rate)]))
        return np.ptp(np.flatnonzero(speed > 0.1 * speed.max())) / rate

    normal, block = beat(), beat(conduction=4)
    assert width(normal["V6"]) < 0.11
    assert width(block["V6"]) > 0.12
    late = slice(int(0.48 * rate), int(0.75 * rate))
    assert block["V6"][late].min() < -0.1  # T opposite to the QRS complex
    assert beat(repolarisation=4)["V5"][late].min() < -0.1
    qrs = slice(int(0.24 * rate), int(0.38 * rate))
    assert beat(progression=3)["V2"][qrs].max() < 0.7 * normal["V2"][qrs].max()
    assert beat(right_precordial=4)["V1"][qrs].max() > 1.3 * normal["V1"][qrs].max()
    assert beat(right_axis=3)["aVF"].max() > normal["aVF"].max()
    assert beat(right_axis=3)["I"].max() < normal["I"].max()
    early = slice(int(0.05 * rate), int(0.22 * rate))
    assert beat(right_atrium=3)["II"][early].max() > 1.3 * normal["II"][early].max()
    assert beat(left_atrium=3)["V1"][early].min() < normal["V1"][early].min() - 0.04
    assert np.ptp(beat(voltage=2)["V5"]) > 1.2 * np.ptp(normal["V5"])
    assert len(r_peaks(record(quiet, heart_rate=3), quiet)) > 15


def test_atrial_fibrillation_is_irregular_and_ectopic_beats_come_early(quiet):
    def variation(**latents):
        intervals = np.concatenate(
            [np.diff(r_peaks(record(quiet, seed, **latents), quiet)) for seed in range(4)]
        )
        return intervals.std() / intervals.mean(), intervals.min() / np.median(intervals)

    assert variation()[0] < 0.06
    assert variation(rhythm=4)[0] > 0.12
    assert variation(ectopy=4)[1] < 0.75 < variation()[1]


def test_every_recording_differs_and_is_reproducible(quiet):
    assert np.array_equal(record(quiet, 1)["II"], record(quiet, 1)["II"])
    assert not np.array_equal(record(quiet, 1)["II"], record(quiet, 2)["II"])


def test_noise_and_filter_are_the_devices(institutions):
    checked = read_institutions(institutions)

    def spectrum(name, **changes):
        device = replace(checked[name], **changes)
        power = [
            welch(record(device, seed)["V2"], device.sampling_rate_hz, nperseg=1000)
            for seed in range(6)
        ]
        return power[0][0], np.mean([p for _, p in power], axis=0)

    for name, hertz in (("quillhaven", 50), ("copperloch", 60)):
        frequency, power = spectrum(name, mains_mv=0.05)
        around = (frequency > 40) & (frequency < 70)
        assert frequency[around][power[around].argmax()] == pytest.approx(hertz, abs=0.6)
    muscle = {"muscle_mv": 0.05, "mains_mv": 0.0}
    frequency, wide = spectrum("quillhaven", **muscle)
    _, narrow = spectrum("ambervault", **muscle)
    high = frequency > 90
    assert narrow[high].mean() < 0.1 * wide[high].mean()
    # The muscle's spectral density does not depend on the sampling rate.
    frequency_1000, at_1000 = spectrum("thistlemere", **muscle)
    flat = [(f > 70) & (f < 110) for f in (frequency, frequency_1000)]
    assert at_1000[flat[1]].mean() == pytest.approx(wide[flat[0]].mean(), rel=0.5)
