"""Obuchowski and Rockette's analysis with Hillis' corrections, against published results.

Van Dyke's data: the figures are those that two R packages print in their public documentation, each
computed independently of the other: MRMCaov (README: components, random readers and cases, each
treatment's mean) and RJafroc (online book, "OR analysis": fixed readers, fixed cases; "ROC sample
size": power and the table of readers and cases).
"""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import f, t, ttest_rel
from sklearn.metrics import roc_auc_score
from statsmodels.stats.anova import AnovaRM

from experiments.evaluation.mrmc import (
    BOTH_RANDOM,
    METRICS,
    RANDOM_CASES,
    RANDOM_READERS,
    Components,
    is_estimable,
    obuchowski_rockette,
    power,
    reader_values,
    sample_size,
)

VAN_DYKE = Components(
    reader=0.0015349993,
    arm_reader=0.00020040252,
    error=0.00080228827,
    cov1=0.00034661371,
    cov2=0.00034407483,
    cov3=0.00023902837,
    cases=114,
)
VAN_DYKE_DIFFERENCE = 0.043800322


@pytest.fixture(scope="module")
def van_dyke(real_data):
    """The analysis of treatment 1 minus treatment 2."""
    table = pd.read_csv(real_data / "statistics" / "vandyke.csv")
    ratings = table.pivot(index="case", columns=["treatment", "reader"], values="rating")
    cube = ratings.sort_index(axis=1).to_numpy().T.reshape(2, 5, 114)
    truth = table.groupby("case")["truth"].first().to_numpy()
    return obuchowski_rockette(cube[::-1], truth, metric="auroc", confidence=0.95)


def simulated(arms=2, readers=4, cases=40, seed=0, decimals=15):
    """Ratings that share a reader's and a case's part, and truth."""
    generator = np.random.default_rng(seed)
    truth = (generator.random(cases) < 0.4).astype(int)
    ratings = truth + generator.normal(size=cases) + generator.normal(size=(arms, readers, cases))
    return ratings.round(decimals), truth


def row(table, analysis):
    return table[table["analysis"] == analysis].iloc[0]


def test_van_dyke_components(van_dyke):
    assert van_dyke.values.mean(axis=1)[::-1] == pytest.approx([0.89703704, 0.94083736], abs=1e-8)
    published = [getattr(VAN_DYKE, name) for name in VAN_DYKE.__slots__]
    found = [getattr(van_dyke.components, name) for name in VAN_DYKE.__slots__]
    assert found == pytest.approx(published, rel=1e-7)


@pytest.mark.parametrize(
    ("analysis", "statistic", "df", "p", "error", "low", "high"),
    [
        (BOTH_RANDOM, 4.456319, 15.25967, 0.05166569, 0.02074862, -0.0879594986, 0.0003588544),
        (RANDOM_CASES, 5.4759532, np.inf, 0.019279843, 0.018717483, -0.080485914, -0.0071147303),
        (RANDOM_READERS, 8.704, 4, 0.041958752, 0.014846287, -0.085020224, -0.0025804202),
    ],
)
def test_van_dyke_tests(van_dyke, analysis, statistic, df, p, error, low, high):
    test, difference = row(van_dyke.tests, analysis), row(van_dyke.differences, analysis)
    assert test["f"] == pytest.approx(statistic, rel=1e-6)
    assert (test["df1"], test["df2"]) == (1, pytest.approx(df, rel=1e-6))
    assert test["p"] == pytest.approx(p, rel=1e-6)
    assert difference["p"] == pytest.approx(p, rel=1e-6)
    assert difference["difference"] == pytest.approx(-VAN_DYKE_DIFFERENCE, abs=1e-8)
    assert difference["error"] == pytest.approx(error, rel=1e-6)
    assert difference[["low", "high"]].tolist() == pytest.approx([low, high], abs=1e-8)


@pytest.mark.parametrize(
    ("analysis", "of_first", "of_second"),
    [
        (BOTH_RANDOM, (0.8252236, 0.9688505), (0.8941378, 0.9875369)),
        (RANDOM_CASES, (0.84943008, 0.94464399), (0.90795637, 0.97371835)),
        (RANDOM_READERS, (0.82809808, 0.96597599), (0.89598936, 0.98568536)),
    ],
)
def test_van_dyke_means(van_dyke, analysis, of_first, of_second):
    arms = van_dyke.arms[van_dyke.arms["analysis"] == analysis].set_index("arm")
    assert arms.loc[1, ["low", "high"]].tolist() == pytest.approx(of_first, abs=1e-7)
    assert arms.loc[0, ["low", "high"]].tolist() == pytest.approx(of_second, abs=1e-7)


