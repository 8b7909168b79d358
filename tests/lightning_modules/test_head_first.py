"""A head that starts as a linear model, against scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from tiny import CNN, LVSD, VIT, classifier, exams

from lightning_modules.linear import chosen_penalty, dealt, fit_linear
from lightning_modules.networks.network import embedding
from lightning_modules.tasks.binary import Binary
from lightning_modules.tasks.multiclass import Multiclass
from lightning_modules.tasks.regression import Regression


@pytest.fixture(scope="module")
def seen() -> tuple[np.ndarray, np.ndarray]:
    """Features (120, 5) of unlike scales, one that never varies, and targets (120,)."""
    generator = np.random.default_rng(3)
    features = generator.standard_normal((120, 5)) * [1, 50, 0.01, 3, 0] + [0, 9, 1, -4, 7]
    log_odds = features[:, 0] - features[:, 1] / 60
    return features, (generator.random(120) < 1 / (1 + np.exp(-log_odds))).astype(float)


def reference(features: np.ndarray, target: np.ndarray, penalty: float) -> np.ndarray:
    standard = StandardScaler().fit_transform(features)
    model = LogisticRegression(C=1 / penalty, tol=1e-12, max_iter=5000).fit(standard, target)
    return np.asarray(model.decision_function(standard))


@pytest.mark.parametrize("network", [VIT, CNN], ids=["vit", "resnet1d"])
@pytest.mark.parametrize("penalty", [30.0, 300.0])
def test_before_the_first_step_outputs_are_scikit_learns(
    network: dict[str, object], penalty: float
) -> None:
    module = classifier(network).eval()
    batches = list(exams(64))
    target = torch.cat([batch["target"] for batch in batches])
    with torch.no_grad():
        features = torch.cat([embedding(module.network, batch["ecg"]) for batch in batches])
        taken = module.begin_head(features, target, [str(i) for i in range(64)], [penalty])
        outputs = torch.cat([module(batch) for batch in batches])
    assert taken == penalty
    expected = reference(features.double().numpy(), target[:, 0].numpy(), penalty)
    np.testing.assert_allclose(outputs[:, 0], expected, atol=1e-4)


def test_of_several_labels_each_is_fitted_on_what_is_known(
    seen: tuple[np.ndarray, np.ndarray],
) -> None:
    features, target = seen
    both = torch.tensor(np.column_stack([target, 1 - target]))
    both[80:, 1] = torch.nan
    task = Binary(("a", "b"), (1.0, 1.0))
    # The mean is over known terms, so the penalty of each is shared by them.
    layer = fit_linear(task, torch.tensor(features), both, 10.0)
    fitted = layer(torch.tensor(features)).detach().numpy()
    standard = StandardScaler().fit_transform(features)
    for label, known in ((0, slice(0, 120)), (1, slice(0, 80))):
        model = LogisticRegression(C=1 / 10, tol=1e-12, max_iter=5000)
        model.fit(standard[known], both[known, label].numpy())
        np.testing.assert_allclose(fitted[:, label], model.decision_function(standard), atol=1e-5)


def test_numbers_are_fitted_by_ridge_regression(seen: tuple[np.ndarray, np.ndarray]) -> None:
    features, _ = seen
    number = features[:, 0] * 4 + features[:, 3] + 55
    task = Regression(("lvef",)).fitted(number[:, None], balance=False)
    layer = fit_linear(task, torch.tensor(features), torch.tensor(number)[:, None], 20.0)
    estimates = task.values(layer(torch.tensor(features))).detach().numpy()[:, 0]
    standard = StandardScaler().fit_transform(features)
    expected = Ridge(alpha=20.0).fit(standard, number).predict(standard)
    np.testing.assert_allclose(estimates, expected, atol=1e-6)


def test_classes_are_fitted_by_multinomial_regression(
    seen: tuple[np.ndarray, np.ndarray],
) -> None:
    features, target = seen
    number = (target + (features[:, 3] > -4)).astype(int)
    one_hot = np.eye(3)[number]
    task = Multiclass(("a", "b", "c"), (1.0, 1.0, 1.0))
    layer = fit_linear(task, torch.tensor(features), torch.tensor(one_hot), 5.0)
    got = torch.softmax(layer(torch.tensor(features)), 1).detach().numpy()
    standard = StandardScaler().fit_transform(features)
    model = LogisticRegression(C=1 / 5, tol=1e-12, max_iter=5000).fit(standard, number)
    np.testing.assert_allclose(got, model.predict_proba(standard), atol=1e-5)


def test_noise_chooses_the_large_penalty_and_signal_the_small_one() -> None:
    generator = np.random.default_rng(0)
    features = torch.tensor(generator.standard_normal((200, 30)))
    patients, task = [str(i // 2) for i in range(200)], Binary(("a",), (1.0,))
    noise = torch.tensor(generator.random((200, 1)) < 0.3).double()
    signal = (features[:, :1] > 0).double()
    assert chosen_penalty(task, features, noise, patients, [0.1, 1000.0]) == 1000.0
    assert chosen_penalty(task, features, signal, patients, [0.1, 1000.0]) == 0.1


def test_a_patient_is_in_one_fold_and_positives_in_all() -> None:
    target = torch.zeros(100, 1)
    target[:10] = 1
    patients = [f"p{i // 2}" for i in range(100)]
    folds = dealt(target, patients, 5)
    assert (folds[::2] == folds[1::2]).all()
    assert set(folds[:10]) == set(range(5))


def test_one_positive_exam_takes_the_largest_penalty() -> None:
    target = torch.zeros(40, 1)
    target[3] = 1
    features = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    patients = [str(i) for i in range(40)]
    task = Binary(("a",), (39.0,))
    assert chosen_penalty(task, features, target, patients, [1.0, 100.0, 10.0]) == 100.0
    assert torch.isfinite(fit_linear(task, features, target, 100.0).weight).all()


def test_a_network_without_a_last_linear_layer_is_refused() -> None:
    module = classifier()
    with pytest.raises(ValueError, match=r"no last nn.Linear\(3, 1\).*head_penalties=null"):
        module.begin_head(torch.randn(8, 3), torch.ones(8, 1), ["a"] * 8, [1.0])


def test_recalibration_travels_in_the_checkpoint_and_leaves_the_order(tmp_path: object) -> None:
    module = classifier(task={**LVSD, "positive_weights": [3.0]}).eval()
    (batch, *_) = exams()
    with torch.no_grad():
        before = module(batch)
        generator = torch.Generator().manual_seed(0)
        # Six times the positives that a model of no discrimination expects.
        logits = torch.full((2000, 1), -3.0) + torch.randn(2000, 1, generator=generator)
        target = (torch.rand(2000, 1, generator=generator) < 0.3).float()
        module.recalibrate(logits, target)
        moved = logits * module.slope + module.intercept
        assert moved.sigmoid().mean().item() == pytest.approx(0.3, abs=0.02)
        assert module.slope.item() > 0
        after = module(batch)
        assert torch.equal(after.argsort(0), before.argsort(0))
        again = classifier(task={**LVSD, "positive_weights": [3.0]}).eval()
        again.load_state_dict(module.state_dict())
        torch.testing.assert_close(again(batch), after, rtol=0, atol=0)


def test_few_positives_hardly_recalibrate() -> None:
    task = Binary(("a",), (1.0,))
    logits = torch.linspace(-3, 1, 20)[:, None]
    nothing = torch.zeros(0, 1)
    slope, intercept = task.recalibration(nothing, nothing)
    assert (slope.item(), intercept.item()) == (1.0, 0.0)
    one = torch.zeros(20, 1)
    one[-1] = 1
    slope, intercept = task.recalibration(logits, one)
    assert 0.7 < slope.item() < 1.5
    assert abs(intercept.item()) < 0.3


def test_classes_and_numbers_are_left_as_they_are() -> None:
    for task in (Multiclass(("a", "b"), (1.0, 1.0)), Regression(("n",), (0.0,), (1.0,))):
        outputs = torch.randn(30, task.outputs)
        slope, intercept = task.recalibration(outputs, torch.ones(30, len(task.labels)))
        assert (slope == 1).all()
        assert (intercept == 0).all()
