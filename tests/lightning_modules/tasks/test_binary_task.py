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
from lightning_modules.tasks.decision import logit_of, recalibrations

TASK, TWO = Binary(("lvsd",)), Binary(("lvsd", "ph"))


def threshold_of(target: object, probability: object) -> float:
    rows = pd.DataFrame({"label": "lvsd", "target": target, "probability": probability})
    (threshold,) = TASK.thresholds(rows)
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
    platt = recalibrations(target, probability)["platt"]
    reference = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000)
    reference.fit(logit_of(probability)[:, None], target)
    others = np.linspace(0.001, 0.999, 50)
    expected = reference.predict_proba(logit_of(others)[:, None])[:, 1]
    np.testing.assert_allclose(platt(others), expected, atol=1e-6)


@pytest.mark.parametrize("digits", [1, 15])
def test_isotonic_is_scikit_learns(digits: int) -> None:
    target, probability = drawn(7)
    probability = probability.round(digits)
    isotonic = recalibrations(target, probability)["isotonic"]
    reference = IsotonicRegression(out_of_bounds="clip").fit(probability, target)
    others = np.linspace(0, 1, 101)
    np.testing.assert_allclose(isotonic(others), reference.predict(others), atol=1e-12)
    assert (np.diff(isotonic(others)) >= 0).all()


def test_none_changes_nothing_and_separated_classes_have_no_platt() -> None:
    target, probability = drawn(0)
    found = recalibrations(target, probability)
    assert list(found) == ["none", "platt", "isotonic"]
    np.testing.assert_array_equal(found["none"](probability), probability)
    assert list(recalibrations([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.8])) == ["none", "isotonic"]
    assert list(recalibrations([0, 1, 0, 1], [0.5] * 4)) == ["none", "isotonic"]


def test_logits_of_certain_probabilities_are_finite() -> None:
    assert np.isfinite(logit_of([0.0, 1.0])).all()
    np.testing.assert_allclose(expit(logit_of([1e-6, 0.3])), [1e-6, 0.3])


def test_rows_of_predictions() -> None:
    exams = pd.DataFrame({"exam_id": ["a", "b"]}, index=[4, 9])
    targets, logits = np.array([[1.0, 0.0], [np.nan, 1.0]]), np.array([[0.0, 1.0], [-2.0, 3.0]])
    rows = TWO.rows(exams, targets, logits)
    assert rows.columns.tolist() == ["exam_id", "label", "target", "logit", "probability"]
    assert rows["label"].tolist() == ["lvsd", "lvsd", "ph", "ph"]
    assert rows["exam_id"].tolist() == ["a", "b", "a", "b"]
    assert rows["logit"].tolist() == [0, -2, 1, 3]
    np.testing.assert_allclose(rows["probability"], expit([0.0, -2.0, 1.0, 3.0]))
    np.testing.assert_array_equal(rows["target"], [1, np.nan, 0, 1])
    assert "label" not in exams


def test_validation_metrics_and_score_are_scikit_learns() -> None:
    target, probability = drawn(1)
    outputs = torch.tensor(logit_of(probability))[:, None]
    logged = TASK.measured(outputs, torch.tensor(target)[:, None].double())
    assert logged.keys() == {"val/auroc", "val/average_precision"}
    assert TASK.monitored in logged
    assert logged["val/auroc"].item() == pytest.approx(roc_auc_score(target, probability), abs=1e-6)
    assert logged["val/average_precision"].item() == pytest.approx(
        average_precision_score(target, probability), abs=1e-6
    )
    rows = pd.DataFrame({"label": "lvsd", "target": target, "logit": logit_of(probability)})
    assert TASK.score(rows) == pytest.approx(roc_auc_score(target, probability))


