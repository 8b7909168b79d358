"""Who the simulated patients are: heart function, what the ECG shows of it, blood test and X-ray.

An exam is described by the true LVEF and a pulmonary pressure load; given these, the ECG's
latents, the chest X-ray's findings and log BNP are Gaussian around a known mean. Every number here
is a choice that makes a plausible cohort, not an estimate from any hospital.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from datamodules.simulation.institutions import Institution

Array = NDArray[np.float64]

# Effects on each ECG latent in its own residual standard deviations; 0 is a healthy adult of 60.
#                      left ventricular  pulmonary   age per   male
#                      dysfunction       pressure    decade
_EFFECTS = {
    "conduction": (1.25, 0.00, 0.12, 0.25),  # QRS duration, up to left bundle branch block
    "progression": (1.30, 0.00, 0.00, -0.10),  # loss of the R wave in V1-V4
    "voltage": (-0.50, 0.00, -0.05, 0.35),
    "repolarisation": (1.35, 0.05, 0.15, -0.10),  # lateral ST depression and T inversion
    "qt_interval": (0.85, 0.00, 0.10, -0.35),
    "heart_rate": (0.80, 0.15, -0.05, -0.15),
    "left_atrium": (0.95, 0.10, 0.15, 0.00),  # wide P with a terminal force in V1
    "rhythm": (0.40, 0.15, 0.40, 0.10),  # atrial fibrillation above a threshold
    "ectopy": (0.60, 0.05, 0.15, 0.00),  # rate of ventricular premature beats
    "right_axis": (-0.20, 0.60, -0.25, 0.00),
    "right_precordial": (0.00, 0.75, 0.00, 0.00),  # R in V1, T inversion in V1-V3
    "right_atrium": (0.00, 0.55, 0.00, 0.00),  # tall P in II
}
_CORRELATIONS = {
    ("conduction", "repolarisation"): 0.30,
    ("conduction", "progression"): 0.20,
    ("progression", "repolarisation"): 0.20,
    ("conduction", "qt_interval"): 0.30,
    ("repolarisation", "qt_interval"): 0.20,
    ("left_atrium", "rhythm"): 0.30,
    ("heart_rate", "rhythm"): 0.20,
    ("right_axis", "right_precordial"): 0.30,
    ("right_precordial", "right_atrium"): 0.30,
}

LATENTS = tuple(_EFFECTS)
DYSFUNCTION_EFFECT, PRESSURE_EFFECT, AGE_EFFECT, MALE_EFFECT = np.array(list(_EFFECTS.values())).T


def _residual_covariance() -> Array:
    covariance = np.eye(len(LATENTS))
    for (one, other), value in _CORRELATIONS.items():
        i, j = LATENTS.index(one), LATENTS.index(other)
        covariance[i, j] = covariance[j, i] = value
    return covariance


RESIDUAL_COVARIANCE = _residual_covariance()
_RESIDUAL_FACTOR = np.linalg.cholesky(RESIDUAL_COVARIANCE)

# True LVEF is a mixture: [preserved, reduced].
LVEF_MEAN = np.array([62.0, 35.0])
LVEF_SD = np.array([6.0, 9.0])
ECHO_NOISE_LVEF = 4.0  # percentage points, about the interobserver variability of biplane Simpson
MEASURED_LVEF = (10, 80)  # what an echo reports at least, and at most
LVSD_BELOW_PERCENT = 40.0  # the threshold by which `lvsd_prevalence` is meant

PRESSURE_PER_DYSFUNCTION = 0.9
_LOG_PASP_PER_LOAD = 0.24
_REFERENCE_PASP_MMHG = 30.0
_ECHO_NOISE_M_S = 0.12
_CONGESTION_PER_LOAD = 0.6
_ATRIAL_PRESSURES_MMHG = (3, 8, 15)
_CONGESTION_STEPS = (1.0, 2.0)  # from one atrial pressure to the next


@dataclass(frozen=True, slots=True)
class Finding:
    """A number that is Gaussian given dysfunction, pressure load and age."""

    mean: float  # at the age of 60, of a normal left ventricle and a load of 0
    dysfunction: float
    pressure: float
    age: float  # per decade
    deviation: float


# What a chest X-ray shows, beside the ECG.
FILM = {
    "cardiothoracic_ratio": Finding(0.475, 0.040, 0.012, 0.008, 0.035),
    "pulmonary_artery_prominence": Finding(0.0, 0.00, 0.80, 0.00, 1.00),
    "vascular_marking": Finding(0.0, 0.50, 0.50, 0.00, 1.00),
}
# BNP in pg/mL is log-normal. Patients alike in LVEF, load and age still differ by a factor of 2.5
# (renal function, weight, rhythm).
LOG_BNP = Finding(3.5, 1.30, 0.50, 0.30, 0.90)

_PERSISTENCE = 0.95  # correlation of everything Gaussian between two exams of one patient
_NORMALS = 2 + len(LATENTS)  # of LVEF, of pressure, of the latents


@dataclass(frozen=True, slots=True)
class Exam:
    """One exam: what the hospital records, and the latents that its ECG and X-ray are made from.

    An absent value is None.
    """

    ecg_time: datetime
    age_years: int
    male: bool
    lvef_percent: int | None
    echo_time: datetime | None
    tr_velocity_m_s: float | None
    pasp_mmhg: int | None
    bnp_pg_ml: float | None
    cxr: tuple[float, ...] | None  # in the order of FILM
    latents: Array


def dysfunction(lvef: Array) -> Array:
    """Left ventricular dysfunction: about 0 at a normal LVEF, 1 at 35 %, 2 at 15 %."""
    return np.logaddexp(0.0, (55.0 - lvef) / 8.0) * 8.0 / 20.0


def measured_below(lvef: Array, threshold: float) -> Array:
    """Probability that an echo, rounded to whole per cent, reads below `threshold`."""
    below: Array = ndtr((np.ceil(threshold) - 0.5 - lvef) / ECHO_NOISE_LVEF)
    return below


def reduced_share(institution: Institution) -> float:
    """Share of patients with reduced LVEF that gives the institution's LVSD prevalence."""
    spread = np.hypot(LVEF_SD, ECHO_NOISE_LVEF)
    preserved, reduced = ndtr((LVSD_BELOW_PERCENT - 0.5 - LVEF_MEAN) / spread)
    return float(np.clip((institution.lvsd_prevalence - preserved) / (reduced - preserved), 0, 1))


