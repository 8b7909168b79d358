"""Subgroups are what the statistics say on their exams alone; gaps by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from statsmodels.stats.meta_analysis import combine_effects

from datamodules.errors import InputError
from experiments.evaluation.auroc import ADJUSTED_DELONG, NOT_ESTIMABLE, auroc_interval
from experiments.evaluation.calibration import calibration_table
from experiments.evaluation.subgroups import (
    COLUMNS,
    GAP_COLUMNS,
    MISSING,
    age_bands,
    largest_gaps,
    subgroup_table,
)

SETTINGS = {"confidence": 0.95, "resamples": 200, "seed": 0}


@pytest.fixture(scope="module")
def study():
    """Predictions that rank men better than women, and say nothing for the old; the groups."""
    generator = np.random.default_rng(0)
    n = 1200
    institution = generator.choice(["north", "south"], n)
    exam = pd.Series(np.arange(n)).astype(str)
    sex = generator.choice(["male", "female"], n)
    age = generator.uniform(30, 90, n)
    target = (generator.random(n) < 0.3).astype(int)
    target[age >= 85] = 0
    x = -1 + target * np.where(sex == "male", 3.0, 1.0) + generator.normal(size=n)
    predictions = pd.DataFrame(
        {
            "model": "mae", "institution": institution, "split": "external", "patient_id": exam,
            "exam_id": exam, "target": target, "logit": x, "probability": expit(x),
        }
    )  # fmt: skip
    validation = predictions.assign(split="val", institution="home")
    groups = pd.DataFrame(
        {
            "institution": institution,
            "exam_id": exam,
            "sex": pd.Series(sex).where(np.arange(n) >= 10),
            "age": age_bands(age, [50, 85]),
        }
    )
    return pd.concat([validation, predictions]), groups.iloc[::-1]


@pytest.fixture(scope="module")
def table(study):
    return subgroup_table(*study, **SETTINGS)


def test_rows(table):
    assert tuple(table.columns) == COLUMNS
    assert list(zip(table["variable"], table["group"], strict=True)) == [
        ("sex", "female"), ("sex", "male"), ("sex", MISSING),
        ("age", "< 50"), ("age", "50 to < 85"), ("age", ">= 85"),
    ]  # fmt: skip
    assert table.groupby("variable")["n"].sum().to_dict() == {"sex": 1200, "age": 1200}
    assert set(table["institution"]) == {"all-external"}
    old = table[table["group"] == ">= 85"].iloc[0]
    assert (old["method"], old["positives"]) == (NOT_ESTIMABLE, 0)
    assert old[["auroc", "auroc_low", "slope", "observed_expected_high"]].isna().all()


def test_statistics_are_those_of_the_group_alone(study, table):
    predictions, groups = study
    women = groups.loc[groups["sex"] == "female", "exam_id"]
    alone = predictions[predictions["exam_id"].isin(women) & (predictions["split"] == "external")]
    row = table[table["group"] == "female"].iloc[0]
    estimate = auroc_interval(
        alone["target"], alone["probability"], alone["patient_id"], **SETTINGS
    )
    assert row["method"] == ADJUSTED_DELONG
    assert (row["auroc"], row["auroc_low"], row["auroc_high"]) == pytest.approx(
        (estimate.value, estimate.low, estimate.high)
    )
    calibration = calibration_table(alone, **SETTINGS)
    expected = calibration[
        (calibration["institution"] == "all-external") & (calibration["recalibration"] == "none")
    ].iloc[0]
    for name in ("slope", "intercept", "observed_expected"):
        for column in (name, f"{name}_low", f"{name}_high"):
            assert row[column] == pytest.approx(expected[column])


def test_the_largest_gap(table):
    gaps = largest_gaps(table, confidence=0.95)
    assert tuple(gaps.columns) == GAP_COLUMNS
    gap = gaps[(gaps["variable"] == "sex") & (gaps["statistic"] == "auroc")].iloc[0]
    assert (gap["group_a"], gap["group_b"], gap["groups"]) == ("male", "female", 2)
    men, women = (table[table["group"] == group].iloc[0] for group in ("male", "female"))
    assert gap["gap"] == pytest.approx(men["auroc"] - women["auroc"])
    # in a large sample the interval is nearly that of a difference of two normal estimates
    errors = [(g["auroc_high"] - g["auroc_low"]) / 2 for g in (men, women)]
    assert gap["gap_high"] - gap["gap_low"] == pytest.approx(2 * np.hypot(*errors), rel=0.03)
    assert gap["gap_low"] > 0.1
    assert gap["q_p"] < 1e-6
    ages = gaps[(gaps["variable"] == "age") & (gaps["statistic"] == "auroc")].iloc[0]
    assert ages["groups"] == 2
    assert ages["gap_low"] < 0 < ages["gap_high"]
    assert ages["q_p"] > 0.001


def test_mover_by_hand():
    """Zou & Donner, Stat Med 2008;27:1693, equations 7 and 8, and Cochran's test of statsmodels."""
    columns = ["group", "auroc", "auroc_low", "auroc_high"]
    rows = [("a", 0.9, 0.8, 0.95), ("b", 0.7, 0.6, 0.75), ("c", 0.8, 0.7, 0.85)]
    table = pd.DataFrame(rows, columns=columns).assign(
        model="mae", institution="north", variable="x", method="DeLong"
    )
    gaps = largest_gaps(table.reindex(columns=list(COLUMNS)), confidence=0.95)
    gap = gaps.set_index("statistic").loc["auroc"]
    assert (gap["group_a"], gap["group_b"], gap["groups"]) == ("a", "b", 3)
    assert gap["gap"] == pytest.approx(0.2)
    assert gap["gap_low"] == pytest.approx(0.2 - np.hypot(0.1, 0.05))
    assert gap["gap_high"] == pytest.approx(0.2 + np.hypot(0.05, 0.1))
    low, high = (logit(table[column].to_numpy()) for column in columns[2:])
    theirs = combine_effects(
        logit(table["auroc"].to_numpy()), ((high - low) / (2 * 1.959964)) ** 2
    ).test_homogeneity()
    assert gap["q_p"] == pytest.approx(theirs.pvalue, rel=1e-5)
    slope = gaps.set_index("statistic").loc["slope"]
    assert slope["groups"] == 0
    assert np.isnan([slope["gap"], slope["q_p"]]).all()


