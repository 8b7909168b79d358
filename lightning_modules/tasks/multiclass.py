"""Which one: classes of which every exam has exactly one, each a label of its own."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor
from torch.nn.functional import log_softmax

from lightning_modules.tasks.binary import Binary
from lightning_modules.tasks.decision import logit_of
from lightning_modules.tasks.task import Task


@dataclass(frozen=True)
class Multiclass(Binary):
    """Labels of which exactly one is 1: softmax cross-entropy, each label judged against the rest.

    Targets are (B, labels) in {0, 1}, of an exam all known or none, outputs (B, labels) whose
    softmax are the probabilities.

    positive_weights: of each class in the loss, learned of training targets: exams / (classes x
    exams of the class), or 1.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.labels) < 2:
            raise ValueError("classes are two or more: target=[one,other]")

    def check(self, targets: NDArray[np.float64]) -> dict[int, str]:
        unknown = np.isnan(targets)
        wrong = (unknown.any(axis=1) & ~unknown.all(axis=1)) | (
            ~unknown.any(axis=1) & (targets.sum(axis=1) != 1)
        )
        told = ", ".join(self.labels)
        return {
            int(row): f"exactly one of {told} must be 1, and the others 0, or all empty"
            for row in np.flatnonzero(wrong)
        }

    def fitted(self, targets: NDArray[np.float64], *, balance: bool) -> Self:
        fitted = super().fitted(targets, balance=False)
        if not balance:
            return fitted
        shares = np.nanmean(targets, axis=0)
        return replace(fitted, positive_weights=tuple((1 / (len(shares) * shares)).tolist()))

    def terms(self, target: Tensor) -> Tensor:
        """One for each exam whose class is known."""
        return (~target.isnan()).all(1).sum().clamp_min(1)

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Weighted softmax cross-entropy whose optimum are the unweighted probabilities: the log of
        the weights is taken off the outputs, as `Binary` does."""
        weights = outputs.new_tensor(self.positive_weights)
        weighted = target.where(~target.isnan(), 0.0) * weights
        return -(log_softmax(outputs + weights.log(), 1) * weighted).sum() / self.terms(target)

    def values(self, outputs: Tensor) -> Tensor:
        """The logits of the softmax's probabilities: each against the rest."""
        others = outputs[:, None].expand(-1, len(self.labels), -1).clone()
        others.diagonal(dim1=1, dim2=2).fill_(-float("inf"))
        return outputs - others.logsumexp(2)

    def recalibration(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """None: what one output is moved by, the other labels would feel."""
        return Task.recalibration(self, outputs, target)

    def together(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities that sum to 1."""
        probability = expit(values)
        return logit_of(probability / probability.sum(axis=1, keepdims=True))
