"""A reader study's table and its tests, against scikit-learn, scipy and definitions."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import logit
from scipy.stats import t, ttest_rel, wilcoxon
from sklearn.metrics import accuracy_score, recall_score, roc_auc_score

from datamodules.errors import InputError
from experiments.evaluation.auroc import NOT_ESTIMABLE
from experiments.evaluation.mrmc import BOTH_RANDOM, METRICS, RANDOM_READERS
from experiments.evaluation.reader_study import (
    BOTH,
    CASES,
    COLUMNS,
    READERS,
    analyse,
    check_readings,
    gee_table,
    is_yes_no,
    mrmc_table,
    paired_table,
    read_readings,
    reader_table,
    results_table,
)


def make(readers=6, cases=40, seed=0, yes_no=False, prevalence=0.4, gain=0.6):
    """A crossed table of readings in which the model helps."""
    generator = np.random.default_rng(seed)
    truth = (np.arange(cases) < prevalence * cases).astype(int)
    helped = np.array([0.6, 0.6 + gain])[:, None, None] * (truth - 0.5)
    noise = generator.normal(size=cases) + generator.normal(size=(2, readers, 1)) * 0.3
    score = helped + noise + generator.normal(size=(2, readers, cases))
    reading = (score > 0).astype(float) if yes_no else 1 / (1 + np.exp(-score))
    arm, reader, case = (index.ravel() for index in np.indices(reading.shape))
    table = pd.DataFrame(
        {
            "reader": [f"r{number}" for number in reader],
            "case": [f"{number:03d}" for number in case],
            "arm": np.array(["without", "with"])[arm],
            "reading": reading.ravel(),
            "truth": truth[case],
        }
    )
    return check_readings(table, "made")


def test_files_keep_names_and_values(tmp_path):
    table = make()
    for suffix, write in ((".csv", table.to_csv), (".parquet", table.to_parquet)):
        path = tmp_path / f"readings{suffix}"
        write(path, index=False)
        read = read_readings(path)
        pd.testing.assert_frame_equal(read, table)
        assert tuple(read.columns) == COLUMNS
    assert read["case"].iloc[7] == "007"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.drop(columns="arm"), "lacks arm"),
        (lambda t: t.iloc[:0], "no rows"),
        (lambda t: t.assign(arm=t["arm"].replace("with", "aided")), "line 242, arm: 'aided'"),
        (
            lambda t: t.assign(reading=t["reading"].mask(t.index == 3, 1.2)),
            "line 5, reading: '1.2'",
        ),
        (lambda t: t.assign(reading=t["reading"].mask(t.index == 3)), "line 5, reading: empty"),
        (lambda t: t.assign(truth=t["truth"].mask(t.index == 3, 2)), "line 5, truth: '2'"),
        (lambda t: t.assign(truth=t["truth"].mask(t.index == 45, 0)), "line 47, truth: '0', but"),
        (lambda t: t.assign(reader=t["reader"].mask(t.index == 3, "")), "line 5, reader: empty"),
        (lambda t: pd.concat([t, t.iloc[[3]]]), "'003' was read by 'r0' more than once without"),
        (lambda t: t.drop(index=3), "reader 'r0', case '003': no reading without the model"),
        (
            lambda t: t[(t["reader"] != "r2") | (t["arm"] == "without")],
            "reader 'r2': no reading with the model",
        ),
        (
            lambda t: t[(t["case"] != "005") | (t["arm"] == "with")],
            "case '005': no reading without the model",
        ),
        (lambda t: t[t["arm"] == "with"], "reader 'r0': no reading without the model"),
    ],
)
def test_mistakes_are_named(change, told):
    with pytest.raises(InputError) as error:
        check_readings(change(make()), "readings.csv")
    assert told in str(error.value)
    assert str(error.value).startswith("readings.csv")


def test_unreadable_files(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_readings(tmp_path / "absent.csv")
    (tmp_path / "readings.xlsx").touch()
    with pytest.raises(InputError, match="Convert"):
        read_readings(tmp_path / "readings.xlsx")
    (tmp_path / "broken.parquet").write_text("not a table")
    with pytest.raises(InputError, match="not a readable"):
        read_readings(tmp_path / "broken.parquet")


def test_readers_figures_are_scikit_learns():
    readings = make()
    table = reader_table(readings, threshold=0.6).set_index(["reader", "arm"])
    assert len(table) == 12
    assert (table["n"] == 40).all()
    assert (table["positives"] == 16).all()
    for key, rows in readings.groupby(["reader", "arm"]):
        answer = (rows["reading"] >= 0.6).astype(int)
        expected = [
            accuracy_score(rows["truth"], answer),
            recall_score(rows["truth"], answer),
            recall_score(rows["truth"], answer, pos_label=0),
            roc_auc_score(rows["truth"], rows["reading"]),
        ]
        assert table.loc[key, list(METRICS)].tolist() == pytest.approx(expected)


def test_the_order_of_rows_does_not_matter():
    readings = make()
    shuffled = readings.sample(frac=1, random_state=0)
    of = [
        mrmc_table(table, confidence=0.95).set_index(["metric", "analysis"])
        for table in (readings, shuffled)
    ]
    pd.testing.assert_frame_equal(*of)


def test_yes_no_answers_have_no_auroc():
    readings = make(yes_no=True)
    assert is_yes_no(readings)
    assert not is_yes_no(make())
    study = analyse(readings, confidence=0.95)
    assert study.readers["auroc"].isna().all()
    assert study.readers[["accuracy", "sensitivity", "specificity"]].notna().all(axis=None)
    assert "auroc" not in study.components
    of_auroc = study.mrmc[study.mrmc["metric"] == "auroc"]
    assert of_auroc.drop(columns=["metric", "analysis"]).isna().all(axis=None)
    shown = results_table(study)
    assert (shown.loc[shown["metric"] == "auroc", "p"] == NOT_ESTIMABLE).all()


def test_paired_tests_are_scipys():
    readers = reader_table(make())
    table = paired_table(readers, confidence=0.9).set_index("metric")
    for metric in METRICS:
        pairs = readers.pivot(index="reader", columns="arm", values=metric)
        expected = ttest_rel(pairs["with"], pairs["without"])
        interval = expected.confidence_interval(0.9)
        row = table.loc[metric]
        assert row[["t", "p", "low", "high"]].tolist() == pytest.approx(
            [expected.statistic, expected.pvalue, interval.low, interval.high]
        )
        assert row["sd_with"] == pytest.approx(np.std(pairs["with"], ddof=1))
        assert row["gain"] == pytest.approx(row["mean_with"] - row["mean_without"])
    gains = readers.pivot(index="reader", columns="arm", values="auroc")
    expected = wilcoxon(gains["with"] - gains["without"], method="exact")
    assert table.loc["auroc", "p_wilcoxon"] == pytest.approx(expected.pvalue)


def test_wilcoxon_with_ties_is_exact():
    """Five gains of one sign: 2 of the 2^5 signs are as extreme, whatever ties."""
    readers = pd.DataFrame(
        {
            "reader": list("abcde") * 2,
            "arm": ["without"] * 5 + ["with"] * 5,
            **dict.fromkeys(METRICS, [0.6] * 5 + [0.7, 0.7, 0.7, 0.8, 0.9]),
        }
    )
    assert paired_table(readers, confidence=0.95)["p_wilcoxon"].tolist() == pytest.approx(
        [2 / 32] * 4
    )


def test_mrmc_of_these_cases_is_the_paired_test():
    readings = make()
    paired = paired_table(reader_table(readings), confidence=0.95)
    table = mrmc_table(readings, confidence=0.95)
    of_readers = table[table["analysis"] == RANDOM_READERS]
    for column in ("gain", "low", "high", "p"):
        assert of_readers[column].tolist() == pytest.approx(paired[column].tolist())
    both = table[table["analysis"] == BOTH_RANDOM]
    study = analyse(readings, confidence=0.95)
    assert study.arms["mean"].tolist() == pytest.approx(
        both[["without", "with"]].to_numpy().ravel()
    )
    assert (study.arms["low"] < study.arms["mean"]).all()
    assert (study.arms["mean"] < study.arms["high"]).all()
    assert set(study.components) == set(METRICS)


@pytest.mark.parametrize("metric", ["accuracy", "sensitivity"])
def test_gee_is_its_sandwich(metric):
    """In a crossed design the estimate is the log odds ratio of the arms' shares, and the variance
    the clusters' squared sums of residuals over the arms' p (1 - p), by Mancl and DeRouen's
    correction larger by (K / (K - 1))^2 for K clusters."""
    readings = make(yes_no=True)
    table = gee_table(readings, confidence=0.9).set_index(["metric", "clusters"]).loc[metric]
    chosen = readings if metric == "accuracy" else readings[readings["truth"] == 1]
    right = (chosen["reading"] == chosen["truth"]).astype(float)
    share = right.groupby(chosen["arm"]).mean()
    weight = 1 / (share * (1 - share)) / (len(chosen) / 2)
    sign = chosen["arm"].map({"with": 1, "without": -1})
    residual = sign * chosen["arm"].map(weight) * (right - chosen["arm"].map(share))

    def variance(*by):
        sums = residual.groupby([chosen[column] for column in by]).sum()
        return (sums**2).sum() * (len(sums) / (len(sums) - 1)) ** 2

    of_both = variance("case") + variance("reader") - variance("case", "reader")
    effect = logit(share["with"]) - logit(share["without"])
    clusters = {"readers": 6, "cases": chosen["case"].nunique()}
    for name, expected, number in (
        (CASES, variance("case"), clusters["cases"]),
        (READERS, variance("reader"), clusters["readers"]),
        (BOTH, max(of_both, variance("case"), variance("reader")), 6),
    ):
        row = table.loc[name]
        error = np.sqrt(expected)
        half_width = t.ppf(0.95, number - 1) * error
        assert row["odds_ratio"] == pytest.approx(np.exp(effect))
        assert row[["low", "high"]].tolist() == pytest.approx(
            np.exp([effect - half_width, effect + half_width]).tolist()
        )
        assert row["p"] == pytest.approx(2 * t.sf(abs(effect) / error, number - 1))
        assert row[["readers", "cases"]].tolist() == list(clusters.values())
        assert row["with"] == pytest.approx(share["with"])


def test_what_cannot_be_estimated_says_so():
    one = make(readers=1)
    study = analyse(one, confidence=0.95)
    assert study.paired[["low", "high", "p", "p_wilcoxon", "sd_with"]].isna().all(axis=None)
    assert study.mrmc["p"].isna().all()
    assert study.gee["p"].isna().all()
    assert study.paired["mean_with"].notna().all()

    healthy = make(prevalence=0)
    study = analyse(healthy, confidence=0.95)
    of = study.mrmc.set_index("metric")
    assert of.loc[["sensitivity", "auroc"], "p"].isna().all()
    assert of.loc["accuracy", "p"].notna().all()
    shown = results_table(study)
    assert (shown.loc[shown["metric"] == "sensitivity", "without"] == NOT_ESTIMABLE).all()

    perfect = make()
    perfect["reading"] = perfect["truth"].where(perfect["arm"] == "with", perfect["reading"])
    study = analyse(perfect, confidence=0.95)
    assert study.gee["p"].isna().all()
    assert study.mrmc.set_index("metric").loc["accuracy", "p"].notna().all()


def test_results_are_told():
    study = analyse(make(), confidence=0.95)
    shown = results_table(study)
    assert len(shown) == 3 * (2 + 3 + 3) + 2 + 3
    assert shown["metric"].drop_duplicates().tolist() == list(METRICS)
    first, paired = shown.iloc[0], study.paired.iloc[0]
    assert first["without"] == (
        f"{100 * paired['mean_without']:.1f} ± {100 * paired['sd_without']:.1f} %"
    )
    assert first["gain"].startswith(f"{100 * paired['gain']:+.1f} points (")
    assert shown["p"].str.startswith("p ").all()
