"""How well an ideal observer of the simulated patients' latents does."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag

from datamodules.simulation import patients
from datamodules.simulation.institutions import Institution, generator, read_institutions
from datamodules.simulation.patients import Array

MODALITIES = ("ecg", "cxr", "bnp")

_CHUNK = 5_000  # exams


@dataclass(frozen=True)
class Sight:
    """What an observer sees beyond age and sex: Gaussian, linear in dysfunction and load."""

    dysfunction: Array  # [quantity] effect of the left ventricle's dysfunction
    pressure: Array  # [quantity] effect of the pulmonary pressure load
    covariance: Array  # [quantity, quantity] of what else varies


def ceiling(
    institutions: Mapping[str, Mapping[str, Any]],
    *,
    seed: int,
    lvef_below_percent: float,
    exams: int = 50_000,
) -> dict[str, float]:
    """AUROC of the ideal observer for a measured LVEF below a threshold, an institution each.

    The observer reads every ECG latent exactly, knows age, sex and the institution's own
    distribution of LVEF, and ranks by P(measured LVEF < threshold | latents, age, sex). Nothing
    else in an ECG depends on LVEF, so no reader of the ECG, with age and sex or without, does
    better on average; noise, filter and twelve leads make every real reader do worse. (A test
    set of some hundred exams can come out above the ceiling by chance.)

    The probability is exact but for a sum over LVEF. Given LVEF f, the latents are Gaussian:
    the mean is linear in dysfunction(f), in the pressure load and in age and sex. LVEF and load
    do not depend on age and sex, so these are subtracted; the load is Gaussian with a mean linear
    in dysfunction(f), so it integrates out into mean and covariance. What remains is

        P(label | z) = sum_f p(f) N(z; m(f), C) P(label | f) / sum_f p(f) N(z; m(f), C).

    The AUROC is the Mann-Whitney estimate over `exams` simulated exams with labels measured as
    the echo does; its standard error is about 0.003 at a prevalence of 10 %. NaN where the
    simulated exams have one class only.

    Raises:
        InputError: settings that cannot be used.
    """
    found = {}
    for name, institution in read_institutions(institutions).items():
        rng = generator(seed, name)
        scores, labels = [], []
        for n in _chunks(exams):
            lvef, _, latents = patients.draw_states(rng, institution, n)
            noise = patients.ECHO_NOISE_LVEF * rng.standard_normal(n)
            measured = np.clip(np.rint(lvef + noise), *patients.MEASURED_LVEF)
            labels.append(measured < lvef_below_percent)
            scores.append(posterior(institution, latents, lvef_below_percent))
        found[name] = _auroc(np.concatenate(scores), np.concatenate(labels))
    return found


def lvef_ceiling(
    institutions: Mapping[str, Mapping[str, Any]], *, seed: int, exams: int = 50_000
) -> dict[str, float]:
    """Mean absolute error, in percentage points, of the ideal observer's estimate of a measured
    LVEF, an institution each: the least that is possible, as `ceiling` is the most.

    What the observer of `ceiling` knows, P(measured LVEF <= v | z) = F(v), has the median as its
    best estimate, and the error expected there is the sum over whole per cent v of min(F(v),
    1 - F(v)). Its mean over `exams` simulated exams has a standard error of about 0.01.

    Raises:
        InputError: settings that cannot be used.
    """
    found = {}
    for name, institution in read_institutions(institutions).items():
        rng = generator(seed, name)
        errors = [
            expected_errors(institution, patients.draw_states(rng, institution, n)[2])
            for n in _chunks(exams)
        ]
        found[name] = float(np.concatenate(errors).mean())
    return found


def ph_ceiling(
    institutions: Mapping[str, Mapping[str, Any]],
    *,
    seed: int,
    ph: Mapping[str, float],
    modalities: Collection[str],
    exams: int = 50_000,
) -> dict[str, float]:
    """AUROC of the ideal observer for pulmonary hypertension, an institution each.

    The observer knows what is behind each of its modalities exactly (`ecg`: the latents, `cxr`:
    the three findings, `bnp`: the logarithm), age, sex and the institution's own distributions of
    LVEF and pressure load, and ranks by P(the echo reports PH | these), where an echo reports PH
    by the rule `ph` (`pasp_at_least_mmhg`, `tr_velocity_above_m_s`). Nothing else in an exam
    depends on LVEF or load, so no reader of these modalities does better on average; whatever
    hides the latents in a real signal or image makes it do worse. (A test set of some hundred
    exams can come out above the ceiling by chance.)

    The probability is exact but for a sum over LVEF and a quadrature over load. As in `ceiling`,
    what is seen, z, is Gaussian given LVEF f once age and sex are subtracted; given f and z the
    load is Gaussian too, with a mean linear in z and dysfunction(f) and a variance s^2 that is
    the same for all. So

        P(PH | z) = sum_f p(f | z) g(mean load(f, z)),  g(m) = integral of N(l; m, s^2) P(PH | l),

    with `patients.reported_ph` as P(PH | l). The echo's jet is missing at random. The AUROC is
    the Mann-Whitney estimate over `exams` simulated exams; its standard error is about 0.002 at
    a prevalence of 30 %. NaN where the simulated exams have one class only.

    Raises:
        InputError: settings that cannot be used.
        ValueError: modalities that are none or not among MODALITIES.
    """
    sight = sight_of(modalities)
    factor = np.linalg.cholesky(sight.covariance)
    found = {}
    for name, institution in read_institutions(institutions).items():
        rng = generator(seed, name)
        scores, labels = [], []
        for n in _chunks(exams):
            lvef, load, _ = patients.draw_states(rng, institution, n)
            labels.append(rng.random(n) < patients.reported_ph(load, **_rule(ph)))
            seen = np.outer(patients.dysfunction(lvef), sight.dysfunction)
            seen += np.outer(load, sight.pressure)
            seen += rng.standard_normal(seen.shape) @ factor.T
            scores.append(ph_posterior(institution, seen, sight, ph))
        found[name] = _auroc(np.concatenate(scores), np.concatenate(labels))
    return found


def sight_of(modalities: Collection[str]) -> Sight:
    """What an observer of these modalities sees, in the order of MODALITIES."""
    unknown = set(modalities) - set(MODALITIES)
    if unknown or not modalities:
        raise ValueError(f"modalities are some of {MODALITIES}, not {sorted(modalities)}")
    parts = []
    if "ecg" in modalities:
        parts.append(_ECG)
    if "cxr" in modalities:
        parts.append(_sight_of_findings(list(patients.FILM.values())))
    if "bnp" in modalities:
        parts.append(_sight_of_findings([patients.LOG_BNP]))
    return Sight(
        np.concatenate([part.dysfunction for part in parts]),
        np.concatenate([part.pressure for part in parts]),
        block_diag(*(part.covariance for part in parts)),
    )


_ECG = Sight(patients.DYSFUNCTION_EFFECT, patients.PRESSURE_EFFECT, patients.RESIDUAL_COVARIANCE)


def _sight_of_findings(findings: list[patients.Finding]) -> Sight:
    return Sight(
        np.array([finding.dysfunction for finding in findings]),
        np.array([finding.pressure for finding in findings]),
        np.diag([finding.deviation**2 for finding in findings]),
    )


def _chunks(exams: int) -> list[int]:
    return [min(_CHUNK, exams - start) for start in range(0, exams, _CHUNK)]


def _rule(ph: Mapping[str, float]) -> dict[str, float]:
    return {name: ph[name] for name in ("pasp_at_least_mmhg", "tr_velocity_above_m_s")}


def _auroc(score: Array, label: NDArray[np.bool_]) -> float:
    positive, negative = score[label], np.sort(score[~label])
    if not positive.size or not negative.size:
        return float("nan")
    below = np.searchsorted(negative, positive, "left")
    tied = np.searchsorted(negative, positive, "right") - below
    return float((below + 0.5 * tied).mean() / len(negative))


def posterior(institution: Institution, latents: Array, threshold: float) -> Array:
    """P(measured LVEF < threshold | latents) [n] for latents [n, latent] before age and sex."""
    lvef = np.arange(-15.0, 105.0)
    below: Array = _weights(institution, lvef, latents, _ECG) @ patients.measured_below(
        lvef, threshold
    )
    return below


def expected_errors(institution: Institution, latents: Array) -> Array:
    """The expected absolute error [n] of the posterior median of a measured LVEF, for latents
    [n, latent] before age and sex.
    """
    lvef = np.arange(-15.0, 105.0)
    low, high = patients.MEASURED_LVEF
    at_most = np.array([patients.measured_below(lvef, v + 1) for v in range(low, high)])
    distribution = _weights(institution, lvef, latents, _ECG) @ at_most.T
    errors: Array = np.minimum(distribution, 1 - distribution).sum(axis=1)
    return errors


def ph_posterior(
    institution: Institution, seen: Array, sight: Sight, ph: Mapping[str, float]
) -> Array:
    """P(an echo reports PH | seen) [n] for what is seen [n, quantity], less age's and sex's part.

    Exact to about 1e-4.
    """
    lvef = np.arange(-15.0, 105.0, 2.0)
    disease = patients.dysfunction(lvef)
    prior_load = patients.pressure_shift(institution) + patients.PRESSURE_PER_DYSFUNCTION * disease
    # The load given LVEF has variance 1, before anything is seen.
    gain = np.linalg.solve(sight.covariance, sight.pressure)
    variance = 1 / (1 + sight.pressure @ gain)
    load = variance * (
        (seen @ gain)[:, None] + prior_load - disease * float(sight.dysfunction @ gain)
    )
    grid = np.linspace(load.min(), load.max(), 400)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    at_grid = patients.reported_ph(grid[:, None] + np.sqrt(variance) * nodes, **_rule(ph))
    at_load = np.interp(load, grid, at_grid @ weights / weights.sum())
    probability: Array = (_weights(institution, lvef, seen, sight) * at_load).sum(axis=1)
    return probability


def _weights(institution: Institution, lvef: Array, seen: Array, sight: Sight) -> Array:
    """P(LVEF | seen) [n, lvef] on an even grid of LVEF."""
    reduced = patients.reduced_share(institution)
    deviation = (lvef[:, None] - patients.LVEF_MEAN) / patients.LVEF_SD
    prior = (np.exp(-0.5 * deviation**2) / patients.LVEF_SD) @ [1 - reduced, reduced]
    disease = patients.dysfunction(lvef)
    load = patients.pressure_shift(institution) + patients.PRESSURE_PER_DYSFUNCTION * disease
    mean = np.outer(disease, sight.dysfunction) + np.outer(load, sight.pressure)
    covariance = sight.covariance + np.outer(sight.pressure, sight.pressure)
    whiten = np.linalg.inv(np.linalg.cholesky(covariance)).T
    white, expected = seen @ whiten, mean @ whiten
    # The square of `white` is the same for every LVEF and drops out of the ratio.
    log_weight = white @ expected.T - 0.5 * (expected**2).sum(axis=1) + np.log(prior)
    weight: Array = np.exp(log_weight - log_weight.max(axis=1, keepdims=True))
    weight /= weight.sum(axis=1, keepdims=True)
    return weight
