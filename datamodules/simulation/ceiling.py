"""The AUROC that an ideal observer of the simulated ECGs' latents reaches."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import logsumexp

from datamodules.simulation import patients
from datamodules.simulation.institutions import Institution, generator, read_institutions
from datamodules.simulation.patients import Array


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
    return {
        name: _auroc(institution, generator(seed, name), lvef_below_percent, exams)
        for name, institution in read_institutions(institutions).items()
    }


def _auroc(
    institution: Institution, rng: np.random.Generator, threshold: float, exams: int
) -> float:
    scores, labels = [], []
    for start in range(0, exams, 5_000):
        lvef, _, latents = patients.draw_states(rng, institution, min(5_000, exams - start))
        noise = patients.ECHO_NOISE_LVEF * rng.standard_normal(len(lvef))
        labels.append(np.clip(np.rint(lvef + noise), 10, 80) < threshold)
        scores.append(posterior(institution, latents, threshold))
    label, score = np.concatenate(labels), np.concatenate(scores)
    positive, negative = score[label], np.sort(score[~label])
    if not positive.size or not negative.size:
        return float("nan")
    below = np.searchsorted(negative, positive, "left")
    tied = np.searchsorted(negative, positive, "right") - below
    return float((below + 0.5 * tied).mean() / len(negative))


def posterior(institution: Institution, latents: Array, threshold: float) -> Array:
    """P(measured LVEF < threshold | latents) [n] for latents [n, latent] before age and sex."""
    lvef = np.arange(-15.0, 105.0)
    reduced = patients.reduced_share(institution)
    deviation = (lvef[:, None] - patients.LVEF_MEAN) / patients.LVEF_SD
    prior = (np.exp(-0.5 * deviation**2) / patients.LVEF_SD) @ [1 - reduced, reduced]
    disease = patients.dysfunction(lvef)
    load = patients.pressure_shift(institution) + patients.PRESSURE_PER_DYSFUNCTION * disease
    mean = np.outer(disease, patients.DYSFUNCTION_EFFECT) + np.outer(load, patients.PRESSURE_EFFECT)
    covariance = patients.RESIDUAL_COVARIANCE + np.outer(
        patients.PRESSURE_EFFECT, patients.PRESSURE_EFFECT
    )
    whiten = np.linalg.inv(np.linalg.cholesky(covariance)).T
    seen, expected = latents @ whiten, mean @ whiten
    # The square of `seen` is the same for every LVEF and drops out of the ratio.
    log_weight = seen @ expected.T - 0.5 * (expected**2).sum(axis=1) + np.log(prior)
    log_weight -= logsumexp(log_weight, axis=1, keepdims=True)
    return np.exp(log_weight) @ patients.measured_below(lvef, threshold)