def pressure_shift(institution: Institution) -> float:
    """Mean pulmonary pressure load at a normal left ventricle."""
    ratio = institution.pulmonary_pressure_mmhg / _REFERENCE_PASP_MMHG
    return float(np.log(ratio) / _LOG_PASP_PER_LOAD)


def states(institution: Institution, reduced: Array, normals: Array) -> tuple[Array, Array, Array]:
    """True LVEF [n], pressure load [n] and ECG latents before age and sex [n, latent].

    `reduced` [n] is 0 or 1, `normals` [n, 2 + latent] are standard normal.
    """
    component = reduced.astype(int)
    lvef = LVEF_MEAN[component] + LVEF_SD[component] * normals[:, 0]
    disease = dysfunction(lvef)
    load = pressure_shift(institution) + PRESSURE_PER_DYSFUNCTION * disease + normals[:, 1]
    latents = (
        disease[:, None] * DYSFUNCTION_EFFECT
        + load[:, None] * PRESSURE_EFFECT
        + normals[:, 2:] @ _RESIDUAL_FACTOR.T
    )
    return lvef, load, latents


def draw_states(
    rng: np.random.Generator, institution: Institution, n: int
) -> tuple[Array, Array, Array]:
    """States of `n` exams of `n` patients."""
    reduced = (rng.random(n) < reduced_share(institution)).astype(float)
    return states(institution, reduced, rng.standard_normal((n, _NORMALS)))


def draw_patient(rng: np.random.Generator, institution: Institution, exams: int) -> list[Exam]:
    """Draw one patient and his or her exams, in order of time."""
    male = bool(rng.random() >= institution.female_fraction)
    age = np.clip(rng.normal(institution.age_mean_years, institution.age_sd_years), 18, 95)
    first = datetime(2015, 1, 1) + timedelta(days=int(rng.integers(365 * 7)))
    reduced = np.full(exams, float(rng.random() < reduced_share(institution)))
    # Stationary: each exam alone is distributed as in `draw_states`, whatever came before.
    normals = _PERSISTENCE * rng.standard_normal(_NORMALS) + np.sqrt(
        1 - _PERSISTENCE**2
    ) * rng.standard_normal((exams, _NORMALS))
    lvef, load, latents = states(institution, reduced, normals)
    days = np.concatenate([[0.0], np.cumsum(rng.lognormal(5.3, 0.8, exams - 1))])
    return [
        _exam(
            rng,
            institution,
            time=first + timedelta(days=int(days[i]), seconds=int(rng.integers(28_800, 64_800))),
            age=int(age + days[i] / 365.25),
            male=male,
            lvef=float(lvef[i]),
            load=float(load[i]),
            latents=latents[i],
        )
        for i in range(exams)
    ]


