"""The ceilings for pulmonary hypertension and LVEF; those for LVSD are tested with the patients."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import roc_auc_score

from datamodules.simulation import lvef_ceiling, patients, ph_ceiling
from datamodules.simulation.ceiling import MODALITIES, expected_errors, ph_posterior, sight_of
from datamodules.simulation.institutions import read_institutions

PH = {"pasp_at_least_mmhg": 45, "tr_velocity_above_m_s": 2.8, "echo_within_days": 90}
RULE = {key: PH[key] for key in ("pasp_at_least_mmhg", "tr_velocity_above_m_s")}
SUBSETS = [subset for size in (1, 2, 3) for subset in combinations(MODALITIES, size)]


@pytest.fixture
def settings(ph_institutions):
    return read_institutions(ph_institutions)["thistlemere"]


def simulated(settings, n, seed=0):
    """What is seen of n exams with all modalities, and whether an echo reports PH."""
    rng = np.random.default_rng(seed)
    lvef, load, _ = patients.draw_states(rng, settings, n)
    sight = sight_of(MODALITIES)
    seen = np.outer(patients.dysfunction(lvef), sight.dysfunction) + np.outer(load, sight.pressure)
    seen += rng.multivariate_normal(np.zeros(len(sight.pressure)), sight.covariance, n)
    return seen, rng.random(n) < patients.reported_ph(load, **RULE)


@pytest.mark.parametrize("rule", [RULE, {"pasp_at_least_mmhg": 36, "tr_velocity_above_m_s": 3.4}])
def test_reported_ph_is_how_often_the_echo_reports_it(rule):
    rng = np.random.default_rng(0)
    for load in (-1.0, 0.4, 0.9, 1.6, 3.0):
        echos = [patients._tricuspid_jet(load, *rng.standard_normal(2)) for _ in range(6000)]
        reported = np.mean(
            [
                pasp >= rule["pasp_at_least_mmhg"] or velocity > rule["tr_velocity_above_m_s"]
                for velocity, pasp in echos
            ]
        )
        expected = float(patients.reported_ph(np.array(load), **rule))
        error = np.sqrt(max(expected * (1 - expected), 1e-4) / len(echos))
        assert reported == pytest.approx(expected, abs=4 * error)


@pytest.mark.parametrize("modalities", [("ecg",), ("bnp",), MODALITIES])
def test_posterior_is_the_integral_over_lvef_and_pressure(settings, modalities):
    """The same probability by brute force on a grid of both hidden quantities."""
    sight = sight_of(modalities)
    rng = np.random.default_rng(3)
    lvef, load, _ = patients.draw_states(rng, settings, 12)
    seen = np.outer(patients.dysfunction(lvef), sight.dysfunction) + np.outer(load, sight.pressure)
    seen += rng.multivariate_normal(np.zeros(len(sight.pressure)), sight.covariance, 12)

    lvef, step = np.arange(0.0, 90.0), np.arange(-5.0, 5.01, 0.05)
    reduced = patients.reduced_share(settings)
    prior = norm.pdf(lvef[:, None], patients.LVEF_MEAN, patients.LVEF_SD) @ [1 - reduced, reduced]
    disease = patients.dysfunction(lvef)
    load = (
        patients.pressure_shift(settings)
        + patients.PRESSURE_PER_DYSFUNCTION * disease[:, None]
        + step
    )
    mean = disease[:, None, None] * sight.dysfunction + load[:, :, None] * sight.pressure
    weight = prior[:, None] * norm.pdf(step)
    label = patients.reported_ph(load, **RULE)
    for z, found in zip(seen, ph_posterior(settings, seen, sight, PH), strict=True):
        joint = weight * multivariate_normal.pdf(z - mean, cov=sight.covariance)
        assert found == pytest.approx((joint * label).sum() / joint.sum(), abs=2e-4)


def test_each_modality_carries_a_part_and_fusion_gains(ph_institutions):
    found = {
        subset: ph_ceiling(ph_institutions, seed=0, ph=PH, modalities=subset, exams=10_000)
        for subset in SUBSETS
    }
    for name in ph_institutions:
        of = {subset: values[name] for subset, values in found.items()}
        assert 0.81 < of["ecg",] < 0.87
        assert 0.82 < of["cxr",] < 0.88
        assert 0.73 < of["bnp",] < 0.81
        for subset in SUBSETS:
            for smaller in SUBSETS:
                if set(smaller) < set(subset):
                    assert of[smaller] < of[subset], (name, smaller, subset)
        assert max(of[subset] for subset in SUBSETS[:3]) + 0.025 < of[MODALITIES] < 0.93
    again = ph_ceiling(ph_institutions, seed=0, ph=PH, modalities=("cxr",), exams=10_000)
    assert again == found["cxr",]


def test_a_trained_classifier_comes_close_to_the_ceiling_but_not_above(ph_institutions, settings):
    seen, label = simulated(settings, 50_000)
    train, test = slice(0, 30_000), slice(30_000, None)
    ideal = roc_auc_score(label[test], ph_posterior(settings, seen[test], sight_of(MODALITIES), PH))
    model = HistGradientBoostingClassifier(max_iter=80, random_state=0)
    model.fit(seen[train], label[train])
    trained = roc_auc_score(label[test], model.predict_proba(seen[test])[:, 1])
    reported = ph_ceiling(
        {"thistlemere": ph_institutions["thistlemere"]}, seed=0, ph=PH, modalities=MODALITIES
    )
    # Four standard errors of an AUROC at about 5,000 positives are 0.01.
    assert ideal == pytest.approx(reported["thistlemere"], abs=0.01)
    assert ideal - 0.02 < trained < ideal


def test_the_ceiling_is_that_of_the_patients_who_are_written(ph_institutions, settings):
    """What the observer sees, taken from drawn exams: their own latents, findings and BNP."""
    complete = replace(
        settings,
        echo_fraction=1.0,
        tr_missing_fraction=0.0,
        bnp_missing_fraction=0.0,
        cxr_missing_fraction=0.0,
    )
    rng = np.random.default_rng(5)
    exams = [patients.draw_patient(rng, complete, 1)[0] for _ in range(4000)]
    decades = np.array([(exam.age_years - 60) / 10 for exam in exams])
    male = np.array([exam.male for exam in exams])
    latents = np.array([exam.latents for exam in exams])
    latents -= np.outer(decades, patients.AGE_EFFECT) + np.outer(male, patients.MALE_EFFECT)
    findings = [*patients.FILM.values(), patients.LOG_BNP]
    others = np.array([[*exam.cxr, np.log(exam.bnp_pg_ml)] for exam in exams])
    others -= [finding.mean for finding in findings]
    others -= np.outer(decades, [finding.age for finding in findings])
    score = ph_posterior(settings, np.column_stack([latents, others]), sight_of(MODALITIES), PH)
    label = np.array([exam.pasp_mmhg >= 45 or exam.tr_velocity_m_s > 2.8 for exam in exams])
    assert score.mean() == pytest.approx(label.mean(), abs=0.03)  # calibrated
    reported = ph_ceiling(
        {"thistlemere": ph_institutions["thistlemere"]}, seed=0, ph=PH, modalities=MODALITIES
    )
    assert roc_auc_score(label, score) == pytest.approx(reported["thistlemere"], abs=0.025)


def test_ph_is_as_prevalent_as_in_an_echo_laboratory(ph_institutions):
    for settings in read_institutions(ph_institutions).values():
        _, load, _ = patients.draw_states(np.random.default_rng(0), settings, 20_000)
        assert 0.24 < patients.reported_ph(load, **RULE).mean() < 0.35


def test_a_rule_that_nobody_meets_has_no_ceiling(ph_institutions):
    found = ph_ceiling(
        {"thistlemere": ph_institutions["thistlemere"]},
        seed=0,
        ph={"pasp_at_least_mmhg": 1e6, "tr_velocity_above_m_s": 1e6},
        modalities=("bnp",),
        exams=100,
    )
    assert np.isnan(found["thistlemere"])


@pytest.mark.parametrize("modalities", [(), ("mri",), ("ecg", "echo")])
def test_unknown_modalities_are_refused(ph_institutions, modalities):
    with pytest.raises(ValueError, match="modalities are some of"):
        ph_ceiling(ph_institutions, seed=0, ph=PH, modalities=modalities)


def test_the_error_expected_of_lvef_is_that_of_drawn_exams_with_such_latents(settings):
    """Brute force: LVEF and load are drawn, weighed by the latents' density, and the weighted
    median's error is counted.
    """
    rng = np.random.default_rng(1)
    _, _, latents = patients.draw_states(rng, settings, 8)
    lvef, load, _ = patients.draw_states(rng, settings, 400_000)
    noise = patients.ECHO_NOISE_LVEF * rng.standard_normal(lvef.size)
    measured = np.clip(np.rint(lvef + noise), 10, 80)
    order = np.argsort(measured)
    mean = np.outer(patients.dysfunction(lvef), patients.DYSFUNCTION_EFFECT)
    mean += np.outer(load, patients.PRESSURE_EFFECT)
    for z, found in zip(latents, expected_errors(settings, latents), strict=True):
        log_weight = multivariate_normal.logpdf(z - mean, cov=patients.RESIDUAL_COVARIANCE)
        weight = np.exp(log_weight - log_weight.max())
        weight /= weight.sum()
        median = measured[order][np.searchsorted(weight[order].cumsum(), 0.5)]
        effective = 1 / (weight**2).sum()
        error = (weight * np.abs(measured - median)).sum()
        assert found == pytest.approx(error, abs=20 / np.sqrt(effective))


def test_a_trained_regression_comes_close_to_the_least_error_but_not_below(
    ph_institutions, settings
):
    rng = np.random.default_rng(2)
    lvef, _, latents = patients.draw_states(rng, settings, 40_000)
    noise = patients.ECHO_NOISE_LVEF * rng.standard_normal(lvef.size)
    measured = np.clip(np.rint(lvef + noise), 10, 80)
    model = HistGradientBoostingRegressor(loss="absolute_error", max_iter=80, random_state=0)
    model.fit(latents[:25_000], measured[:25_000])
    trained = np.abs(model.predict(latents[25_000:]) - measured[25_000:]).mean()
    only = {"thistlemere": ph_institutions["thistlemere"]}
    least = lvef_ceiling(only, seed=0)["thistlemere"]
    assert least == lvef_ceiling(only, seed=0)["thistlemere"]
    assert patients.ECHO_NOISE_LVEF * np.sqrt(2 / np.pi) < least  # no observer sees through noise
    # Four standard errors of a mean absolute error of 15,000 exams are 0.15.
    assert least - 0.15 < trained < least + 0.4