@pytest.mark.parametrize("metric", METRICS)
def test_jackknife_leaves_out_a_case_at_a_time(metric):
    ratings, truth = simulated(decimals=0)  # with ties

    def value(scores, truth):
        right = (scores >= 1) == truth
        return {
            "accuracy": lambda: right.mean(),
            "sensitivity": lambda: right[truth == 1].mean(),
            "specificity": lambda: right[truth == 0].mean(),
            "auroc": lambda: roc_auc_score(truth, scores),
        }[metric]()

    flat = ratings.reshape(8, 40)
    without = np.array(
        [[value(np.delete(scores, k), np.delete(truth, k)) for k in range(40)] for scores in flat]
    )
    deviations = without - without.mean(axis=1, keepdims=True)
    covariance = (39 / 40 * deviations @ deviations.T).reshape(2, 4, 2, 4)
    result = obuchowski_rockette(ratings, truth, metric=metric, threshold=1, confidence=0.95)
    assert result.values.ravel() == pytest.approx([value(scores, truth) for scores in flat])
    found = result.components
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    assert found.error == pytest.approx(
        np.mean([covariance[a, r, a, r] for a in (0, 1) for r in range(4)])
    )
    assert found.cov1 == pytest.approx(np.mean([covariance[0, r, 1, r] for r in range(4)]))
    assert found.cov2 == pytest.approx(
        np.mean([covariance[a, i, a, j] for a in (0, 1) for i, j in pairs])
    )
    assert found.cov3 == pytest.approx(np.mean([covariance[0, i, 1, j] for i, j in pairs]))


def test_delong_covariances_are_those_of_every_pair_of_cases():
    ratings, truth = simulated(decimals=0)
    flat = ratings.reshape(8, 40)
    positive, negative = flat[:, truth == 1, None], flat[:, None, truth == 0]
    wins = (positive > negative) + 0.5 * (positive == negative)
    covariance = np.cov(wins.mean(axis=2)) / truth.sum() + np.cov(wins.mean(axis=1)) / (
        40 - truth.sum()
    )
    found = obuchowski_rockette(
        ratings, truth, metric="auroc", confidence=0.95, covariance="DeLong"
    ).components
    assert found.error == pytest.approx(np.trace(covariance) / 8)
    assert found.cov1 == pytest.approx(np.diag(covariance[:4, 4:]).mean())


def test_of_these_cases_it_is_the_analysis_of_variance_over_readers():
    ratings, truth = simulated(arms=3, readers=6)
    result = obuchowski_rockette(ratings, truth, metric="accuracy", confidence=0.95)
    arm, reader = np.indices(result.values.shape)
    long = pd.DataFrame({"y": result.values.ravel(), "arm": arm.ravel(), "reader": reader.ravel()})
    expected = AnovaRM(long, "y", "reader", within=["arm"]).fit().anova_table.iloc[0]
    test = row(result.tests, RANDOM_READERS)
    assert test[["f", "df1", "df2", "p"]].tolist() == pytest.approx(
        expected[["F Value", "Num DF", "Den DF", "Pr > F"]].tolist()
    )
    assert len(result.differences) == 9

    two = obuchowski_rockette(ratings[:2], truth, metric="accuracy", confidence=0.9)
    expected = ttest_rel(two.values[1], two.values[0])
    interval = expected.confidence_interval(0.9)
    difference = row(two.differences, RANDOM_READERS)
    assert difference["p"] == pytest.approx(expected.pvalue)
    assert difference[["low", "high"]].tolist() == pytest.approx([interval.low, interval.high])


def test_two_arms_f_is_the_squared_t():
    ratings, truth = simulated()
    result = obuchowski_rockette(ratings, truth, metric="auroc", confidence=0.95)
    assert result.differences["p"].tolist() == pytest.approx(result.tests["p"].tolist())
    ratio = result.differences["difference"] / result.differences["error"]
    assert (ratio**2).tolist() == pytest.approx(result.tests["f"].tolist())


def test_equal_arms_are_not_estimable():
    ratings, truth = simulated(arms=1)
    result = obuchowski_rockette(
        np.concatenate([ratings, ratings]), truth, metric="accuracy", confidence=0.95
    )
    assert result.tests["p"].isna().all()
    assert result.differences[["low", "high", "p"]].isna().all(axis=None)
    assert (result.differences["difference"] == 0).all()