def _exam(
    rng: np.random.Generator,
    institution: Institution,
    *,
    time: datetime,
    age: int,
    male: bool,
    lvef: float,
    load: float,
    latents: Array,
) -> Exam:
    # All is drawn before any of it is left out, so that a missing rate changes nothing else.
    decades = (age - 60) / 10
    noise = rng.standard_normal(7)
    echo, jet, blood, film = rng.random(4)
    delay = float(np.clip(rng.laplace(0, 4), -90, 90))
    disease = float(dysfunction(np.array(lvef)))

    has_echo = echo < institution.echo_fraction
    velocity = pasp = None
    if has_echo and jet >= institution.tr_missing_fraction:
        velocity, pasp = _tricuspid_jet(load, float(noise[1]), float(noise[2]))

    def found(finding: Finding, noise: float) -> float:
        return (
            finding.mean
            + finding.dysfunction * disease
            + finding.pressure * load
            + finding.age * decades
            + finding.deviation * noise
        )

    bnp = np.exp(found(LOG_BNP, float(noise[3])))
    film_noise = dict(zip(FILM, noise[4:].tolist(), strict=True))
    return Exam(
        ecg_time=time,
        age_years=age,
        male=male,
        lvef_percent=(
            int(np.clip(np.rint(lvef + ECHO_NOISE_LVEF * noise[0]), *MEASURED_LVEF))
            if has_echo
            else None
        ),
        echo_time=time + timedelta(days=delay) if has_echo else None,
        tr_velocity_m_s=velocity,
        pasp_mmhg=pasp,
        bnp_pg_ml=(
            round(float(np.clip(bnp, 4, 20_000)), 1)
            if blood >= institution.bnp_missing_fraction
            else None
        ),
        cxr=(
            tuple(found(finding, film_noise[name]) for name, finding in FILM.items())
            if film >= institution.cxr_missing_fraction
            else None
        ),
        latents=latents + AGE_EFFECT * decades + MALE_EFFECT * male,
    )


def _tricuspid_jet(load: float, measured: float, atrial: float) -> tuple[float, int]:
    """Velocity and pressure as an echo reports them: PASP = 4 v^2 + right atrial pressure.

    The simplified Bernoulli equation with a right atrial pressure of 3, 8 or 15 mmHg (Rudski et
    al., J Am Soc Echocardiogr 2010;23:685-713). The true pressure is log-normal in `load`.
    """
    velocity = round(float(_true_velocity(np.array(load))) + _ECHO_NOISE_M_S * measured, 2)
    congestion = _CONGESTION_PER_LOAD * load + atrial
    step = sum(congestion >= limit for limit in _CONGESTION_STEPS)
    return velocity, _reported_pasp(velocity, _ATRIAL_PRESSURES_MMHG[step])


def _true_velocity(load: Array) -> Array:
    true_pasp = _REFERENCE_PASP_MMHG * np.exp(_LOG_PASP_PER_LOAD * load)
    velocity: Array = np.sqrt(np.maximum(true_pasp - 5.0, 4.0) / 4.0)
    return velocity


def _reported_pasp(velocity: float, atrial_pressure: int) -> int:
    return round(4.0 * velocity**2 + atrial_pressure)


def reported_ph(load: Array, *, pasp_at_least_mmhg: float, tr_velocity_above_m_s: float) -> Array:
    """Probability that an echo with a measurable jet reports PH, given the pressure load.

    Exact: at each right atrial pressure there is a least reported velocity (of two decimals) that
    makes either value pass.
    """
    velocity = _true_velocity(load)
    congestion = _CONGESTION_PER_LOAD * load
    above = [1.0, *(ndtr(congestion - limit) for limit in _CONGESTION_STEPS), 0.0]
    probability = np.zeros_like(load)
    for i, atrial in enumerate(_ATRIAL_PRESSURES_MMHG):
        least = next(
            (
                hundredths
                for hundredths in range(2_000)
                if hundredths / 100 > tr_velocity_above_m_s
                or _reported_pasp(hundredths / 100, atrial) >= pasp_at_least_mmhg
            ),
            np.inf,
        )
        passes = ndtr((velocity - (least - 0.5) / 100) / _ECHO_NOISE_M_S)
        probability += (above[i] - above[i + 1]) * passes
    return probability
