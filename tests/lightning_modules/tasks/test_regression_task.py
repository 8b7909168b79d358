"""The regression task against closed forms and scikit-learn."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, mean_squared_error

from lightning_modules.classifier import build_task
from lightning_modules.tasks.regression import Regression

LABELS = ("lvef_percent", "pasp_mmhg")


def drawn() -> tuple[NDArray[np.float64], NDArray[np.float64], Regression]:
    """Targets (200, 2) of which some are not known, outputs (200, 2), and the task fitted on other
    targets of the mean (55, 30) and the deviation (10, 8)."""
    generator = np.random.default_rng(2)
    targets = generator.normal([55, 30], [10, 8], (200, 2))
    outputs = (targets - [55, 30]) / [10, 8] + 0.5 * generator.standard_normal((200, 2))
    targets[:40, 1] = np.nan
    trained = np.array([[45.0, 22.0], [65.0, 38.0], [np.nan, np.nan]])
    return targets, outputs, Regression(LABELS).fitted(trained, balance=True)


def test_it_learns_mean_and_deviation_of_what_is_known() -> None:
    _, _, task = drawn()
    assert task.mean == (55.0, 30.0)
    assert task.deviation == (10.0, 8.0)


@pytest.mark.parametrize(
    ("known", "told"), [([50.0, 50.0], "2 training exams have one value, 50"), ([], "have none")]
)
def test_one_value_is_nothing_to_learn_from(known: list[float], told: str) -> None:
    targets = np.array([*known, np.nan])[:, None]
    with pytest.raises(ValueError, match=f"lvef_percent: the {told}" if known else told):
        Regression(("lvef_percent",)).fitted(targets, balance=False)


def test_estimates_are_in_the_targets_unit() -> None:
    _, outputs, task = drawn()
    estimates = task.values(torch.tensor(outputs)).numpy()
    np.testing.assert_allclose(estimates, outputs * [10, 8] + [55, 30])
    assert task.answer(41.5, float("nan")) == {"estimate": 41.5}


def test_the_loss_is_half_the_mean_square_in_training_deviations() -> None:
    targets, outputs, task = drawn()
    known = ~np.isnan(targets)
    scaled = (targets - [55, 30]) / [10, 8]
    expected = mean_squared_error(scaled[known], outputs[known]) / 2
    made = torch.tensor(outputs, requires_grad=True)
    loss = task.loss(made, torch.tensor(targets))
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    assert made.grad is not None
    assert (made.grad.numpy() != 0).tolist() == known.tolist()
    assert task.loss(torch.ones(2, 2), torch.full((2, 2), torch.nan)).item() == 0


def test_validation_metrics_and_score() -> None:
    targets, outputs, task = drawn()
    estimates = outputs * [10, 8] + [55, 30]
    parts = [(targets[:, 0], estimates[:, 0]), (targets[40:, 1], estimates[40:, 1])]
    squares = [mean_squared_error(*part) for part in parts]
    r2 = np.mean([1 - squares[0] / 100, 1 - squares[1] / 64])
    measured = task.measured(torch.tensor(outputs), torch.tensor(targets))
    assert task.monitored in measured
    assert measured["val/r2"].item() == pytest.approx(r2)
    for label, part in zip(LABELS, parts, strict=True):
        assert measured[f"val/mae/{label}"].item() == pytest.approx(mean_absolute_error(*part))
    rows = task.rows(pd.DataFrame(index=range(200)), targets, estimates)
    assert rows.columns.tolist() == ["label", "truth", "estimate"]
    assert task.score(rows) == pytest.approx(r2)
    assert np.isnan(task.thresholds(rows)).all()


def test_of_one_label_the_error_has_no_name() -> None:
    task = Regression(("lvef_percent",)).fitted(np.array([[45.0], [65.0]]), balance=False)
    measured = task.measured(torch.tensor([[0.0], [1.0]]), torch.tensor([[57.0], [65.0]]))
    assert measured["val/mae"].item() == pytest.approx(1.0)


def test_stacking_is_scikit_learns_ridge() -> None:
    generator = np.random.default_rng(3)
    features, target = generator.standard_normal((50, 3)), generator.normal(55, 10, 50)
    reference = Ridge(alpha=0.7).fit(features, target).predict(features)
    stacked = Regression(("lvef_percent",)).stacked(features, target, features, penalty=0.7)
    np.testing.assert_allclose(stacked, reference)


def test_it_travels_as_plain_values() -> None:
    _, _, task = drawn()
    values = json.loads(json.dumps(task.as_dict()))
    assert (
        build_task({"_target_": "lightning_modules.tasks.regression.Regression", **values}) == task
    )
