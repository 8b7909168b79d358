"""Tasks whose labels hang together: classes of which one holds, and steps that include others."""

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from torch.nn.functional import cross_entropy

from lightning_modules.tasks.multiclass import Multiclass
from lightning_modules.tasks.ordinal import Ordinal

CLASSES = Multiclass(("sinus", "afib", "paced"))
STEPS = Ordinal(("mild", "moderate", "severe"))


def outputs() -> torch.Tensor:
    return 2 * torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double()


def test_probabilities_of_classes_are_the_softmax() -> None:
    made = outputs()
    probabilities = expit(CLASSES.values(made).numpy())
    np.testing.assert_allclose(probabilities, softmax(made.numpy(), axis=1), atol=1e-12)


def test_the_loss_of_classes_is_cross_entropy_of_known_exams() -> None:
    made, truth = outputs(), torch.arange(50) % 3
    target = torch.eye(3).double()[truth]
    target[40:] = torch.nan
    task = CLASSES.fitted(target.numpy(), balance=False)
    loss = task.loss(made, target)
    assert loss.item() == pytest.approx(cross_entropy(made[:40], truth[:40]).item())


def test_weights_of_classes_leave_the_best_probabilities_as_they_are() -> None:
    target = torch.eye(3).double()[torch.tensor([0] * 60 + [1] * 30 + [2] * 10)]
    task = CLASSES.fitted(target.numpy(), balance=True)
    np.testing.assert_allclose(task.positive_weights, [1 / 1.8, 1 / 0.9, 1 / 0.3])
    logits = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64).log().requires_grad_()
    task.loss(logits.expand(100, 3), target).backward()
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad, 0, atol=1e-12)
    # Where the adjusted outputs are all alike, each class is a third of the loss.
    flat = torch.zeros(3).double() - torch.tensor(task.positive_weights).double().log()
    parts = [
        task.loss(flat.expand(100, 3), target.where(target[:, [k]] == 1, 0.0)) for k in range(3)
    ]
    np.testing.assert_allclose([float(p) for p in parts], np.log(3) / 3)


def test_what_was_made_class_by_class_is_put_together() -> None:
    values = np.array([[0.0, -1.0, -2.0], [3.0, 2.0, 1.0]])
    together = expit(CLASSES.together(values))
    np.testing.assert_allclose(together.sum(axis=1), 1)
    np.testing.assert_allclose(together[0] / together[0, 0], expit(values[0]) / expit(0.0))
    steps = STEPS.together(np.array([[1.0, 2.0, -1.0]]))
    np.testing.assert_array_equal(steps, [[1.0, 1.0, -1.0]])


@pytest.mark.parametrize(
    ("target", "wrong"),
    [
        ([1.0, 0.0, 0.0], False),
        ([np.nan, np.nan, np.nan], False),
        ([1.0, 1.0, 0.0], True),
        ([0.0, 0.0, 0.0], True),
        ([1.0, 0.0, np.nan], True),
    ],
)
def test_exactly_one_class_holds(target: list[float], wrong: bool) -> None:
    found = CLASSES.check(np.array([[0.0, 1.0, 0.0], target]))
    assert list(found) == [1] * wrong
    assert all("exactly one of sinus, afib, paced must be 1" in told for told in found.values())


def test_steps_are_never_less_likely_than_what_includes_them() -> None:
    made = outputs()
    values = STEPS.values(made)
    assert (values[:, 1:] < values[:, :-1]).all()
    torch.testing.assert_close(values[:, 0], made[:, 0])
    step = np.log1p(np.exp(made[:, 1].numpy()))
    np.testing.assert_allclose(values[:, 1], made[:, 0].numpy() - step)


def test_the_loss_of_steps_is_that_of_their_logits() -> None:
    made = outputs()
    target = (torch.arange(3) < (torch.arange(50) % 4)[:, None]).double()
    task = STEPS.fitted(target.numpy(), balance=False)
    logits = STEPS.values(made).numpy()
    signed = np.where(target.numpy() == 1, -logits, logits)
    assert task.loss(made, target).item() == pytest.approx(np.logaddexp(0, signed).mean())


def test_a_step_needs_the_one_before_it() -> None:
    targets = [[0, 0, 0], [1, 1, 0], [0, 1, 0], [np.nan, 1, 1], [1, 0, 1]]
    assert list(STEPS.check(np.array(targets, dtype=float))) == [2, 4]


@pytest.mark.parametrize("task", [Multiclass, Ordinal])
def test_one_label_is_too_few(task: type[Multiclass]) -> None:
    with pytest.raises(ValueError, match="two or more"):
        task(("afib",))
