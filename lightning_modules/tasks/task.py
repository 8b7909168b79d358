"""The protocol that every task follows, so that nothing else asks which task it is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Task(ABC):
    """What a model is asked about an exam.

    A subclass is a frozen dataclass of plain values, settings and what was learned of training
    targets, so that a checkpoint carries it. `labels` name what is asked, in the order of targets
    (n, labels), in which NaN is not known, and of `values` (n, labels).

    monitored: the validation metric that chooses the epoch, best where it is highest; shown: metric
    -> words for it. truth, value: the columns of predictions that targets and `values` are in.
    learned: the fields that `fitted` fills. classed: whether every target is 0 or 1. linear: what a
    linear model of it is called.
    """

    monitored: ClassVar[str]
    shown: ClassVar[Mapping[str, str]]
    truth: ClassVar[str]
    value: ClassVar[str]
    learned: ClassVar[tuple[str, ...]] = ()
    classed: ClassVar[bool] = True
    linear: ClassVar[str]

    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, list):  # as a checkpoint has them
                object.__setattr__(self, name, tuple(value))
        if not self.labels or len(set(self.labels)) < len(self.labels):
            raise ValueError(f"give a task one label or several, each once, not {self.labels}")

    def as_dict(self) -> dict[str, Any]:
        """Plain values: numbers, text, lists."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @property
    def outputs(self) -> int:
        """How many numbers a network gives for an exam."""
        return len(self.labels)

    def check(self, targets: NDArray[np.float64]) -> dict[int, str]:
        """Row -> what is wrong with the targets (n, labels) of an exam, each good by itself."""
        return {}

    @abstractmethod
    def fitted(self, targets: NDArray[np.float64], *, balance: bool) -> Self:
        """With what is learned of training targets (n, labels); `balance` asks for weights against
        imbalance. ValueError where there is nothing to learn from them."""

    def terms(self, target: Tensor) -> Tensor:
        """Of how many terms `loss` is the mean, of targets (B, labels): one for each that is known,
        and 1 where none is."""
        return (~target.isnan()).sum().clamp_min(1)

    @abstractmethod
    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """The mean loss of outputs (B, outputs) against targets (B, labels), where they are known.

        0 where none is.
        """

    @abstractmethod
    def measured(self, outputs: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Validation metrics, `monitored` among them, of a whole epoch's outputs and targets."""

    @abstractmethod
    def values(self, outputs: Tensor) -> Tensor:
        """Outputs (n, outputs) -> what the model says of each label (n, labels)."""

    def recalibration(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Slope and intercept (outputs,), of outputs (n, outputs) of exams that were not trained
        on, with targets (n, labels): 1 and 0 where a task leaves its outputs as they are."""
        return outputs.new_ones(self.outputs), outputs.new_zeros(self.outputs)

    def together(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values (n, labels) that were made label by label, as what a model of all would say."""
        return values

    @abstractmethod
    def columns(self, target: NDArray[np.float64], value: NDArray[np.float64]) -> dict[str, Any]:
        """The columns of predictions that say a label's target and value (n,)."""

    @abstractmethod
    def answer(self, value: float, threshold: float) -> dict[str, Any]:
        """One exam's value of a label, for people and programs; `threshold` is nan where there is
        none."""

    @abstractmethod
    def thresholds(self, rows: pd.DataFrame) -> list[float]:
        """Each label's operating threshold, chosen on the `rows` of validation exams, nan where
        they don't allow one; ValueError where they allow none at all."""

    @abstractmethod
    def score(self, rows: pd.DataFrame) -> float:
        """`monitored` of predictions `rows`, exactly; the higher, the better the model."""

    @abstractmethod
    def stacked(
        self,
        learned: NDArray[np.float64],
        target: NDArray[np.float64],
        applied: NDArray[np.float64],
        *,
        penalty: float,
    ) -> NDArray[np.float64]:
        """Values (m,) of a linear model on features `applied` (m, k), fitted on those `learned`
        (n, k) and a label's target (n,)."""

    def rows(
        self,
        exams: pd.DataFrame,
        targets: NDArray[np.float64],
        values: NDArray[np.float64],
    ) -> pd.DataFrame:
        """Predictions of `exams`, their columns, from targets and values (n, labels): long form, a
        row an exam and label, those of unknown target too, label by label."""
        tables = [
            exams.assign(label=label, **self.columns(targets[:, i], values[:, i]))
            for i, label in enumerate(self.labels)
        ]
        return pd.concat(tables, ignore_index=True)
