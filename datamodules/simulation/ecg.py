"""A 12-lead ECG from its latents: a moving heart dipole, seen by nine electrodes, as recorded.

Each beat is a sum of Gaussian pulses of a dipole in Frank's axes (McSharry et al., IEEE Trans
Biomed Eng 2003;50:289-294; Sameni et al., EURASIP J Adv Signal Process 2007:043407), projected on
the leads with Dower's lead vectors. Shapes and sizes are choices that look like ECGs.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, sosfilt, sosfilt_zi

from datamodules.simulation.institutions import STANDARD_LEADS, Institution
from datamodules.simulation.patients import LATENTS, Array

# Lead vectors of I, II, V1-V6 for a dipole in mV along x (left), y (foot), z (back): Dower,
# Machado & Osborne, Clin Cardiol 1980;3:87-95.
_DOWER = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)

# I, II, V1-V6 from the potentials of RA, LA, LL and the six chest electrodes; V1-V6 against
# Wilson's central terminal.
_FROM_ELECTRODES = np.zeros((8, 9))
_FROM_ELECTRODES[:2, :3] = np.array([[-1, 1, 0], [-1, 0, 1]])
_FROM_ELECTRODES[2:, :3] = -1 / 3
_FROM_ELECTRODES[2:, 3:] = np.eye(6)

# The twelve leads, in standard order, from I, II, V1-V6 (Einthoven, Goldberger).
_TWELVE = np.zeros((12, 8))
_TWELVE[:6, :2] = np.array([[1, 0], [0, 1], [-1, 1], [-0.5, -0.5], [1, -0.5], [-0.5, 1]])
_TWELVE[6:, 2:] = np.eye(6)

# One beat: centre and width (standard deviation) in ms from the R peak, dipole in mV at x, y, z.
_PULSES = {
    "p_right": (-152, 17, (0.03, 0.09, -0.05)),
    "p_left": (-118, 18, (0.07, 0.05, 0.05)),
    "septum": (-22, 7, (-0.12, -0.05, -0.30)),
    "apex": (-4, 9, (1.00, 0.75, -0.10)),
    "free_wall": (12, 10, (0.45, 0.25, 0.85)),
    "base": (28, 10, (-0.15, -0.20, 0.35)),
    "right_ventricle": (16, 11, (-0.35, 0.10, -0.45)),
    "st": (110, 40, (0.02, 0.015, -0.02)),
    "t_early": (-32, 46, (0.13, 0.09, -0.10)),  # from the T peak
    "t_late": (0, 28, (0.18, 0.13, -0.13)),
    "u": (165, 35, (0.010, 0.008, -0.010)),
}
# The same pulses in complete left bundle branch block: slow, leftward and back, ST-T opposite.
_BLOCK = _PULSES | {
    "septum": (-20, 12, (0.25, 0.10, 0.20)),
    "apex": (4, 17, (1.00, 0.25, 0.75)),
    "free_wall": (40, 18, (0.95, 0.05, 1.00)),
    "base": (70, 14, (0.20, -0.10, 0.45)),
    "st": (130, 45, (-0.12, 0.00, -0.20)),
    "t_early": (-32, 50, (-0.15, -0.02, -0.20)),
    "t_late": (0, 32, (-0.20, -0.03, -0.25)),
}
_NAMES = list(_PULSES)
_P = slice(_NAMES.index("p_right"), _NAMES.index("p_left") + 1)
_QRS = slice(_NAMES.index("septum"), _NAMES.index("right_ventricle") + 1)
_T = slice(_NAMES.index("t_early"), _NAMES.index("u") + 1)
_STRAIN_T = np.array([-0.20, -0.08, -0.18])  # T peak of a strained left ventricle
_STRAIN_ST = np.array([-0.07, -0.05, -0.02])

# Where each group of pulses is computed, in s from the R peak.
_WINDOWS = (
    (_P, -0.34, 0.0),
    (_QRS, -0.10, 0.22),
    (slice(_NAMES.index("st"), None), 0.0, 0.76),
)
_BEFORE_S, _AFTER_S = 0.34, 0.76


@dataclass(frozen=True, slots=True)
class Anatomy:
    """What stays the same in all ECGs of a patient; standard normal numbers."""

    rotation: Array  # [3] of the heart around x, y, z
    t_rotation: Array  # [3] of the T wave beyond that
    pulses: Array  # [pulse] log size of each pulse
    size: float  # log size of all
    conduction_times: Array  # [3] PR, QRS, QT


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draw a patient's anatomy, independent of all else."""
    return Anatomy(
        rotation=rng.standard_normal(3),
        t_rotation=rng.standard_normal(3),
        pulses=rng.standard_normal(len(_NAMES)),
        size=float(rng.standard_normal()),
        conduction_times=rng.standard_normal(3),
    )


