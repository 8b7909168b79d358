"""The binary task: threshold, recalibration and rows, against a literal search and scikit-learn."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score

from lightning_modules.classifier import build_task
from lightning_modules.tasks.binary import Binary
from lightning_modules.tasks.decision import logit_of

TASK = Binary(("lvsd",))


def threshold_of(target: object, probability: object) -> float:
    (threshold,) = TASK.thresholds(pd.DataFrame({"target": target, "probability": probability}))
    return threshold


def youden(target: NDArray[np.int64], probability: NDArray[np.float64], cut: float) -> float:
    called = probability >= cut
    return float(called[target == 1].mean() - called[target == 0].mean())


def drawn(seed: int, n: int = 300) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    generator = np.random.default_rng(seed)
    target = generator.integers(0, 2, n)
    return target, generator.beta(2 + target, 3)


@pytest.mark.parametrize("digits", [1, 2, 15])
def test_the_threshold_is_the_best_of_all_cuts_and_between_two_exams(digits: int) -> None:
    target, probability = drawn(digits)
    probability = probability.round(digits)
    threshold = threshold_of(target, probability)
    every = [youden(target, probability, cut) for cut in np.unique(probability)]
    assert youden(target, probability, threshold) == pytest.approx(max(every), abs=1e-12)
    below = probability[probability < threshold].max()
    above = probability[probability >= threshold].min()
    assert threshold == pytest.approx((below + above) / 2)


def test_the_threshold_by_hand() -> None:
    assert threshold_of([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.8]) == pytest.approx(0.4)
    # cutting at 0.3 or 0.7 is equally good: the lower one misses no positive
    tied = threshold_of([0, 1, 0, 1], [0.2, 0.4, 0.6, 0.8])
    assert tied == pytest.approx(0.3)
    assert threshold_of([1, 0, 1, 0], [0.8, 0.6, 0.4, 0.2]) == tied


def test_no_use_in_a_cut() -> None:
    assert threshold_of([0, 1], [0.5, 0.5]) == 0.5
    assert threshold_of([1, 0], [0.3, 0.7]) == 0.3  # reversed scores: call everything positive


def test_neighbouring_floats_stay_apart() -> None:
    low = 0.3
    high = np.nextafter(low, 1)
    threshold = threshold_of([0, 1], [low, high])
    assert low < threshold <= high


@pytest.mark.parametrize("target", [[0, 0], [1, 1], []])
def test_a_threshold_needs_both_classes(target: list[int]) -> None:
    with pytest.raises(ValueError, match="both classes"):
        threshold_of(target, np.linspace(0, 1, len(target)))


@pytest.mark.parametrize("seed", range(4))
def test_platt_is_scikit_learns_regression_without_a_penalty(seed: int) -> None:
    target, probability = drawn(seed)
    platt = TASK.recalibrations(target, probability)["platt"]
    reference = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000)
    reference.fit(logit_of(probability)[:, None], target)
    others = np.linspace(0.001, 0.999, 50)
    expected = reference.predict_proba(logit_of(others)[:, None])[:, 1]
    np.testing.assert_allclose(platt(others), expected, atol=1e-6)


@pytest.mark.parametrize("digits", [1, 15])
def test_isotonic_is_scikit_learns(digits: int) -> None:
    target, probability = drawn(7)
    probability = probability.round(digits)
    isotonic = TASK.recalibrations(target, probability)["isotonic"]
    reference = IsotonicRegression(out_of_bounds="clip").fit(probability, target)
    others = np.linspace(0, 1, 101)
    np.testing.assert_allclose(isotonic(others), reference.predict(others), atol=1e-12)
    assert (np.diff(isotonic(others)) >= 0).all()


def test_none_changes_nothing_and_separated_classes_have_no_platt() -> None:
    target, probability = drawn(0)
    recalibrations = TASK.recalibrations(target, probability)
    assert list(recalibrations) == ["none", "platt", "isotonic"]
    np.testing.assert_array_equal(recalibrations["none"](probability), probability)
    assert list(TASK.recalibrations([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.8])) == ["none", "isotonic"]
    assert list(TASK.recalibrations([0, 1, 0, 1], [0.5] * 4)) == ["none", "isotonic"]


def test_logits_of_certain_probabilities_are_finite() -> None:
    assert np.isfinite(logit_of([0.0, 1.0])).all()
    np.testing.assert_allclose(expit(logit_of([1e-6, 0.3])), [1e-6, 0.3])


def test_rows_of_predictions() -> None:
    exams = pd.DataFrame({"exam_id": ["a", "b"], "target": [1.0, np.nan]}, index=[4, 9])
    rows = TASK.rows(exams, np.array([[0.0], [-2.0]]))
    assert rows.columns.tolist() == ["exam_id", "target", "label", "logit", "probability"]
    assert rows["label"].tolist() == ["lvsd", "lvsd"]
    assert rows["logit"].tolist() == [0, -2]
    np.testing.assert_allclose(rows["probability"], [0.5, expit(-2.0)])
    np.testing.assert_array_equal(rows["target"], [1, np.nan])
    assert "label" not in exams


def test_validation_metrics_and_score_are_scikit_learns() -> None:
    target, probability = drawn(1)
    outputs = torch.tensor(logit_of(probability))[:, None]
    metrics = TASK.metrics()
    logged = metrics(TASK.scores(outputs), torch.tensor(target)[:, None])
    assert logged.keys() == {"val/auroc", "val/average_precision"}
    assert TASK.monitored in logged
    assert logged["val/auroc"].item() == pytest.approx(roc_auc_score(target, probability), abs=1e-6)
    assert logged["val/average_precision"].item() == pytest.approx(
        average_precision_score(target, probability), abs=1e-6
    )
    rows = pd.DataFrame({"target": target, "logit": logit_of(probability)})
    assert TASK.score(rows) == pytest.approx(roc_auc_score(target, probability))


def test_weights_are_against_imbalance_where_that_is_asked() -> None:
    targets = np.array([[1.0], [0.0], [0.0], [0.0]])
    assert TASK.weights(targets, balance=True) == [3.0]
    assert TASK.weights(targets, balance=False) == [1.0]


@pytest.mark.parametrize("labels", [(), ("lvsd", "ph")])
def test_a_binary_task_has_one_label(labels: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=f"one label, not {len(labels)}"):
        Binary(labels)


def test_it_travels_as_plain_values() -> None:
    values = json.loads(json.dumps(TASK.as_dict()))
    assert values == {"labels": ["lvsd"]}
    assert build_task({"_target_": "lightning_modules.tasks.binary.Binary", **values}) == TASK
