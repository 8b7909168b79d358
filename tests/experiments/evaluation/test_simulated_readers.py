"""Simulated readers: their known truth against brute force, and whether the analysis finds it."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from datamodules.errors import InputError
from experiments.evaluation import simulated_readers
from experiments.evaluation.mrmc import BOTH_RANDOM, METRICS, obuchowski_rockette
from experiments.evaluation.predictions import check_predictions
from experiments.evaluation.reader_study import analyse, check_readings, reader_table
from experiments.evaluation.simulated_readers import (
    ReaderPopulation,
    recovery_table,
    simulate_readings,
    trust_reaching,
)

POPULATION = ReaderPopulation(
    skill=0.65, skill_sd=0.03, criterion_sd=0.2, trust=0.2, trust_sd=0.05, shared=0.3, repeated=0.2
)
SETTINGS = {"cases": 100, "prevalence": 0.5, "threshold": 0.2, "seed": 1}
STUDY = {"readers": 10, "answers": "probability"} | SETTINGS


def predictions(n=6000, exams=2, seed=0, prevalence=0.2):
    """Calibrated predictions with an AUROC of 0.87, `exams` of each patient."""
    generator = np.random.default_rng(seed)
    target = (generator.random(n) < prevalence).astype(int)
    score = 2.56 * (target - 0.5) + 1.6 * generator.normal(size=n) + logit(prevalence)
    return check_predictions(
        pd.DataFrame(
            {
                "model": "fusion",
                "institution": np.select(
                    [np.arange(n) % 10 < 2, np.arange(n) < n / 2], ["home", "north"], "south"
                ),
                "split": np.where(np.arange(n) % 10 < 2, "val", "external"),
                "patient_id": [str(number // exams) for number in range(n)],
                "exam_id": [str(number) for number in range(n)],
                "target": target,
                "logit": score,
                "probability": expit(score),
            }
        ),
        "made",
    )


@pytest.fixture(scope="module")
def exams():
    return predictions()


def test_it_is_a_crossed_study_of_tested_exams(exams):
    readings, truth = simulate_readings(exams, POPULATION, **STUDY)
    checked = check_readings(readings, "simulated")
    pd.testing.assert_frame_equal(checked, readings)
    assert checked["reader"].nunique() == 10
    assert checked["reader"].str.startswith("simulated reader").all()
    cases = checked.drop_duplicates("case")
    assert len(cases) == 100
    assert cases["truth"].sum() == truth.positives == 50
    keys = exams["institution"] + "/" + exams["exam_id"]
    drawn = exams[keys.isin(cases["case"])]
    assert (drawn["split"] == "external").all()
    assert drawn.drop_duplicates(["institution", "patient_id"]).shape[0] == 100
    targets = dict(zip(keys, exams["target"], strict=True))
    assert (cases["case"].map(targets) == cases["truth"]).all()
    assert truth.pool == exams[exams["split"] != "val"].drop_duplicates("patient_id").shape[0]

    again, _ = simulate_readings(exams, POPULATION, **STUDY)
    pd.testing.assert_frame_equal(again, readings)
    other, _ = simulate_readings(exams, POPULATION, **STUDY | {"seed": 2})
    assert not other["reading"].equals(readings["reading"])


def test_natural_prevalence(exams):
    _, truth = simulate_readings(exams, POPULATION, **STUDY | {"prevalence": None})
    assert truth.positives == pytest.approx(20, abs=3)


def test_the_expected_figures_are_those_of_very_many_readers_and_cases():
    """A study of 300 readers with all 3,000 patients as its cases."""
    exams = predictions(n=3000, exams=1)
    exams["split"] = "external"
    population = replace(POPULATION, shared=0.0, trust_sd=0.2)  # trust cut off at 0
    readings, truth = simulate_readings(
        exams, population, **STUDY | {"readers": 300, "cases": 3000, "prevalence": None}
    )
    found = reader_table(readings).groupby("arm")[list(METRICS)].mean()
    expected = truth.expected.set_index("metric")
    assert (truth.readers["trust"] == 0).any()
    for arm in ("without", "with"):
        for metric in METRICS:
            assert found.loc[arm, metric] == pytest.approx(expected.loc[metric, arm], abs=0.012)
    assert (expected["gain"] > 0.05).all()


def test_skill_is_the_accuracy_without_the_model(exams):
    plain = replace(POPULATION, skill_sd=0.0, criterion_sd=0.0, trust=0.0, trust_sd=0.0)
    _, truth = simulate_readings(exams, plain, **STUDY)
    expected = truth.expected.set_index("metric")
    shares = expected.loc[["accuracy", "sensitivity", "specificity"]]
    assert shares[["without", "with"]].to_numpy() == pytest.approx(0.65)
    assert expected["gain"].abs().max() == pytest.approx(0)


def test_full_trust_is_the_models_own_accuracy(exams):
    trusting = replace(POPULATION, trust=0.99, trust_sd=0.0)
    exams = exams.drop_duplicates("patient_id").assign(split="external")
    _, truth = simulate_readings(exams, trusting, **STUDY | {"prevalence": None})
    right = (exams["probability"] >= 0.2) == exams["target"]
    with_model = truth.expected.set_index("metric").loc["accuracy", "with"]
    assert with_model == pytest.approx(right.mean(), abs=0.01)


def test_trust_is_found_for_the_papers_gain(exams):
    trust = trust_reaching(exams, POPULATION, 0.74, **SETTINGS)
    _, truth = simulate_readings(exams, replace(POPULATION, trust=trust), **STUDY)
    expected = truth.expected.set_index("metric").loc["accuracy"]
    assert expected["without"] == pytest.approx(0.65, abs=0.005)
    assert expected["with"] == pytest.approx(0.74, abs=1e-4)
    assert trust_reaching(exams, POPULATION, 0.6, **SETTINGS) == 0
    with pytest.raises(InputError, match="reach an accuracy of 0.8"):
        trust_reaching(exams, POPULATION, 0.95, **SETTINGS)


def test_yes_no_answers(exams):
    readings, truth = simulate_readings(exams, POPULATION, **STUDY | {"answers": "yes/no"})
    assert readings["reading"].isin((0, 1)).all()
    assert "auroc" not in set(truth.expected["metric"])
    probabilities, _ = simulate_readings(exams, POPULATION, **STUDY)
    assert ((probabilities["reading"] > 0.5) == (readings["reading"] == 1)).all()


def test_what_a_case_and_a_reading_share(exams):
    """Residual correlations of log odds without the model, and between readings of one reader."""
    population = replace(POPULATION, skill_sd=0.0, trust=0.0, trust_sd=0.0)
    readings, _ = simulate_readings(
        exams, population, **STUDY | {"cases": 400, "readers": 20, "seed": 5}
    )
    log_odds = readings.assign(x=logit(readings["reading"])).pivot(
        index=["case", "truth"], columns=["arm", "reader"], values="x"
    )
    residual = log_odds - log_odds.groupby(level="truth").transform("mean")
    correlation = residual.corr().to_numpy()
    readers = np.eye(20, dtype=bool)
    assert correlation[:20, :20][~readers].mean() == pytest.approx(0.3, abs=0.04)
    assert correlation[:20, 20:][readers].mean() == pytest.approx(0.8, abs=0.03)


def test_recovery_is_told(exams):
    readings, truth = simulate_readings(exams, POPULATION, **STUDY)
    study = analyse(readings, confidence=0.95)
    table = recovery_table(truth, study).set_index("metric")
    assert list(table.index) == list(METRICS)
    assert table["recovered"].all()
    high = table.loc["accuracy", "high"]
    expected = truth.expected.assign(gain=high + 0.001)
    elsewhere = recovery_table(replace(truth, expected=expected), study).set_index("metric")
    assert not elsewhere.loc["accuracy", "recovered"]
    one, truth = simulate_readings(exams, POPULATION, **STUDY | {"readers": 1})
    assert recovery_table(truth, analyse(one, confidence=0.95))["recovered"].isna().all()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"cases": 5000}, "5000 cases, 2500 of them positive"),
        ({"threshold": 0.0}, "threshold of 0"),
    ],
)
def test_impossible_studies(exams, change, told):
    with pytest.raises(InputError, match=told):
        simulate_readings(exams, POPULATION, **STUDY | change)


def test_impossible_readers_and_predictions(exams):
    for change in ({"skill": 0.4}, {"trust": 1.2}, {"skill_sd": -1}, {"shared": 0.9}):
        with pytest.raises(InputError):
            replace(POPULATION, **change)
    two = pd.concat([exams, exams.assign(model="ecg")])
    with pytest.raises(InputError, match="fusion, ecg"):
        simulate_readings(two, POPULATION, **STUDY)
    with pytest.raises(InputError, match="0 positive and 0 negative"):
        simulate_readings(exams[exams["split"] == "val"], POPULATION, **STUDY)
    with pytest.raises(ValueError, match="answers"):
        simulate_readings(exams, POPULATION, **STUDY | {"answers": "maybe"})


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["accuracy", "auroc"])
def test_intervals_cover_the_truth(metric, monkeypatch):
    """95 % intervals over readers and cases hold the true gain in 93 to 97 % of 1,000 studies."""
    exams = predictions(n=20_000)
    _, truth = simulate_readings(exams, POPULATION, **STUDY)
    gain = truth.expected.set_index("metric").loc[metric, "gain"]
    monkeypatch.setattr(simulated_readers, "_expected", lambda *_: truth.expected)
    covered = []
    for seed in range(1000):
        readings, _ = simulate_readings(exams, POPULATION, **STUDY | {"seed": seed})
        cube = readings["reading"].to_numpy().reshape(2, 10, 100)
        result = obuchowski_rockette(
            cube, readings["truth"].to_numpy()[:100], metric=metric, confidence=0.95
        )
        row = result.differences.set_index("analysis").loc[BOTH_RANDOM]
        covered.append(row["low"] <= gain <= row["high"])
    assert 0.93 <= np.mean(covered) <= 0.97
