"""The protocol that every task follows, so that nothing else asks which task it is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torchmetrics import MetricCollection

from lightning_modules.tasks.decision import Recalibration


@dataclass(frozen=True)
class Task(ABC):
    """What a model is asked about an exam.

    A subclass is a frozen dataclass of plain values, so that a checkpoint carries it. `labels` name
    what is asked, in the order of targets (n, labels) and of outputs (n, outputs).

    monitored: the validation metric that chooses the epoch, best where it is highest; shown: metric
    -> words for it.
    """

    monitored: ClassVar[str]
    shown: ClassVar[Mapping[str, str]]

    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))

    def as_dict(self) -> dict[str, Any]:
        """Plain values: numbers, text, lists."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @property
    @abstractmethod
    def outputs(self) -> int:
        """How many numbers a network gives for an exam."""

    @abstractmethod
    def weights(self, targets: NDArray[np.float64], *, balance: bool) -> list[float]:
        """What `loss` weighs training exams (n, labels) by; with `balance` against imbalance."""

    @abstractmethod
    def loss(self, outputs: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """The mean loss of outputs (B, outputs) against targets (B, labels)."""

    @abstractmethod
    def metrics(self) -> MetricCollection:
        """Validation metrics, `monitored` among them, of `scores` and targets over whole epochs."""

    @abstractmethod
    def scores(self, outputs: Tensor) -> Tensor:
        """Outputs (n, outputs) -> what `metrics` and people read."""

    @abstractmethod
    def thresholds(self, rows: pd.DataFrame) -> list[float]:
        """Each label's operating threshold, chosen on the `rows` of validation exams; ValueError
        where they allow none."""

    @abstractmethod
    def recalibrations(self, target: ArrayLike, probability: ArrayLike) -> dict[str, Recalibration]:
        """By their names, the recalibrations that these validation exams (n,) of a label allow."""

    @abstractmethod
    def rows(self, exams: pd.DataFrame, outputs: NDArray[np.float64]) -> pd.DataFrame:
        """Predictions of `exams` from outputs (n, outputs): their columns, long form, a row an exam
        and label, with label, target, logit and probability."""

    @abstractmethod
    def score(self, rows: pd.DataFrame) -> float:
        """`monitored` of predictions `rows`, exactly; the higher, the better the model."""

    @property
    @abstractmethod
    def classed(self) -> tuple[str, ...]:
        """The labels that need exams of both classes, 0 and 1, to learn and to validate."""
