"""The statistics on arrays are those of the tables, and other people's."""

import doctest
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from sklearn.metrics import brier_score_loss, roc_auc_score

import experiments.evaluation as evaluation
from experiments.evaluation import (
    agreement_of,
    arrays,
    auroc_difference,
    auroc_of,
    calibration_of,
    compare,
    pool,
    pooled_auroc,
    reader_study_of,
    summarise,
)
from experiments.evaluation.auroc import DELONG, Estimate


@pytest.fixture
def exams() -> dict[str, Any]:
    random = np.random.default_rng(3)
    target = (random.random(300) < 0.3).astype(int)
    probability = 1 / (1 + np.exp(-(1.5 * target - 1.2 + random.normal(size=300))))
    other = 1 / (1 + np.exp(-(0.7 * target - 1 + random.normal(size=300))))
    return {
        "target": target,
        "probability": probability,
        "other": other,
        "patient": random.integers(200, size=300),
        "site": np.repeat(["a", "b", "c"], 100),
    }


def test_the_examples_are_true() -> None:
    assert doctest.testmod(arrays).failed == 0
    assert doctest.testmod(arrays).attempted > 15


def test_every_name_is_there() -> None:
    for name in evaluation.__all__:
        assert getattr(evaluation, name).__doc__
    assert set(evaluation._PLACES) <= set(evaluation.__all__)
    with pytest.raises(ImportError):
        exec("from experiments.evaluation import nothing_of_the_kind")


def table(exams: dict[str, Any], *, pooled: bool) -> pd.DataFrame:
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "model": model,
                    "label": "target",
                    "institution": exams["site"] if pooled else "here",
                    "split": "external",
                    "patient_id": exams["patient"],
                    "exam_id": np.arange(300),
                    "target": exams["target"],
                    "logit": 0.0,
                    "probability": exams[model],
                }
            )
            for model in ("probability", "other")
        ],
        ignore_index=True,
    )


@pytest.mark.parametrize("pooled", [False, True])
def test_arrays_give_what_tables_give(exams: dict[str, Any], pooled: bool) -> None:
    target, score, other, patient = (
        exams[name] for name in ("target", "probability", "other", "patient")
    )
    settings: dict[str, Any] = {"confidence": 0.9, "resamples": 300, "seed": 7}
    strata = exams["site"] if pooled else None
    predictions = table(exams, pooled=pooled)
    row = summarise(predictions, **settings).query("model == 'probability'").iloc[-1]
    found = auroc_of(target, score, patient, strata=strata, **settings)
    assert (found.value, found.low, found.high, found.method) == (
        row["auroc"],
        row["auroc_low"],
        row["auroc_high"],
        row["method"],
    )
    assert found.value == pytest.approx(roc_auc_score(target, score))
    pair = compare(predictions, **settings).iloc[-1]
    difference = auroc_difference(target, score, other, patient, strata=strata, **settings)
    assert (difference.difference, difference.low, difference.p, difference.method) == (
        pair["difference"],
        pair["difference_low"],
        pair["p"],
        pair["method"],
    )
    alone = auroc_difference(target, score, other)
    assert (alone.method, alone.n) == (DELONG, 300)
    same = auroc_difference(target, score, score)
    assert (same.difference, same.p) == (0, 1)


def test_calibration_is_a_logistic_regression(exams: dict[str, Any]) -> None:
    target, probability = exams["target"], exams["probability"]
    found = calibration_of(target, probability, resamples=200)
    assert found["brier"] == pytest.approx(brier_score_loss(target, probability))
    logit = np.log(probability / (1 - probability))
    fitted = sm.Logit(target, sm.add_constant(logit)).fit(disp=False)
    assert found["slope"] == pytest.approx(fitted.params[1], abs=1e-6)
    assert (found["slope_low"], found["slope_high"]) == pytest.approx(
        tuple(fitted.conf_int()[1]), abs=1e-5
    )
    assert found["observed_expected"] == pytest.approx(target.sum() / probability.sum())


def test_pooling_is_on_the_logit_scale() -> None:
    bounds = [(0.80, 0.70, 0.87), (0.90, 0.85, 0.93), (0.75, 0.60, 0.86)]
    estimates = [Estimate(*of, 100, 20, "") for of in bounds]

    def logit(p: Any) -> Any:
        return np.log(np.asarray(p) / (1 - np.asarray(p)))

    values, lows, highs = np.array(bounds).T
    errors = (logit(highs) - logit(lows)) / (2 * 1.959963984540054)
    expected = pool(logit(values), errors, confidence=0.95)
    found = pooled_auroc(estimates)
    assert logit([found.estimate, found.low, found.high]) == pytest.approx(
        [expected.estimate, expected.low, expected.high]
    )
    assert (found.k, found.tau_squared) == (3, pytest.approx(expected.tau_squared))
    not_estimable = Estimate(None, None, None, 5, 0, "not estimable")
    assert pooled_auroc([*estimates, not_estimable]) == found
    with pytest.raises(ValueError, match="none of the AUROCs"):
        pooled_auroc([not_estimable])


def test_agreement_is_bland_and_altmans() -> None:
    random = np.random.default_rng(0)
    truth = random.normal(55, 10, 80)
    errors = random.normal(1.5, 4, 80)
    found = agreement_of(truth, truth + errors)
    half = 1.959963984540054 * errors.std(ddof=1)
    assert found["bias"] == pytest.approx(errors.mean())
    assert (found["lower_limit"], found["upper_limit"]) == pytest.approx(
        (errors.mean() - half, errors.mean() + half)
    )


def test_readings_are_checked() -> None:
    row = {"reader": "a", "case": "1", "arm": "without", "reading": 2.0, "truth": 1}
    with pytest.raises(Exception, match="must be a number from 0 to 1"):
        reader_study_of(pd.DataFrame([row]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 1, 2, 1], [0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4]), "a target is 0 or 1"),
        (([0, 1, 0, 1], [0.1, 0.2, 0.3], [0.1, 0.2, 0.3, 0.4]), r"a \(3,\) must be \[4\]"),
        (([0, 1, 0, 1], [0.1, np.nan, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4]), "a score is NaN"),
        (
            ([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4], [1, 2]),
            r"patient_id \(2,\) must be \[4\]",
        ),
    ],
)
def test_arrays_that_cannot_be(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        auroc_difference(*arguments)
    with pytest.raises(ValueError, match="a probability is not between 0 and 1"):
        calibration_of([0, 1, 0, 1], [0.1, 0.2, 0.3, 1.4])