def test_too_few_readers_or_cases():
    truth = np.array([1, 0, 0, 0])
    assert is_estimable(truth, readers=2, metric="specificity")
    assert not is_estimable(truth, readers=2, metric="sensitivity")
    assert not is_estimable(truth, readers=2, metric="auroc")
    assert not is_estimable(truth, readers=1, metric="accuracy")
    with pytest.raises(ValueError, match="not estimable"):
        obuchowski_rockette(np.zeros((2, 1, 4)), truth, metric="accuracy", confidence=0.95)
    assert np.isnan(reader_values(np.zeros((2, 3, 4)), np.zeros(4), metric="auroc")).all()
    assert np.isnan(reader_values(np.zeros((2, 3, 4)), np.zeros(4), metric="sensitivity")).all()
    assert (reader_values(np.zeros((2, 3, 4)), np.zeros(4), metric="specificity") == 1).all()
    with pytest.raises(ValueError, match="rating"):
        obuchowski_rockette(np.full((2, 3, 4), np.nan), truth, metric="auroc", confidence=0.95)


def test_published_power_and_sample_sizes():
    found = power(6, [112, 111], VAN_DYKE_DIFFERENCE, VAN_DYKE, alpha=0.05)
    assert found == pytest.approx([0.5555789, 0.5526116], abs=1e-6)
    published = {3: None, 4: 1089, 5: 344, 6: 251, 7: 211, 10: 163, 20: 126, 50: 109, 100: 103}
    table = sample_size(
        VAN_DYKE_DIFFERENCE, VAN_DYKE, readers=published, wanted_power=0.8, alpha=0.05,
        max_cases=2000,
    )  # fmt: skip
    assert table["readers"].tolist() == list(published)
    assert [None if pd.isna(cases) else cases for cases in table["cases"]] == list(
        published.values()
    )
    assert table["power"].iloc[0] < 0.8
    assert (table["power"].iloc[1:] >= 0.8).all()
    table = sample_size(
        VAN_DYKE_DIFFERENCE, VAN_DYKE, readers=[10], wanted_power=0.9, alpha=0.05, max_cases=2000
    )
    assert table["cases"].item() == 236
    assert table["power"].item() == pytest.approx(0.9003501, abs=1e-6)


def test_power_by_hand():
    """Without covariance between readers it is a paired t-test's, of the variance
    2 (arm_reader + error - cov1) a reader."""
    components = Components(0.0, 0.001, 0.003, 0.001, 0.0, 0.0, cases=50)
    variance = 2 * (0.001 + (0.003 - 0.001) * 50 / 200)
    generator = np.random.default_rng(0)
    gains = 0.05 + np.sqrt(variance) * generator.normal(size=(200_000, 8))
    statistic = gains.mean(axis=1) / (gains.std(axis=1, ddof=1) / np.sqrt(8))
    share = (np.abs(statistic) > t.ppf(0.975, 7)).mean()
    assert power(8, 200, 0.05, components, alpha=0.05) == pytest.approx(share, abs=0.005)
    assert power(8, 200, 0.0, components, alpha=0.05) == pytest.approx(0.05)


@pytest.mark.parametrize(("readers", "cases"), [(5, 114), (10, 163), (4, 400)])
def test_power_is_how_often_the_test_finds_the_difference(readers, cases):
    """Readers' figures drawn from Obuchowski and Rockette's model, with known covariances."""
    generator = np.random.default_rng(readers)
    scale, n = VAN_DYKE.cases / cases, 40_000
    error, cov1, cov2, cov3 = (
        scale * getattr(VAN_DYKE, name) for name in ("error", "cov1", "cov2", "cov3")
    )
    shape = (n, 2, readers)
    values = np.sqrt(VAN_DYKE.arm_reader) * generator.normal(size=shape)
    values += np.sqrt(cov3) * generator.normal(size=(n, 1, 1))
    values += np.sqrt(cov1 - cov3) * generator.normal(size=(n, 1, readers))
    values += np.sqrt(cov2 - cov3) * generator.normal(size=(n, 2, 1))
    values += np.sqrt(error - cov1 - cov2 + cov3) * generator.normal(size=shape)
    gains = values[:, 1] - values[:, 0] + VAN_DYKE_DIFFERENCE
    square = gains.var(axis=1, ddof=1) / 2  # MS(arms x readers)
    denominator = square + readers * (cov2 - cov3)
    statistic = readers * gains.mean(axis=1) ** 2 / 2 / denominator
    df = denominator**2 / (square**2 / (readers - 1))
    share = (f.sf(statistic, 1, df) < 0.05).mean()
    expected = power(readers, cases, VAN_DYKE_DIFFERENCE, VAN_DYKE, alpha=0.05)
    assert share == pytest.approx(float(expected), abs=0.03)


def test_power_grows_with_readers_and_cases():
    grid = power(np.arange(3, 20)[:, None], np.arange(50, 500, 10), 0.05, VAN_DYKE, alpha=0.05)
    assert grid.shape == (17, 45)
    assert (np.diff(grid, axis=0) > 0).all()
    assert (np.diff(grid, axis=1) > 0).all()
