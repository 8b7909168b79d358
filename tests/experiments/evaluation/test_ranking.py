"""Average precision and partial AUROC against scikit-learn and numerical integration."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from experiments.evaluation.auroc import CLUSTERED, NOT_ESTIMABLE, auroc
from experiments.evaluation.ranking import (
    BOOTSTRAP,
    COLUMNS,
    average_precision,
    partial_auroc,
    ranking_table,
)

SETTINGS = {"confidence": 0.95, "resamples": 300, "seed": 0}


def scores(decimals, seed=0, n=300):
    generator = np.random.default_rng(seed)
    target = (generator.random(n) < 0.2).astype(int)
    return target, (generator.normal(size=n) + 1.5 * target).round(decimals)


@pytest.mark.parametrize("decimals", [9, 0])
@pytest.mark.parametrize("max_fpr", [0.03, 0.1, 0.5, 0.999])
def test_they_are_scikit_learns(decimals, max_fpr):
    target, score = scores(decimals)
    assert average_precision(target, score) == pytest.approx(average_precision_score(target, score))
    ours = partial_auroc(target, score, max_fpr=max_fpr)
    assert ours == pytest.approx(roc_auc_score(target, score, max_fpr=max_fpr))


@pytest.mark.parametrize("decimals", [9, 0])
@pytest.mark.parametrize("least", [0.5, 0.9, 0.97])
def test_the_sensitive_part_is_the_area_right_of_the_curve(decimals, least):
    target, score = scores(decimals)
    false, true, _ = roc_curve(target, score, drop_intermediate=False)
    # at a height the curve may have a flat part: it has no area to its right
    heights = np.linspace(least, 1, 200_001)
    area = np.trapezoid(1 - np.interp(heights, true + 1e-12 * np.arange(true.size), false), heights)
    width = 1 - least
    standardised = 0.5 * (1 + (area - width**2 / 2) / (width - width**2 / 2))
    ours = partial_auroc(target, score, min_sensitivity=least)
    assert ours == pytest.approx(standardised, abs=1e-4)


def test_partial_areas_are_procs():
    """R's mtcars, mpg for a manual transmission: the documentation of the R package runway prints
    the areas that pROC finds, 0.04779 (specificity 0.9 to 1) and 0.02996 (sensitivity 0.9 to 1).
    """
    mpg = [
        21.0, 21.0, 22.8, 21.4, 18.7, 18.1, 14.3, 24.4, 22.8, 19.2, 17.8, 16.4, 17.3, 15.2, 10.4,
        10.4, 14.7, 32.4, 30.4, 33.9, 21.5, 15.5, 15.2, 13.3, 19.2, 27.3, 26.0, 30.4, 15.8, 19.7,
        15.0, 21.4,
    ]  # fmt: skip
    manual = np.repeat([1, 0, 1, 0, 1], [3, 14, 3, 5, 7])
    assert auroc(manual, mpg) == pytest.approx(0.8299595, abs=5e-8)
    for option, published in (({"max_fpr": 0.1}, 0.04779), ({"min_sensitivity": 0.9}, 0.02996)):
        area = (2 * partial_auroc(manual, mpg, **option) - 1) * (0.1 - 0.005) + 0.005
        assert area == pytest.approx(published, abs=5e-6)


def test_a_score_shared_by_both_classes_is_one_sloped_step():
    """By hand: from (0, 1/4) to (1/2, 3/4), and the last positive exam below all others."""
    target, score = [1, 1, 0, 1, 0, 0, 0, 1], [3, 2, 2, 2, 2, 1, 1, 0]
    assert average_precision(target, score) == pytest.approx((1 + 2 * 3 / 5 + 4 / 8) / 4)
    assert average_precision(target, score) == pytest.approx(average_precision_score(target, score))
    area, chance = 0.25 * (0.25 + 0.5) / 2, 0.25**2 / 2
    assert partial_auroc(target, score, max_fpr=0.25) == pytest.approx(
        0.5 * (1 + (area - chance) / (0.25 - chance))
    )
    area, chance = 0.25 * (0.75 + 0.5) / 2, 0.5**2 / 2  # over sensitivities of 1/2 to 3/4
    assert partial_auroc(target, score, min_sensitivity=0.5) == pytest.approx(
        0.5 * (1 + (area - chance) / (0.5 - chance))
    )


def test_perfect_and_useless():
    target = np.repeat([1, 0], [5, 20])
    for option in ({"max_fpr": 0.1}, {"min_sensitivity": 0.9}):
        assert partial_auroc(target, target, **option) == pytest.approx(1)
        assert partial_auroc(target, np.zeros(25), **option) == pytest.approx(0.5)
        assert np.isnan(partial_auroc(np.zeros(3), [1, 2, 3], **option))
    assert average_precision(target, np.zeros(25)) == pytest.approx(0.2)
    assert np.isnan(average_precision(np.zeros(3), [1, 2, 3]))
    with pytest.raises(ValueError, match="either"):
        partial_auroc(target, target)


def table_of(target, score, patient, institution="a"):
    return pd.DataFrame(
        {
            "model": "mae", "institution": institution, "split": "external", "patient_id": patient,
            "exam_id": np.arange(len(target)), "target": target, "logit": score,
            "probability": 1 / (1 + np.exp(-score)),
        }
    )  # fmt: skip


def test_the_table_and_a_literal_bootstrap():
    generator = np.random.default_rng(4)
    patient = np.repeat(np.arange(100), 2)
    target = (generator.random(100) < 0.3).astype(int)[patient]
    score = (target + generator.normal(size=100)[patient]).round(1)
    table = ranking_table(
        table_of(target, score, patient),
        **SETTINGS | {"resamples": 4000},
        specificity=0.8,
        sensitivity=0.9,
    )
    assert tuple(table.columns) == COLUMNS
    row = table.iloc[0]
    assert (row["method"], row["n"], row["positives"]) == (CLUSTERED, 200, target.sum())
    assert row["average_precision"] == pytest.approx(average_precision_score(target, score))
    expected = roc_auc_score(target, score, max_fpr=0.2)
    assert row["partial_auroc_specificity"] == pytest.approx(expected)
    assert row["partial_auroc_sensitivity"] == pytest.approx(
        partial_auroc(target, score, min_sensitivity=0.9)
    )
    literal = []
    for _ in range(1000):
        drawn = generator.integers(100, size=100)
        rows = np.concatenate([2 * drawn, 2 * drawn + 1])
        precision = average_precision_score(target[rows], score[rows])
        area = roc_auc_score(target[rows], score[rows], max_fpr=0.2)
        literal.append((precision, area))
    bounds = np.quantile(literal, [0.025, 0.975], axis=0).T
    for name, (low, high) in zip(
        ("average_precision", "partial_auroc_specificity"), bounds, strict=True
    ):
        assert (row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx((low, high), abs=0.03)


def test_not_estimable_and_no_certainty():
    rows = ranking_table(
        pd.concat(
            [
                table_of([0, 0, 1], np.array([0.1, 0.2, 0.3]), [1, 2, 3], "one positive"),
                table_of(np.repeat([0, 1], 9), np.repeat([0.0, 1], 9), np.arange(18), "perfect"),
            ]
        ),
        **SETTINGS,
        specificity=0.9,
        sensitivity=0.9,
    ).set_index("institution")
    assert list(rows["method"]) == [NOT_ESTIMABLE, BOOTSTRAP, BOOTSTRAP]
    assert np.isnan(rows.at["one positive", "average_precision"])
    perfect = rows.loc["perfect"]
    assert perfect["average_precision"] == 1
    assert np.isnan([perfect["average_precision_low"], perfect["average_precision_high"]]).all()


@pytest.mark.parametrize("n", [99, 500])
def test_all_scores_tied_claim_no_certainty(n):
    """Partial AUROCs are 0.5 in every resample, but for rounding."""
    target = (np.arange(n) % 5 == 0).astype(int)
    row = ranking_table(
        table_of(target, np.zeros(n), np.arange(n)), **SETTINGS, specificity=0.9, sensitivity=0.9
    ).iloc[0]
    for name in ("partial_auroc_specificity", "partial_auroc_sensitivity"):
        assert row[name] == pytest.approx(0.5)
        assert np.isnan([row[f"{name}_low"], row[f"{name}_high"]]).all()
    assert row["average_precision_low"] < row["average_precision"] < row["average_precision_high"]


def test_resamples_without_a_class_are_left_out():
    """Two patients of five are positive: a resample of five has none of them in 8 % of draws."""
    target, patient = np.array([1, 1, 0, 0, 0]), np.arange(5)
    row = ranking_table(
        table_of(target, np.array([0.3, 0.1, 0.3, 0.0, -1.0]), patient),
        **SETTINGS,
        specificity=0.5,
        sensitivity=0.5,
    ).iloc[0]
    assert row["average_precision"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert 0 < row["average_precision_low"] < row["average_precision_high"] == 1
    assert 0 <= row["partial_auroc_sensitivity_low"] < row["partial_auroc_sensitivity_high"] <= 1