def three_labels() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Targets and logits (300, 3): of the first some are not known, the last are all of one."""
    generator = np.random.default_rng(7)
    targets = generator.integers(0, 2, (300, 3)).astype(float)
    logits = generator.standard_normal((300, 3)) + targets
    targets[:50, 0], targets[:, 2] = np.nan, 0.0
    return targets, logits


def test_of_several_labels_the_mean_over_those_with_both_classes() -> None:
    targets, logits = three_labels()
    task = Binary(("a", "b", "c"))
    known = slice(50, None), slice(None)
    aurocs = [roc_auc_score(targets[k, i], logits[k, i]) for i, k in enumerate(known)]
    precisions = [average_precision_score(targets[k, i], logits[k, i]) for i, k in enumerate(known)]
    logged = task.measured(torch.tensor(logits), torch.tensor(targets))
    assert logged["val/auroc"].item() == pytest.approx(np.mean(aurocs), abs=1e-6)
    assert logged["val/average_precision"].item() == pytest.approx(np.mean(precisions), abs=1e-6)
    rows = task.rows(pd.DataFrame(index=range(300)), targets, logits)
    assert task.score(rows) == pytest.approx(np.mean(aurocs))
    first, second, third = task.thresholds(rows)
    assert first == threshold_of(targets[50:, 0], expit(logits[50:, 0]))
    assert second == threshold_of(targets[:, 1], expit(logits[:, 1]))
    assert np.isnan(third)
    one_class = rows[rows["label"] == "c"]
    with pytest.raises(ValueError, match="both classes"):
        task.thresholds(one_class)


def test_the_loss_is_the_mean_over_known_targets() -> None:
    targets, logits = three_labels()
    targets[:, 2] = np.arange(300) % 2
    task = Binary(("a", "b", "c")).fitted(targets, balance=False)
    known = ~np.isnan(targets)
    signed = np.where(targets[known] == 1, -logits[known], logits[known])
    expected = np.logaddexp(0, signed).mean()
    outputs = torch.tensor(logits, requires_grad=True)
    loss = task.loss(outputs, torch.tensor(targets))
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    assert outputs.grad is not None
    assert (outputs.grad.numpy() != 0).tolist() == known.tolist()
    nothing = task.loss(torch.ones(2, 3), torch.full((2, 3), torch.nan))
    assert nothing.item() == 0


def test_weights_are_against_imbalance_where_that_is_asked() -> None:
    targets = np.array([[1.0, 0.0], [0.0, np.nan], [0.0, 1.0], [0.0, 1.0]])
    assert TWO.fitted(targets, balance=True).positive_weights == (3.0, 0.5)
    assert TWO.fitted(targets, balance=False).positive_weights == (1.0, 1.0)
    with pytest.raises(ValueError, match="ph: of 2 training exams 2 are positive"):
        TWO.fitted(np.array([[1.0, 1.0], [0.0, 1.0]]), balance=False)


@pytest.mark.parametrize("labels", [(), ("lvsd", "lvsd")])
def test_labels_are_there_and_each_once(labels: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="each once"):
        Binary(labels)


def test_an_answer_for_one_exam() -> None:
    answer = TASK.answer(0.0, 0.4)
    assert answer == {"probability": 0.5, "threshold": 0.4, "positive": True}
    unset = TASK.answer(-1.0, float("nan"))
    assert unset == {"probability": expit(-1.0), "threshold": None, "positive": None}


def test_stacking_is_scikit_learns_logistic_regression() -> None:
    generator = np.random.default_rng(3)
    features = generator.standard_normal((200, 2))
    target = (features[:, 0] + generator.standard_normal(200) > 0).astype(float)
    reference = LogisticRegression(C=2.0, max_iter=1000).fit(features, target)
    stacked = TASK.stacked(features, target, features, penalty=0.5)
    np.testing.assert_allclose(stacked, reference.decision_function(features))


def test_it_travels_as_plain_values() -> None:
    fitted = TWO.fitted(np.array([[1.0, 0.0], [0.0, 1.0]]), balance=True)
    values = json.loads(json.dumps(fitted.as_dict()))
    assert values == {"labels": ["lvsd", "ph"], "positive_weights": [1.0, 1.0]}
    assert build_task({"_target_": "lightning_modules.tasks.binary.Binary", **values}) == fitted
