"""Linear models of any task, fitted to convergence: ridge and logistic regression."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_modules.tasks.task import Task


def ridge(task: Task, weight: Tensor, target: Tensor, penalty: float) -> Tensor:
    """What a linear model's loss has beside the task's mean over n exams: penalty / (2 n) *
    |weight|^2. `target` (n, labels) is theirs."""
    return penalty / (2 * task.terms(target)) * weight.square().sum()


def converging(parameters: Iterable[nn.Parameter]) -> torch.optim.LBFGS:
    """An optimiser whose one step goes to the optimum, as far as double precision holds it."""
    return torch.optim.LBFGS(
        parameters,
        max_iter=1000,
        tolerance_grad=1e-10,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )


@dataclass(frozen=True)
class Directions:
    """What is known of features before any label: combinations of them, weights (m, D), each the
    longer the likelier it is to matter, and how much all standardised features weigh `beside`."""

    weights: Tensor
    beside: float


def fit_linear(
    task: Task,
    seen: Tensor,
    target: Tensor,
    penalty: float,
    directions: Directions | None = None,
) -> nn.Linear:
    """The linear layer from features (n, D) to the task's outputs that has the least penalised loss
    for the targets (n, labels).

    The penalty is on weights of standardised features, and folded back into the layer: it takes
    `seen` as they are. A feature that does not vary gets no weight. With `directions` it is on
    weights of those, and of the standardised features beside.
    """
    seen, target = seen.double(), target.double()
    mean, deviation = seen.mean(0), seen.std(0, correction=0)
    varies = deviation > 1e-6 * deviation.max()
    known = torch.diag(torch.where(varies, 1 / deviation.where(varies, 1.0), 0.0))
    if directions is not None:
        known = torch.cat([directions.weights.double(), directions.beside * known])
    standard = (seen - mean) @ known.T
    fitted = nn.Linear(len(known), task.outputs, dtype=torch.float64)
    nn.init.zeros_(fitted.weight)
    nn.init.zeros_(fitted.bias)
    optimiser = converging(fitted.parameters())

    def loss() -> Tensor:
        optimiser.zero_grad()
        total = task.loss(fitted(standard), target) + ridge(task, fitted.weight, target, penalty)
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with torch.enable_grad():
        optimiser.step(loss)  # type: ignore[no-untyped-call]
    layer = nn.Linear(seen.shape[1], task.outputs, dtype=torch.float64).requires_grad_(False)
    layer.weight.copy_(fitted.weight @ known)
    layer.bias.copy_(fitted.bias - layer.weight @ mean)
    return layer


def chosen_penalty(
    task: Task,
    seen: Tensor,
    target: Tensor,
    patients: Sequence[str],
    penalties: Sequence[float],
    directions: Directions | None = None,
    *,
    folds: int = 5,
) -> float:
    """Of several penalties, the one with the least loss in patients left out.

    `patients` (n,) names each exam's. The loss is the task's mean over all folds; of equals the
    larger penalty is taken. Where a fold would leave nothing to learn from, as with fewer positive
    patients than two, it is the largest.
    """
    if len(penalties) == 1:
        return penalties[0]
    number = dealt(target, patients, folds)
    losses = np.zeros(len(penalties))
    for fold in range(folds):
        out = torch.from_numpy(number == fold)
        try:
            task.fitted(target[~out].double().numpy(), balance=False)
        except ValueError:
            return max(penalties)
        if not out.any():
            continue
        share = task.terms(target[out]).item()
        for i, penalty in enumerate(penalties):
            layer = fit_linear(task, seen[~out], target[~out], penalty, directions)
            losses[i] += share * task.loss(layer(seen[out].double()), target[out].double()).item()
    best = losses.min()
    return max(of for of, loss in zip(penalties, losses, strict=True) if loss <= best * (1 + 1e-9))


def dealt(target: Tensor, patients: Sequence[str], folds: int) -> NDArray[np.int64]:
    """Each exam's fold (n,): patients are dealt in the order of what is known of them, so that
    rare targets are spread over the folds."""
    known = target.double().nan_to_num(0.0).numpy()
    highest: dict[str, tuple[float, ...]] = {}
    for patient, values in zip(patients, known.tolist(), strict=True):
        highest[patient] = max(highest.get(patient, tuple(values)), tuple(values))
    order = sorted(highest, key=lambda patient: (highest[patient], patient))
    of = {patient: place % folds for place, patient in enumerate(order)}
    return np.array([of[patient] for patient in patients], np.int64)
