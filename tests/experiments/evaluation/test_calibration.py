"""Calibration against scikit-learn, statsmodels, definitions and a literal bootstrap."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss
from statsmodels.stats.proportion import proportion_confint

from experiments.evaluation.auroc import CLUSTERED, NOT_ESTIMABLE
from experiments.evaluation.calibration import (
    BOOTSTRAP,
    COLUMNS,
    DECOMPOSITION,
    STATISTICS,
    calibration_table,
    logistic_calibration,
    murphy,
    quantile_bins,
    recalibrated,
    reliability_curves,
)
from lightning_modules.tasks.decision import METHODS

SETTINGS = {"confidence": 0.95, "resamples": 400, "seed": 0}


def simulated(n, seed, *, slope=1.0, intercept=0.0):
    """Targets of the true probability, and probabilities whose calibration has this slope."""
    generator = np.random.default_rng(seed)
    x = generator.normal(-1, 1.5, n)
    target = (generator.random(n) < expit(intercept + slope * x)).astype(int)
    return target, expit(x)


def exams(target, probability, split="external", institution="a", patient=None):
    n = len(target)
    return pd.DataFrame(
        {
            "model": "mae", "institution": institution, "split": split,
            "patient_id": np.arange(n) if patient is None else patient,
            "exam_id": [f"{split}{number}" for number in range(n)],
            "target": target, "logit": logit(np.clip(probability, 1e-9, 1 - 1e-9)),
            "probability": probability,
        }
    )  # fmt: skip


def uncalibrated_study():
    parts = [
        exams(*simulated(3000, 1, slope=0.5, intercept=-1), "val", "home"),
        exams(*simulated(500, 2, slope=0.5, intercept=-1), "test", "home"),
        exams(*simulated(4000, 3, slope=0.5, intercept=-1), "external", "north"),
        exams(*simulated(1000, 4, slope=0.5, intercept=-1), "external", "south"),
    ]
    return pd.concat(parts, ignore_index=True)


def test_slope_and_intercept_are_statsmodels():
    target, probability = simulated(800, 0, slope=0.7, intercept=0.4)
    (slope, slope_error), (intercept, intercept_error) = logistic_calibration(target, probability)
    x = logit(probability)
    theirs = sm.Logit(target, sm.add_constant(x)).fit(disp=0)
    assert (slope, slope_error) == pytest.approx((theirs.params[1], theirs.bse[1]), rel=1e-6)
    large = sm.GLM(target, np.ones(800), family=sm.families.Binomial(), offset=x).fit()
    assert (intercept, intercept_error) == pytest.approx((large.params[0], large.bse[0]), rel=1e-6)


def test_slope_needs_overlap_and_intercept_both_classes():
    separated = logistic_calibration([0, 0, 1, 1], [0.1, 0.2, 0.2, 0.3])
    assert np.isnan(separated[0]).all()
    assert np.isfinite(separated[1]).all()
    alike = logistic_calibration([0, 1, 0, 1], [0.2] * 4)
    assert np.isnan(alike[0]).all()
    assert alike[1][0] == pytest.approx(logit(0.5) - logit(0.2))
    assert np.isnan(logistic_calibration([0, 0], [0.1, 0.2])).all()


@pytest.mark.parametrize("certain", [0.0, 1.0, 1e-8])
def test_logits_that_are_the_clips_choice_give_no_slope(certain):
    target, probability = simulated(400, 9)
    probability[:4] = certain
    assert np.isfinite(logistic_calibration(target, probability)).all()
    probability[:5] = certain
    assert np.isnan(logistic_calibration(target, probability)).all()


@pytest.mark.parametrize("exams_a_patient", [1, 2])
def test_certain_probabilities_leave_the_other_statistics(exams_a_patient):
    target, probability = simulated(400, 9)
    probability = np.where(probability < 0.05, 0.0, probability)
    predictions = exams(target, probability, patient=np.arange(400) // exams_a_patient)
    row = calibration_table(predictions, **SETTINGS).iloc[0]
    for name in STATISTICS:
        figures = row[[name, f"{name}_low", f"{name}_high"]].astype(float)
        if name in ("slope", "intercept"):
            assert figures.isna().all()
        else:
            assert np.isfinite(figures).all()


def test_the_parts_of_the_brier_score_add_up():
    target, probability = simulated(500, 5)
    bins = quantile_bins(probability)
    parts = murphy(target, probability, bins)
    total = parts["reliability"] - parts["resolution"] + parts["uncertainty"] + parts["within_bin"]
    assert total == pytest.approx(brier_score_loss(target, probability))
    # of probabilities that are alike within bins nothing is left over
    rounded = probability.round(1)
    parts = murphy(target, rounded, (rounded * 10).round().astype(int))
    assert parts["within_bin"] == pytest.approx(0, abs=1e-15)
    by_value = pd.DataFrame({"p": rounded, "y": target}).groupby("p")["y"].agg(["mean", "size"])
    reliability = ((by_value["mean"] - by_value.index) ** 2 * by_value["size"]).sum() / 500
    assert parts["reliability"] == pytest.approx(reliability)


def test_bins_are_quantiles_and_ties_stay_together():
    bins = quantile_bins(np.arange(100) / 100)
    np.testing.assert_array_equal(bins, np.arange(100) // 10)
    tied = quantile_bins(np.repeat([0.0, 0.5, 1.0], [90, 5, 5]))
    assert list(np.bincount(tied)) == [90, 10]
    assert list(quantile_bins([0.3, 0.3])) == [0, 0]


def test_the_table_of_independent_exams():
    target, probability = simulated(600, 6)
    table = calibration_table(exams(target, probability), **SETTINGS)
    assert tuple(table.columns) == COLUMNS
    assert list(table["recalibration"]) == list(METHODS)
    row = table.iloc[0]
    assert row["method"] == BOOTSTRAP
    brier = brier_score_loss(target, probability)
    assert row["brier"] == pytest.approx(brier)
    error = ((probability - target) ** 2).std() / np.sqrt(600)
    assert row["brier_low"] == pytest.approx(brier - 1.96 * error, abs=0.15 * error)
    assert row["brier_high"] == pytest.approx(brier + 1.96 * error, abs=0.3 * error)
    prevalence = target.mean()
    assert row["scaled_brier"] == pytest.approx(1 - brier / (prevalence * (1 - prevalence)))
    (slope, error), _ = logistic_calibration(target, probability)
    assert (row["slope"], row["slope_high"]) == pytest.approx((slope, slope + 1.959964 * error))
    assert row["observed_expected"] == pytest.approx(target.sum() / probability.sum())
    # Debray et al., BMJ 2017;356:i6460, appendix: var(ln O:E) = (1 - prevalence) / observed
    deviation = np.log(row["observed_expected_high"] / row["observed_expected"]) / 1.959964
    assert deviation**2 == pytest.approx((1 - prevalence) / target.sum())
    frame = pd.DataFrame({"bin": pd.qcut(probability, 10), "gap": target - probability})
    ece = frame.groupby("bin", observed=True)["gap"].sum().abs().sum() / 600
    assert row["ece"] == pytest.approx(ece)
    for name in STATISTICS:
        assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
    # no validation exams: nothing to fit a recalibration on
    assert list(table["method"][1:]) == [NOT_ESTIMABLE] * 2
    assert table.loc[1:, ["brier", "slope_low", *DECOMPOSITION]].isna().all(axis=None)


def test_clustered_intervals_are_a_literal_bootstraps():
    """Every statistic computed anew on whole patients drawn, logistic regressions refitted."""
    generator = np.random.default_rng(7)
    patient = np.repeat(np.arange(250), 2)
    shared = generator.normal(-0.5, 1.2, 250)[patient]
    x = shared + 0.3 * generator.normal(size=500)
    target = (expit(0.8 * shared) > generator.random(250)[patient]).astype(int)
    predictions = exams(target, expit(x), patient=patient)
    row = calibration_table(predictions, **SETTINGS | {"resamples": 4000}).iloc[0]
    assert row["method"] == CLUSTERED
    literal = []
    for _ in range(500):
        drawn = generator.integers(250, size=250)
        rows = np.concatenate([2 * drawn, 2 * drawn + 1])
        y, p = target[rows], expit(x)[rows]
        (slope, _), (intercept, _) = logistic_calibration(y, p)
        brier, prevalence = ((p - y) ** 2).mean(), y.mean()
        scaled = 1 - brier / (prevalence * (1 - prevalence))
        literal.append((brier, scaled, slope, intercept, y.sum() / p.sum()))
    bounds = np.quantile(literal, [0.025, 0.975], axis=0).T
    names = ("brier", "scaled_brier", "slope", "intercept", "observed_expected")
    for name, (low, high) in zip(names, bounds, strict=True):
        ours = (row[f"{name}_low"], row[f"{name}_high"])
        assert ours == pytest.approx((low, high), abs=0.12 * (high - low)), name


def test_recalibration_is_scikit_learns_on_validation_exams():
    predictions = uncalibrated_study()
    tables = recalibrated(predictions)
    assert list(tables) == list(METHODS)
    assert tables["none"] is predictions
    validation = predictions[predictions["split"] == "val"]
    x = logit(predictions["probability"].to_numpy())
    on_logit = LogisticRegression(C=np.inf, tol=1e-10).fit(
        logit(validation["probability"].to_numpy())[:, None], validation["target"]
    )
    expected = on_logit.predict_proba(x[:, None])[:, 1]
    np.testing.assert_allclose(tables["platt"]["probability"], expected, atol=1e-5)
    isotonic = IsotonicRegression(out_of_bounds="clip").fit(
        validation["probability"], validation["target"]
    )
    expected = isotonic.predict(predictions["probability"])
    np.testing.assert_allclose(tables["isotonic"]["probability"], expected, atol=1e-9)
    for method in ("platt", "isotonic"):
        np.testing.assert_allclose(
            expit(tables[method]["logit"]), tables[method]["probability"], atol=2e-7
        )
    only_external = predictions[predictions["split"] == "external"]
    assert recalibrated(only_external)["platt"].empty


def test_recalibration_repairs_what_development_data_shows():
    table = calibration_table(uncalibrated_study(), **SETTINGS)
    assert list(table["institution"].unique()) == ["home", "north", "south", "all-external"]
    pooled = table[table["institution"] == "all-external"].set_index("recalibration")
    assert pooled.at["none", "slope_high"] < 0.7
    assert pooled.at["none", "intercept_high"] < 0
    assert pooled.at["none", "observed_expected_high"] < 1
    for method in ("platt", "isotonic"):
        row = pooled.loc[method]
        assert row["slope_low"] < 1.05
        assert row["slope_high"] > 0.95
        assert row["brier_high"] < pooled.at["none", "brier"]
        assert row["ece"] < pooled.at["none", "ece"] / 3
        assert row["observed_expected"] == pytest.approx(1, abs=0.1)


def test_a_missing_class_is_not_estimable():
    few = calibration_table(exams([0, 0, 0, 1], [0.1, 0.2, 0.3, 0.4]), **SETTINGS)
    assert list(few["method"]) == [NOT_ESTIMABLE] * 3
    assert few["brier"].isna().all()


@pytest.mark.parametrize("exams_a_patient", [1, 2])
def test_reliability_curves(exams_a_patient):
    target, probability = simulated(500, 8)
    target, probability = (values.repeat(exams_a_patient) for values in (target, probability))
    patient = np.arange(500).repeat(exams_a_patient)
    curve = reliability_curves(
        exams(target, probability, patient=patient), **SETTINGS | {"resamples": 2000}, bins=5
    )
    assert list(curve["bin"]) == [0, 1, 2, 3, 4]
    assert list(curve["n"]) == [100 * exams_a_patient] * 5
    assert (curve["recalibration"] == "none").all()
    bins = pd.qcut(probability, 5)
    np.testing.assert_allclose(
        curve["predicted"], pd.Series(probability).groupby(bins, observed=True).mean()
    )
    np.testing.assert_allclose(
        curve["observed"], pd.Series(target).groupby(bins, observed=True).mean()
    )
    # exams of one patient add no certainty
    low, high = proportion_confint(
        curve["positives"] / exams_a_patient, np.full(5, 100), method="wilson"
    )
    tolerance = 1e-12 if exams_a_patient == 1 else 0.025
    np.testing.assert_allclose(curve["observed_low"], low, atol=tolerance)
    np.testing.assert_allclose(curve["observed_high"], high, atol=tolerance)


def test_a_bin_without_positives_is_not_certain():
    target = np.repeat([0, 1], [100, 100])
    curve = reliability_curves(
        exams(target, target * 0.8 + 0.1, patient=np.arange(200) // 2), **SETTINGS, bins=2
    )
    assert list(curve["observed"]) == [0, 1]
    low, high = proportion_confint([0, 50], [50, 50], method="wilson")
    np.testing.assert_allclose(curve["observed_low"], low, atol=1e-12)
    np.testing.assert_allclose(curve["observed_high"], high, atol=1e-12)


def test_intervals_cover_the_truth():
    """Of 200 simulated studies of calibrated predictions, about 95 % hold 1, 0 and 1."""
    true = {"slope": 1.0, "intercept": 0.0, "observed_expected": 1.0}
    covered = dict.fromkeys(true, 0)
    for seed in range(200):
        target, probability = simulated(300, seed)
        row = calibration_table(
            exams(target, probability), confidence=0.95, resamples=2, seed=0
        ).iloc[0]
        for name, value in true.items():
            covered[name] += row[f"{name}_low"] <= value <= row[f"{name}_high"]
    assert all(0.90 <= count / 200 <= 0.99 for count in covered.values()), covered


@pytest.mark.parametrize("slope", [1.0, 0.5])
def test_the_calibration_errors_interval_covers_the_truth(slope):
    """Also where it is 0, which the estimate itself never is."""
    generator = np.random.default_rng(0)
    x = generator.normal(-1, 1.5, 400_000)
    number = quantile_bins(expit(x))
    true = np.abs(np.bincount(number, weights=expit(slope * x) - expit(x))).sum() / x.size
    covered = 0
    for seed in range(150):
        predictions = exams(*simulated(400, seed, slope=slope))
        row = calibration_table(predictions, confidence=0.95, resamples=200, seed=0).iloc[0]
        covered += row["ece_low"] <= true <= row["ece_high"]
    assert covered / 150 > 0.9


@pytest.mark.parametrize(("centre", "spread"), [(-4.6, 0.1), (-0.85, 0.01), (3.0, 1e-9)])
def test_probabilities_that_hardly_differ(centre: float, spread: float) -> None:
    """A hardly trained model's: the slope is steep, or not to be had, and nothing breaks."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=400)
    target = rng.random(400) < expit(-1 + z)
    (slope, _), (intercept, _) = logistic_calibration(target, expit(centre + spread * z))
    assert intercept == pytest.approx(np.log(target.mean() / (1 - target.mean())) - centre, abs=0.2)
    if spread > 1e-3:
        model = LogisticRegression(C=np.inf, max_iter=1000).fit(z[:, None], target)
        assert slope == pytest.approx(model.coef_.item() / spread, rel=1e-3)
    else:
        assert np.isnan(slope)
