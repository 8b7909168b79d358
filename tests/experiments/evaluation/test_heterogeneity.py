"""Random-effects pooling against metafor's published example and statsmodels."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from scipy.stats import norm, t
from statsmodels.stats.meta_analysis import combine_effects

from experiments.evaluation.auroc import NOT_ESTIMABLE
from experiments.evaluation.heterogeneity import METHOD, pool, pooled_aurocs

# 13 trials of the BCG vaccine (Colditz et al., JAMA 1994;271:698), as dat.bcg of the R package
# metafor: vaccinated with and without tuberculosis, then controls
BCG = np.array(
    [
        (4, 119, 11, 128), (6, 300, 29, 274), (3, 228, 11, 209), (62, 13536, 248, 12619),
        (33, 5036, 47, 5761), (180, 1361, 372, 1079), (8, 2537, 10, 619), (505, 87886, 499, 87892),
        (29, 7470, 45, 7232), (17, 1699, 65, 1600), (186, 50448, 141, 27197), (5, 2493, 3, 2338),
        (27, 16886, 29, 17825),
    ]
)  # fmt: skip


def log_risk_ratios():
    a, b, c, d = BCG.T
    effects = np.log(a / (a + b)) - np.log(c / (c + d))
    return effects, np.sqrt(1 / a - 1 / (a + b) + 1 / c - 1 / (c + d))


def test_the_bcg_trials_are_as_published():
    """Viechtbauer, J Stat Softw 2010;36(3) and metafor's documentation of rma: Q(12) = 152.2330,
    I-squared by Q 92.12 %, tau-squared 0.3181 by Paule and Mandel's method, estimate -0.7150
    (standard error 0.1809).
    """
    pooled = pool(*log_risk_ratios(), confidence=0.95)
    assert pooled.k == 13
    assert pooled.q == pytest.approx(152.2330, abs=5e-5)
    assert pooled.q_p < 1e-4
    assert pooled.i_squared == pytest.approx(0.9212, abs=5e-5)
    assert pooled.tau_squared == pytest.approx(0.3181, abs=5e-5)
    assert pooled.estimate == pytest.approx(-0.7150, abs=5e-5)
    assert pooled.error == pytest.approx(0.1809, abs=5e-5)
    half = t.ppf(0.975, 12) * pooled.error
    assert (pooled.low, pooled.high) == pytest.approx(
        (pooled.estimate - half, pooled.estimate + half)
    )
    # Higgins et al. 2009, equation 12
    beyond = t.ppf(0.975, 11) * np.sqrt(pooled.tau_squared + pooled.error**2)
    assert pooled.predicted_high - pooled.estimate == pytest.approx(beyond)
    assert pooled.estimate - pooled.predicted_low == pytest.approx(beyond)


@pytest.mark.parametrize("seed", [0, 1, 2, 4])  # for 3 and 5 statsmodels finds no root
def test_pooling_is_statsmodels(seed):
    generator = np.random.default_rng(seed)
    k = 6
    errors = generator.uniform(0.1, 0.4, k)
    effects = generator.normal(1.5, 0.5, k) + errors * generator.normal(size=k)
    theirs = combine_effects(
        effects, errors**2, method_re="iterated", use_t=True, atol=1e-12, maxiter=1000
    )
    ours = pool(effects, errors, confidence=0.95)
    assert ours.q == pytest.approx(theirs.q)
    assert ours.q_p == pytest.approx(theirs.test_homogeneity().pvalue)
    assert ours.tau_squared == pytest.approx(theirs.tau2, abs=1e-7)
    assert ours.i_squared == pytest.approx(max(0, theirs.i2))
    assert ours.estimate == pytest.approx(theirs.mean_effect_re)
    if ours.tau_squared > 0:
        assert ours.error == pytest.approx(theirs.sd_eff_w_re_hksj, rel=1e-5)
        interval = theirs.conf_int(alpha=0.05)[3]  # random effects, Hartung-Knapp
        assert (ours.low, ours.high) == pytest.approx(interval, rel=1e-5)


def test_alike_studies_do_not_make_the_interval_narrower():
    errors = np.array([0.2, 0.3, 0.25])
    pooled = pool([1.0, 1.001, 0.999], errors, confidence=0.95)
    assert (pooled.tau_squared, pooled.i_squared) == (0, 0)
    assert pooled.error == pytest.approx((1 / errors**2).sum() ** -0.5)


def test_few_studies():
    one = pool([1.0], [0.2], confidence=0.95)
    assert (one.estimate, one.error, one.k) == (1.0, 0.2, 1)
    assert np.isnan([one.low, one.predicted_low, one.tau_squared, one.q]).all()
    two = pool([1.0, 2.0], [0.2, 0.2], confidence=0.95)
    assert two.low < 1.5 < two.high
    assert np.isnan([two.predicted_low, two.predicted_high]).all()
    for effects, errors in (([1.0, np.inf], [1, 1]), ([1, 2], [0, 1]), ([], []), ([1, 2], [1])):
        with pytest.raises(ValueError, match="errors"):
            pool(effects, errors, confidence=0.95)


def test_a_new_hospital_falls_into_the_prediction_interval():
    """Of simulated studies of seven hospitals, in 95 % the next one's true effect is inside."""
    generator = np.random.default_rng(0)
    inside, covered, studies = 0, 0, 1000
    for _ in range(studies):
        true = generator.normal(2.0, 0.4, 8)
        errors = generator.uniform(0.1, 0.3, 7)
        pooled = pool(true[:7] + errors * generator.normal(size=7), errors, confidence=0.95)
        inside += pooled.predicted_low < true[7] < pooled.predicted_high
        covered += pooled.low < 2.0 < pooled.high
    assert 0.93 < inside / studies < 0.98
    assert 0.93 < covered / studies < 0.98