@dataclass(frozen=True, slots=True)
class _Beats:
    time_s: Array  # [beat] of the R peaks
    rr_s: Array  # [beat] interval before each
    premature: NDArray[np.bool_]  # [beat] of ventricular origin
    fibrillation: bool


@dataclass(frozen=True, slots=True)
class _Shape:
    centre_s: Array  # [pulse] from the R peak; T and U from the T peak
    width_s: Array  # [pulse]
    dipole_mv: Array  # [pulse, 3]
    t_peak_s: float  # of a beat after an interval of 1 s


def simulate_ecg(
    rng: np.random.Generator, latents: Array, anatomy: Anatomy, male: bool, device: Institution
) -> NDArray[np.int16]:
    """Record one ECG with the institution's device.

    Args:
        latents: [latent] in the order of `patients.LATENTS`.

    Returns:
        Digital values [sample, lead] in the device's lead order. III, aVR, aVL and aVF follow
        from I and II within the rounding of each to a whole unit.
    """
    latent = dict(zip(LATENTS, np.clip(latents, -4, 5).tolist(), strict=True))
    respiration_hz, respiration_phase = rng.uniform(0.18, 0.32), rng.uniform(0, 2 * np.pi)
    beats = _beats(rng, latent, respiration_hz, respiration_phase, device.seconds)
    shape = _shape(latent, anatomy, male)
    breath = np.sin(2 * np.pi * respiration_hz * beats.time_s + respiration_phase)
    dipole = _dipole(rng, beats, shape, breath, device)

    leads = _DOWER + 0.06 * np.abs(_DOWER).max(axis=1, keepdims=True) * np.concatenate(
        [np.zeros((2, 3)), rng.standard_normal((6, 3))]  # where the chest electrodes are put
    )
    noise = _electrode_noise(rng, respiration_hz, respiration_phase, device)
    signal = leads.astype(np.float32) @ dipole + _FROM_ELECTRODES.astype(np.float32) @ noise
    sections, start = _filter(device.high_pass_hz, device.low_pass_hz, device.sampling_rate_hz)
    rest = signal.mean(axis=1, keepdims=True)
    signal, _ = sosfilt(sections, signal.astype(float), axis=1, zi=start * rest)

    order = [_POSITION[lead.upper()] for lead in device.leads]
    digital = signal.T @ (device.units_per_mv * _TWELVE[order].T)
    np.rint(digital, out=digital)
    digital += device.baseline
    # -32768 marks a missing sample in WFDB's format 16.
    recorded: NDArray[np.int16] = np.clip(digital, -32767, 32767, out=digital).astype(np.int16)
    return recorded


_POSITION = {lead.upper(): i for i, lead in enumerate(STANDARD_LEADS)}


def _beats(
    rng: np.random.Generator,
    latent: dict[str, float],
    respiration_hz: float,
    phase: float,
    seconds: int,
) -> _Beats:
    fibrillation = latent["rhythm"] > 2.3
    rr = 60 / (70 * np.exp(0.16 * latent["heart_rate"] + (0.12 if fibrillation else 0.0)))
    n = int((seconds + 3) / (0.7 * rr)) + 4
    if fibrillation:
        intervals = rr * np.exp(0.2 * rng.standard_normal(n))
    else:
        sinus = 0.03 * np.sin(2 * np.pi * respiration_hz * rr * np.arange(n) + phase)
        intervals = rr * (1 + sinus + 0.015 * rng.standard_normal(n))
    premature = rng.random(n) < min(0.004 * np.exp(0.9 * latent["ectopy"]), 0.15)
    premature[1:] &= ~premature[:-1]
    intervals[premature] *= 0.65
    if not fibrillation:
        intervals[1:][premature[:-1]] *= 1.35  # the compensatory pause
    intervals = np.maximum(intervals, 0.3)
    time = np.cumsum(intervals) - intervals[0] - 1.0 - rng.uniform(0, rr)
    near = (time > -_AFTER_S) & (time < seconds + _BEFORE_S)
    return _Beats(time[near], intervals[near], premature[near], fibrillation)


