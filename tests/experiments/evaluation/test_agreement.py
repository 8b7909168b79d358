"""Agreement of estimates with what was measured: published data, statsmodels, scikit-learn."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats
from sklearn.metrics import mean_absolute_error, r2_score, roc_auc_score, root_mean_squared_error
from statsmodels.formula.api import ols
from statsmodels.stats.meta_analysis import combine_effects
from statsmodels.stats.oneway import anova_oneway
from statsmodels.stats.weightstats import DescrStatsW

from datamodules.errors import InputError
from experiments.evaluation.agreement import (
    CLOSED_FORM,
    COLUMNS,
    PAIRED_T,
    STATISTICS,
    agreement,
    binned_means,
    compare_errors,
    error_gaps,
    error_subgroups,
    estimates_json,
    pooled_errors,
    summarise_estimates,
    threshold_predictions,
)
from experiments.evaluation.auroc import CLUSTERED, NOT_ESTIMABLE
from experiments.evaluation.comparison import compare, holm
from experiments.evaluation.heterogeneity import pooled_aurocs
from experiments.evaluation.predictions import ALL_EXTERNAL
from experiments.evaluation.summary import summarise

SETTINGS = {"confidence": 0.95, "resamples": 400, "seed": 0}

# Peak expiratory flow, L/min, of 17 people: Bland & Altman, Lancet 1986;1:307, first readings.
WRIGHT = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
MINI = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]


def estimated(n=300, error=5.0, seed=0):
    """Truths alike for all seeds, and estimates with errors of their own."""
    truth = np.random.default_rng(99).normal(55, 12, n)
    noise = np.random.default_rng(seed).normal(size=n)
    return truth, 8 + 0.85 * truth + error * noise


def test_published_data_of_1986():
    found = agreement(MINI, WRIGHT, **SETTINGS)
    assert found["bias"] == pytest.approx(-2.1, abs=0.05)
    assert found["bias_low"] == pytest.approx(-22.0, abs=0.1)
    assert found["bias_high"] == pytest.approx(17.8, abs=0.1)
    # The paper takes 2 for 1.96, and the SD as 38.8: limits of -79.7 and 75.5.
    spread = (found["upper_limit"] - found["lower_limit"]) / 2
    assert spread / 1.96 == pytest.approx(38.8, abs=0.05)
    assert found["bias"] - 2 * spread / 1.96 == pytest.approx(-79.7, abs=0.1)
    assert found["bias"] + 2 * spread / 1.96 == pytest.approx(75.5, abs=0.1)
    assert found["method"] == CLOSED_FORM


def test_statistics_are_scikit_learns_and_statsmodels():
    truth, estimate = estimated()
    found = agreement(truth, estimate, **SETTINGS)
    assert found["mae"] == pytest.approx(mean_absolute_error(truth, estimate))
    assert found["rmse"] == pytest.approx(root_mean_squared_error(truth, estimate))
    assert found["r2"] == pytest.approx(r2_score(truth, estimate))
    low, high = DescrStatsW(estimate - truth).tconfint_mean(0.05)
    assert (found["bias_low"], found["bias_high"]) == pytest.approx((low, high))
    line = sm.OLS(truth, sm.add_constant(estimate)).fit(cov_type="HC3", use_t=True)
    assert [found["intercept"], found["slope"]] == pytest.approx(list(line.params))
    bounds = [
        [found[f"{name}_{end}"] for end in ("low", "high")] for name in ("intercept", "slope")
    ]
    assert np.array(bounds) == pytest.approx(line.conf_int())


def test_far_from_zero_nothing_is_lost():
    """Sums of squares of numbers near 1e6 would cancel; a shift changes the intercept alone."""
    truth, estimate = estimated()
    near, far = (
        agreement(truth, estimate, **SETTINGS),
        agreement(truth + 1e6, estimate + 1e6, **SETTINGS),
    )
    for name in STATISTICS[:-1]:
        for end in ("", "_low", "_high"):
            assert far[name + end] == pytest.approx(near[name + end], rel=1e-5), name + end
    shift = 1e6 * (1 - near["slope"])
    assert far["intercept"] == pytest.approx(near["intercept"] + shift)


def test_intervals_of_the_limits_of_normal_errors_are_the_exact_ones():
    """The exact interval of a normal's quantile is the noncentral t's (Carkeet, Optom Vis Sci
    2015;92:e71); the closed form comes within a few per cent of the standard deviation.
    """
    error = stats.norm.ppf((np.arange(60) + 0.5) / 60) * 6 + 2
    truth = np.linspace(30, 70, 60)
    found = agreement(truth, truth + error, **SETTINGS)
    n, s = error.size, error.std(ddof=1)
    far = stats.norm.ppf(0.975) * np.sqrt(n)
    exact = error.mean() + s / np.sqrt(n) * stats.nct.ppf([0.025, 0.975], n - 1, far)
    assert found["upper_limit_low"] == pytest.approx(exact[0], abs=0.03 * s)
    assert found["upper_limit_high"] == pytest.approx(exact[1], abs=0.03 * s)
    assert found["upper_limit"] == pytest.approx(error.mean() + 1.959964 * s)
    for one, other in (("low", "high"), ("high", "low")):  # symmetrical errors, mirrored limits
        mirrored = 2 * error.mean() - found[f"upper_limit_{other}"]
        assert found[f"lower_limit_{one}"] == pytest.approx(mirrored)


def clustered(patients=40, seed=0):
    rng = np.random.default_rng(seed)
    exams = rng.integers(1, 6, patients)
    patient = np.repeat(np.arange(patients), exams)
    truth = rng.normal(55, 12, patients)[patient] + rng.normal(0, 4, patient.size)
    error = 1.5 + rng.normal(0, 4, patients)[patient] + rng.normal(0, 5, patient.size)
    return truth, truth + error, patient


def test_clustered_limits_are_of_the_analysis_of_variance():
    truth, estimate, patient = clustered()
    found = agreement(truth, estimate, patient, **SETTINGS)
    table = pd.DataFrame({"error": estimate - truth, "patient": patient.astype(str)})
    squares = sm.stats.anova_lm(ols("error ~ patient", table).fit())["mean_sq"]
    counts = table.groupby("patient").size()
    n, m = counts.sum(), len(counts)
    per_patient = (n**2 - (counts**2).sum()) / ((m - 1) * n)  # Bland & Altman 2007
    between = (squares["patient"] - squares["Residual"]) / per_patient
    spread = stats.norm.ppf(0.975) * np.sqrt(between + squares["Residual"])
    bias = table["error"].mean()
    assert found["lower_limit"] == pytest.approx(bias - spread)
    assert found["upper_limit"] == pytest.approx(bias + spread)
    assert found["method"] == CLUSTERED


def test_patients_alike_within_widen_the_intervals_as_a_cluster_robust_variance_does():
    truth, estimate, patient = clustered(patients=150)
    found = agreement(truth, estimate, patient, **SETTINGS | {"resamples": 4000})
    errors = estimate - truth
    fit = {
        "bias": sm.OLS(errors, np.ones(errors.size)),
        "slope": sm.OLS(truth, sm.add_constant(estimate)),
    }
    for name, model in fit.items():
        robust = model.fit(cov_type="cluster", cov_kwds={"groups": patient}, use_t=True)
        half = (found[f"{name}_high"] - found[f"{name}_low"]) / 2
        wanted = robust.bse[-1] * stats.t.ppf(0.975, 149)
        assert half == pytest.approx(wanted, rel=0.06), name
    naive = agreement(truth, estimate, **SETTINGS)
    assert naive["bias_high"] - naive["bias_low"] < 0.8 * (found["bias_high"] - found["bias_low"])


def test_patients_are_drawn_within_strata():
    """Of two institutions that differ, only the spread within each is chance."""
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(60), 2)
    strata = (patient >= 30).astype(int)
    truth = rng.normal(55, 10, 120)
    estimate = truth + 20 * strata + rng.normal(size=120)
    within = agreement(truth, estimate, patient, strata=strata, **SETTINGS)
    across = agreement(truth, estimate, patient, **SETTINGS)
    assert within["bias_high"] - within["bias_low"] < 1
    assert across["bias_high"] - across["bias_low"] > 4


def test_what_is_perfect_constant_or_tiny_is_not_estimable():
    truth, estimate = estimated(40)
    perfect = agreement(truth, truth, **SETTINGS)
    assert (perfect["mae"], perfect["bias"], perfect["r2"]) == (0, 0, 1)
    assert perfect["slope"] == pytest.approx(1)
    assert all(np.isnan(perfect[f"{name}_low"]) for name in STATISTICS)
    constant = agreement(truth, np.full(40, 50.0), **SETTINGS)
    assert np.isnan([constant["slope"], constant["intercept"]]).all()
    assert constant["r2"] == pytest.approx(r2_score(truth, np.full(40, 50.0)))
    assert constant["mae_low"] < constant["mae"] < constant["mae_high"]
    same_truth = agreement(np.full(40, 55.0), estimate, **SETTINGS)
    assert np.isnan(same_truth["r2"])
    assert np.isfinite(same_truth["mae_high"])
    one = agreement(truth[:1], estimate[:1], **SETTINGS)
    assert one["method"] == NOT_ESTIMABLE
    assert all(np.isnan(one[name]) for name in STATISTICS)
    twice = agreement(truth[:2], estimate[:2], ["p", "p"], **SETTINGS)
    assert twice["method"] == NOT_ESTIMABLE
    two = agreement(truth[:2], estimate[:2], **SETTINGS)
    assert np.isfinite(two["mae"])
    assert np.isnan(two["slope"])


@pytest.mark.parametrize(
    ("truth", "estimate"), [([], []), ([1, 2], [1]), ([1, np.nan], [1, 2]), ([1, 2], [1, np.inf])]
)
def test_arrays_that_are_none_are_refused(truth, estimate):
    with pytest.raises(ValueError, match="truth"):
        agreement(truth, estimate, **SETTINGS)


def predictions(model="cnn", error=5.0, seed=0, repeated=False):
    """A development and three external institutions, one exam a patient or two."""
    rows = []
    sites = (("home", 80), ("north", 150), ("south", 100), ("west", 60))
    for number, (name, n) in enumerate(sites):
        split = "test" if name == "home" else "external"
        truth, estimate = estimated(n, error, seed * 10 + number)
        patient = np.arange(n) // 2 if repeated else np.arange(n)
        rows.append(
            pd.DataFrame(
                {
                    "model": model, "label": "lvef_percent", "institution": name, "split": split,
                    "patient_id": patient.astype(str), "exam_id": np.arange(n).astype(str),
                    "truth": truth, "estimate": estimate + number,
                }
            )
        )  # fmt: skip
    return pd.concat(rows, ignore_index=True)


def test_summary_has_a_row_an_institution_and_all_external_ones_together():
    table = predictions(repeated=True)
    summary = summarise_estimates(table, **SETTINGS)
    assert tuple(summary.columns) == COLUMNS
    assert list(summary["institution"]) == ["home", "north", "south", "west", ALL_EXTERNAL]
    assert list(summary["patients"]) == [40, 75, 50, 30, 155]
    external = table[table["split"] == "external"]
    alone = agreement(
        external["truth"], external["estimate"], external["patient_id"],
        strata=external["institution"], **SETTINGS,
    )  # fmt: skip
    row = summary.iloc[-1]
    assert {name: row[name] for name in alone} == pytest.approx(alone)
    assert estimates_json(summary)[0]["mae"] == summary["mae"][0]
    assert "method" not in estimates_json(summary)[0]


def test_random_effects_are_statsmodels_on_the_log_scale():
    summary = summarise_estimates(predictions(), **SETTINGS)
    external = summary[summary["role"] == "external"]
    quantile = stats.t.ppf(0.975, external["patients"] - 1)
    errors = np.log(external["mae_high"] / external["mae_low"]) / (2 * quantile)
    pooled = pooled_errors(summary, "mae", confidence=0.95).iloc[0]
    wanted = combine_effects(
        np.log(external["mae"].to_numpy()), errors.to_numpy() ** 2, method_re="iterated", use_t=True
    )
    assert np.log(pooled["mae"]) == pytest.approx(wanted.mean_effect_re, abs=1e-6)
    assert pooled["tau_squared"] == pytest.approx(max(wanted.tau2, 0), abs=1e-6)
    assert (pooled["institutions"], pooled["left_out"]) == (3, "")
    of_bias = pooled_errors(summary, "bias", confidence=0.95).iloc[0]
    assert of_bias["predicted_low"] < of_bias["bias_low"] < of_bias["bias"]


def test_an_institution_without_an_interval_is_in_no_mean():
    table = predictions()
    perfect = table["institution"] == "west"
    table.loc[perfect, "estimate"] = table.loc[perfect, "truth"]
    pooled = pooled_errors(summarise_estimates(table, **SETTINGS), "mae", confidence=0.95).iloc[0]
    assert (pooled["institutions"], pooled["left_out"]) == (2, "west")


def test_paired_comparison_is_the_paired_t_test():
    one, other = predictions("cnn", 5.0, 0), predictions("vit", 4.0, 3)
    compared = compare_errors(pd.concat([one, other.iloc[:-10]]), **SETTINGS)
    assert list(compared["institution"]) == ["home", "north", "south", "west", ALL_EXTERNAL]
    errors = [
        (table["estimate"] - table["truth"]).abs()[table["institution"] == "north"]
        for table in (one, other)
    ]
    wanted = stats.ttest_rel(*errors)
    row = compared.set_index("institution").loc["north"]
    assert row["t"] == pytest.approx(wanted.statistic)
    assert row["p"] == pytest.approx(wanted.pvalue)
    interval = wanted.confidence_interval()
    assert (row["difference_low"], row["difference_high"]) == pytest.approx(tuple(interval))
    assert (row["mae_a"], row["mae_b"]) == pytest.approx([each.mean() for each in errors])
    assert set(compared["method"]) == {PAIRED_T}
    west = compared.set_index("institution").loc["west"]
    assert (west["n"], west["left_out"]) == (50, 10)
    external = compared[compared["role"] == "external"]
    assert list(external["p_holm"]) == pytest.approx(list(holm(external["p"])))


def test_clustered_comparison_is_as_a_cluster_robust_test():
    one, other = (
        predictions("cnn", 5.0, 0, repeated=True),
        predictions("vit", 4.0, 3, repeated=True),
    )
    compared = compare_errors(pd.concat([one, other]), **SETTINGS | {"resamples": 4000})
    row = compared.set_index("institution").loc["north"]
    chosen = one["institution"] == "north"
    each = (one["estimate"] - one["truth"]).abs() - (other["estimate"] - other["truth"]).abs()
    fit = sm.OLS(each[chosen], np.ones(chosen.sum())).fit(
        cov_type="cluster", cov_kwds={"groups": one.loc[chosen, "patient_id"].astype(int)}
    )
    assert row["difference"] == pytest.approx(fit.params.iloc[0])
    assert row["t"] == pytest.approx(fit.tvalues.iloc[0], rel=0.06)
    assert row["method"] == CLUSTERED


def test_comparisons_that_tell_nothing():
    one = predictions("cnn")
    mirrored = one.assign(model="mirror", estimate=2 * one["truth"] - one["estimate"])
    shifted = one.assign(model="off", estimate=one["truth"] + 50.0)
    further = one.assign(model="further", estimate=one["truth"] + 60.0)
    same = compare_errors(pd.concat([one, mirrored]), **SETTINGS)
    assert (same["difference"].abs() < 1e-9).all()
    assert (same["p"] == 1).all()
    sure = compare_errors(pd.concat([shifted, further]), **SETTINGS)
    assert list(sure["difference"]) == pytest.approx([-10] * 5)
    assert sure["p"].isna().all()
    assert set(sure["method"]) == {NOT_ESTIMABLE}
    few = one.groupby("institution").head(4)
    tested = compare_errors(pd.concat([few, few.assign(model="b", estimate=0.0)]), **SETTINGS)
    assert tested["p"].notna().tolist() == [False] * 4 + [True]  # twelve together
    assert tested["difference"].notna().all()


def test_two_truths_for_one_exam_are_refused():
    other = predictions("vit")
    other.loc[100, "truth"] += 1
    with pytest.raises(InputError, match="truth: .* for model 'vit'"):
        compare_errors(pd.concat([predictions("cnn"), other]), **SETTINGS)


def test_thresholds_on_the_truth_are_judged_as_any_class():
    table = pd.concat([predictions("cnn", 5.0, 0), predictions("vit", 4.0, 3)])
    (name, of_threshold), (other, _) = threshold_predictions(table, [40, 52.5]).items()
    assert (name, other) == ("lvef_percent < 40", "lvef_percent < 52.5")
    assert set(of_threshold["label"]) == {name}
    summary = summarise(of_threshold, **SETTINGS)
    north = table[(table["institution"] == "north") & (table["model"] == "vit")]
    row = summary[(summary["institution"] == "north") & (summary["model"] == "vit")].iloc[0]
    assert row["auroc"] == pytest.approx(roc_auc_score(north["truth"] < 40, -north["estimate"]))
    assert row["positives"] == (north["truth"] < 40).sum()
    assert pooled_aurocs(summary, confidence=0.95)["institutions"].tolist() == [3, 3]
    assert len(compare(of_threshold, **SETTINGS)) == 5


def test_binned_means():
    truth, estimate = estimated(200)
    bins = binned_means(truth, estimate)
    assert list(bins["n"]) == [20] * 10
    order = np.argsort(estimate)
    assert bins["truth"][0] == pytest.approx(truth[order[:20]].mean())
    assert bins["estimate"][9] == pytest.approx(estimate[order[-20:]].mean())
    assert len(binned_means(truth, np.ones(200))) == 1


def test_subgroups_and_gaps():
    table = predictions(error=3.0)
    groups = table[["institution", "exam_id"]].copy()
    groups["sex"] = np.where(np.arange(len(groups)) % 2, "female", "male")
    table.loc[groups["sex"] == "female", "estimate"] += 9
    found = error_subgroups(table, groups, **SETTINGS).set_index("group")
    external = table[(table["split"] == "external") & (groups["sex"] == "female")]
    alone = agreement(external["truth"], external["estimate"], **SETTINGS)
    for name in ("mae", "mae_low", "mae_high", "bias", "bias_low", "bias_high"):
        assert found.loc["female", name] == pytest.approx(alone[name])
    gaps = error_gaps(found.reset_index(), confidence=0.95).set_index("statistic")
    assert set(gaps.index) == {"mae", "bias"}
    assert gaps.loc["bias", "gap"] == pytest.approx(
        found.loc["female", "bias"] - found.loc["male", "bias"]
    )
    assert gaps.loc["bias", "q_p"] < 1e-6


@pytest.mark.parametrize("groups", [2, 3])
def test_subgroups_of_few_patients_are_compared_by_welchs_test(groups):
    table = predictions().query("split == 'external'").iloc[:18].assign(institution="north")
    table["exam_id"] = table["patient_id"] = [f"e{i}" for i in range(18)]
    of = np.arange(18) % groups
    named = table[["institution", "exam_id"]].assign(group=of)
    gaps = error_gaps(error_subgroups(table, named, **SETTINGS), confidence=0.95)
    error = (table["estimate"] - table["truth"]).to_numpy()
    welch = anova_oneway(error, of, use_var="unequal")
    assert gaps.set_index("statistic").loc["bias", "q_p"] == pytest.approx(welch.pvalue, rel=1e-6)