def test_one_institution_keeps_its_name(study):
    predictions, groups = study
    north = predictions[predictions["institution"] == "north"]
    table = subgroup_table(north, groups, **SETTINGS)
    assert set(table["institution"]) == {"north"}


@pytest.mark.parametrize("name", ["patient", "stratum"])
def test_a_variable_keeps_its_values_whatever_its_name(study, table, name):
    predictions, groups = study
    renamed = subgroup_table(predictions, groups.rename(columns={"sex": name}), **SETTINGS)
    pd.testing.assert_frame_equal(renamed.replace({"variable": {name: "sex"}}), table)


def test_mistakes_in_the_groups(study):
    predictions, groups = study
    with pytest.raises(InputError, match="a column or more"):
        subgroup_table(predictions, groups[["institution", "exam_id"]], **SETTINGS)
    with pytest.raises(InputError, match="exam '7'.*|more than once"):
        subgroup_table(predictions, pd.concat([groups, groups[:1]]), **SETTINGS)


def test_age_bands():
    bands = age_bands([49.9, 50, 64, 65, np.nan, 101], [50, 65])
    assert list(bands)[:4] == ["< 50", "50 to < 65", "50 to < 65", ">= 65"]
    assert pd.isna(bands[4])
    assert list(bands.categories) == ["< 50", "50 to < 65", ">= 65"]
    with pytest.raises(ValueError, match="rise"):
        age_bands([50], [65, 50])