def _shape(latent: dict[str, float], anatomy: Anatomy, male: bool) -> _Shape:
    block = _sigmoid((latent["conduction"] - 2.2) / 0.3)
    centre = (1 - block) * _table(0) + block * _table(0, blocked=True)
    width = (1 - block) * _table(1) + block * _table(1, blocked=True)
    dipole = (1 - block) * _table(2) + block * _table(2, blocked=True)
    at = _NAMES.index

    slow = 1 + 0.045 * latent["conduction"] + 0.04 * anatomy.conduction_times[1]
    centre[_QRS] *= slow
    width[_QRS] *= slow

    loss = latent["progression"] * (1 - block)
    dipole[at("septum"), 2] += 0.10 * loss
    dipole[at("apex"), 2] += 0.15 * loss
    dipole[at("free_wall"), 2] += 0.05 * loss

    load = latent["right_precordial"]
    dipole[at("right_ventricle")] *= min(0.25 * np.exp(0.5 * load), 2.0)
    dipole[at("free_wall")] *= np.exp(-0.10 * load)

    strain = (1 - block) * _sigmoid((latent["repolarisation"] - 1.8) / 0.5)
    flat = np.exp(-0.20 * latent["repolarisation"])
    right_strain = np.array([0.0, -0.04, 0.26]) * _sigmoid((load - 2.0) / 0.5)
    for pulse, share in (("t_early", 0.7), ("t_late", 1.0)):
        healthy = dipole[at(pulse)] * (1 - strain) * (flat if block < 0.5 else 1.0)
        dipole[at(pulse)] = healthy + share * (strain * _STRAIN_T + right_strain)
    dipole[at("st")] += strain * _STRAIN_ST

    dipole *= np.exp(0.15 * anatomy.pulses)[:, None] * np.exp(0.12 * anatomy.size)
    dipole[_QRS] *= np.exp(0.20 * latent["voltage"] + (0.05 if male else 0.0))

    dipole[at("p_right")] *= np.exp(0.28 * latent["right_atrium"])
    dipole[at("p_left")] *= np.exp(0.15 * latent["left_atrium"])
    dipole[at("p_left"), 2] += 0.03 * latent["left_atrium"]
    centre[at("p_left")] += 4 * latent["left_atrium"]
    centre[_P] -= 6 * latent["left_atrium"] + 12 * anatomy.conduction_times[0] + 35 * block

    axis = np.radians([8, 8, 11]) * anatomy.rotation
    dipole = dipole @ _rotation(axis).T
    # A positive turn around z (which points to the back) carries the axis from left to foot.
    dipole[_QRS] = dipole[_QRS] @ _rotation(np.radians([0, 0, 14 * latent["right_axis"]])).T
    dipole[_T] = dipole[_T] @ _rotation(np.radians(8) * anatomy.t_rotation).T

    qt = 408 + 12 * latent["qt_interval"] + 8 * anatomy.conduction_times[2] + 30 * block
    return _Shape(centre / 1000, width / 1000, dipole, (qt - 108) / 1000)


def _dipole(
    rng: np.random.Generator, beats: _Beats, shape: _Shape, breath: Array, device: Institution
) -> NDArray[np.float32]:
    rate = device.sampling_rate_hz
    n, count = device.seconds * rate, len(beats.time_s)
    centre = np.tile(shape.centre_s, (count, 1))
    width = np.tile(shape.width_s, (count, 1))
    # Fridericia: QT grows with the cube root of the RR interval.
    stretch = np.cbrt(np.clip(beats.rr_s, 0.3, 1.5))
    stretch[beats.premature] = np.maximum(stretch[beats.premature], 0.95)
    centre[:, _T] = (centre[:, _T] + shape.t_peak_s) * stretch[:, None]
    width[:, _T] *= stretch[:, None]

    # Breathing swells and turns the heart's vector a little; no beat is quite like another.
    size = 1 + 0.05 * breath[:, None] + 0.02 * rng.standard_normal((count, len(_NAMES)))
    moment = size[:, :, None] * shape.dipole_mv  # [beat, pulse, 3]
    turn = np.radians(4) * breath[:, None]
    moment = moment + turn[:, :, None] * moment[:, :, [1, 0, 2]] * np.array([-1, 1, 0])
    if beats.fibrillation:
        moment[:, _P] = 0
    if beats.premature.any():
        _make_premature(rng, centre, width, moment, beats.premature)

    margin = int((_BEFORE_S + _AFTER_S) * rate) + 2  # for beats that reach over the ends
    dipole = np.zeros((3, n + 2 * margin), dtype=np.float32)
    # float32: its rounding, 1e-7 of the R wave, is far below a digital unit.
    time_s, scale = beats.time_s, np.float32(np.sqrt(0.5)) / width.astype(np.float32)
    for group, from_s, to_s in _WINDOWS:
        first = np.floor((time_s + from_s) * rate).astype(int)
        length = int((to_s - from_s) * rate)
        time = ((first[:, None] + np.arange(length)) / rate - time_s[:, None]).astype(np.float32)
        phase = time[:, None, :] - centre[:, group, None].astype(np.float32)
        phase *= scale[:, group, None]
        waves = moment[:, group].astype(np.float32).transpose(0, 2, 1) @ np.exp(-phase * phase)
        for start, wave in zip((first + margin).tolist(), waves, strict=True):
            dipole[:, start : start + length] += wave  # [3, sample]
    dipole = dipole[:, margin : margin + n]
    if beats.fibrillation:
        dipole += _fibrillation(rng, n, rate).astype(np.float32)
    return dipole