def summary_row(institution, auroc, error=0.1, role="external", model="mae"):
    low, high = expit(logit(auroc) + norm.ppf([0.025, 0.975]) * error)
    return {
        "model": model, "institution": institution, "role": role, "auroc": auroc,
        "auroc_low": low, "auroc_high": high,
    }  # fmt: skip


def test_pooled_aurocs():
    aurocs, errors = [0.91, 0.85, 0.88], [0.1, 0.2, 0.15]
    rows = [
        summary_row(name, auroc, error)
        for name, auroc, error in zip("abc", aurocs, errors, strict=True)
    ]
    rows.append(summary_row("home", 0.99, role="development"))
    rows.append(summary_row("all-external", 0.9, role="pooled"))
    rows.append(summary_row("perfect", 1.0) | {"auroc_low": 0.8, "auroc_high": 1.0})
    rows.append(summary_row("small", np.nan))
    rows.append(summary_row("a", 0.7, model="alone"))
    table = pooled_aurocs(pd.DataFrame(rows), confidence=0.95).set_index("model")
    mae, expected = table.loc["mae"], pool(logit(aurocs), errors, confidence=0.95)
    assert (mae["institutions"], mae["left_out"], mae["method"]) == (3, "perfect, small", METHOD)
    assert mae["auroc"] == pytest.approx(expit(expected.estimate))
    assert mae["auroc_low"] == pytest.approx(expit(expected.low))
    assert mae["predicted_high"] == pytest.approx(expit(expected.predicted_high))
    assert mae["tau_squared"] == pytest.approx(expected.tau_squared)
    assert 0 < mae["predicted_low"] < mae["auroc_low"] < mae["auroc"] < mae["predicted_high"] < 1
    alone = table.loc["alone"]
    assert (alone["institutions"], alone["method"]) == (1, NOT_ESTIMABLE)
    assert np.isnan([alone["auroc"], alone["tau_squared"]]).all()
