"""How far: steps of one scale, each of which includes the ones before it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad, softplus

from lightning_modules.tasks.binary import Binary
from lightning_modules.tasks.task import Task


@dataclass(frozen=True)
class Ordinal(Binary):
    """Labels from the mildest to the severest, each 1 only where all before it are.

    The logits fall from label to label, so that probabilities never contradict each other: the
    first output is the first logit, and softplus of each other one is the step down to the next.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.labels) < 2:
            raise ValueError("steps are two or more, the mildest first: target=[mild,severe]")

    def check(self, targets: NDArray[np.float64]) -> dict[int, str]:
        rising = (targets[:, 1:] == 1) & (targets[:, :-1] == 0)
        told = ", ".join(self.labels)
        return {
            int(row): f"a step is reached and the one before it is not ({told}, mildest first)"
            for row in np.flatnonzero(rising.any(axis=1))
        }

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        return super().loss(self.values(outputs), target)

    def values(self, outputs: Tensor) -> Tensor:
        """Logits, falling from label to label."""
        return outputs[:, :1] - pad(softplus(outputs[:, 1:]).cumsum(1), (1, 0))

    def recalibration(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """None: what one output is moved by, the other labels would feel."""
        return Task.recalibration(self, outputs, target)

    def together(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """No step likelier than the one before it."""
        return np.minimum.accumulate(values, axis=1)