def _make_premature(
    rng: np.random.Generator,
    centre: Array,
    width: Array,
    moment: Array,
    premature: NDArray[np.bool_],
) -> None:
    direction = rng.standard_normal(3)
    direction *= rng.uniform(1.3, 2.0) / np.linalg.norm(direction)
    late = _NAMES.index("free_wall")
    main = _NAMES.index("apex")
    moment[premature] = 0
    for pulse, at_s, width_s, share in (
        (main, 0.0, 0.026, 1.0),
        (late, 0.055, 0.022, -0.3),
        (_NAMES.index("t_early"), 0.27, 0.055, -0.25),
        (_NAMES.index("t_late"), 0.32, 0.040, -0.25),
    ):
        centre[premature, pulse] = at_s
        width[premature, pulse] = width_s
        moment[premature, pulse] = share * direction


def _fibrillation(rng: np.random.Generator, n: int, rate: int) -> Array:
    time = np.arange(n) / rate
    phase = 2 * np.pi * (rng.uniform(5, 7.5) * time + rng.uniform())
    phase += rng.uniform(0.5, 2.0) * np.sin(2 * np.pi * rng.uniform(0.2, 0.7) * time)
    waves = (np.sin(phase) + 0.35 * np.sin(2 * phase)) * rng.uniform(0.02, 0.07)
    return np.outer([-0.2, 0.6, -0.8], waves)


def _electrode_noise(
    rng: np.random.Generator, respiration_hz: float, respiration_phase: float, device: Institution
) -> NDArray[np.float32]:
    """Potentials in mV [electrode, sample] that do not come from the heart."""
    rate = device.sampling_rate_hz
    time = np.arange(device.seconds * rate) / rate
    level = np.exp(0.4 * rng.standard_normal(3))  # of this recording: wander, hum, muscle

    hertz = device.mains_hz * (1 + 0.001 * rng.standard_normal())
    frequency = np.array([*rng.uniform(0.03, 0.5, 3), respiration_hz, hertz, hertz])
    cycles = np.array([*rng.uniform(0, 1, 3), respiration_phase / (2 * np.pi), 0.0, 0.25])
    cycles = frequency[:, None] * time + cycles[:, None]
    cycles -= np.floor(cycles)
    waves = np.sin(np.float32(2 * np.pi) * cycles.astype(np.float32))
    size = np.repeat([device.baseline_wander_mv * level[0], device.mains_mv * level[1]], [4, 2])
    wander_and_hum = (size * rng.standard_normal((9, 6))).astype(np.float32) @ waves

    # A flat spectrum whose power below 150 Hz is muscle_mv squared at every sampling rate. Two
    # uniform numbers added (variance 65536^2 / 6) are Gaussian enough once filtered, and quick.
    whole = rng.integers(-32768, 32768, size=(2, 9, len(time)), dtype=np.int16)
    spread = device.muscle_mv * level[2] * np.sqrt(rate / 2 / 150) * np.sqrt(6) / 65536
    muscle: NDArray[np.float32] = np.add(whole[0], whole[1], dtype=np.float32)
    muscle *= np.float32(spread) * (1 + np.float32(0.5) * waves[0])
    muscle += wander_and_hum
    return muscle


@lru_cache(maxsize=64)
def _filter(high_pass_hz: float, low_pass_hz: float, rate: int) -> tuple[Array, Array]:
    """Sections of the device's filter, and its state [section, 1, 2] at rest for an input of 1."""
    sections = np.concatenate(
        [
            butter(1, high_pass_hz, "highpass", fs=rate, output="sos"),
            butter(2, low_pass_hz, "lowpass", fs=rate, output="sos"),
        ]
    )
    return sections, sosfilt_zi(sections)[:, None, :]


@lru_cache(maxsize=8)
def _columns(column: int, blocked: bool) -> Array:
    return np.array([pulse[column] for pulse in (_BLOCK if blocked else _PULSES).values()], float)


def _table(column: int, blocked: bool = False) -> Array:
    return _columns(column, blocked).copy()


def _rotation(angles: Array) -> Array:
    """Rotation matrix for a turn around x, then y, then z, in radians."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    around_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    around_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    around_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    rotation: Array = around_z @ around_y @ around_x
    return rotation


def _sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))
