"""How much: a number a label, in the unit of its column."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from torch import Tensor

from lightning_modules.tasks.task import Task


@dataclass(frozen=True)
class Regression(Task):
    """Numbers, by least squares.

    Targets are (B, labels) in their units, outputs (B, labels) in deviations from the training
    mean: `mean` and `deviation` (labels,) are those of training targets. What is measured is the
    mean over the labels.
    """

    monitored: ClassVar[str] = "val/r2"
    shown: ClassVar[Mapping[str, str]] = {"val/r2": "validation R2"}
    truth: ClassVar[str] = "truth"
    value: ClassVar[str] = "estimate"
    learned: ClassVar[tuple[str, ...]] = ("mean", "deviation")
    classed: ClassVar[bool] = False
    linear: ClassVar[str] = "linear regression"

    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

    def fitted(self, targets: NDArray[np.float64], *, balance: bool) -> Self:
        """`balance` is no matter to numbers."""
        for i, label in enumerate(self.labels):
            known = targets[~np.isnan(targets[:, i]), i]
            if len(known) < 2 or known.min() == known.max():
                raise ValueError(
                    f"{label}: the {len(known)} training exams have "
                    f"{f'one value, {known[0]:g}' if len(known) else 'none'}: there is nothing "
                    "to tell apart"
                )
        return replace(
            self,
            mean=tuple(np.nanmean(targets, axis=0).tolist()),
            deviation=tuple(np.nanstd(targets, axis=0).tolist()),
        )

    def _errors(self, outputs: Tensor, target: Tensor) -> Tensor:
        """In training deviations, NaN where the target is not known."""
        mean, deviation = (outputs.new_tensor(of) for of in (self.mean, self.deviation))
        return outputs - (target - mean) / deviation

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Half the mean squared error, in units of the training variance."""
        errors = self._errors(outputs, target)
        known = ~errors.isnan()
        return errors.where(known, 0.0).square().sum() / 2 / self.terms(target)

    def measured(self, outputs: Tensor, target: Tensor) -> dict[str, Tensor]:
        """R2 as `score`; the mean absolute error of each label in its unit."""
        errors = self._errors(outputs, target)
        absolute = errors.abs().nanmean(0) * outputs.new_tensor(self.deviation)
        names = ["val/mae"]
        if len(self.labels) > 1:
            names = [f"val/mae/{label}" for label in self.labels]
        found = dict(zip(names, absolute, strict=True))
        r2 = 1 - errors.square().nanmean(0)
        return {self.monitored: r2.nanmean(), **{k: v for k, v in found.items() if v == v}}

    def values(self, outputs: Tensor) -> Tensor:
        """Estimates in the labels' units."""
        return outputs * outputs.new_tensor(self.deviation) + outputs.new_tensor(self.mean)

    def columns(self, target: NDArray[np.float64], value: NDArray[np.float64]) -> dict[str, Any]:
        return {"truth": target, "estimate": value}

    def answer(self, value: float, threshold: float) -> dict[str, Any]:
        return {"estimate": value}

    def thresholds(self, rows: pd.DataFrame) -> list[float]:
        """None: a number is its own answer."""
        return [float("nan")] * len(self.labels)

    def score(self, rows: pd.DataFrame) -> float:
        """1 - mean squared error / training variance, the mean over labels.

        R2 but for the variance, which is the training exams': it exists for any validation exams.
        """
        squares = ((rows["truth"] - rows["estimate"]) ** 2).groupby(rows["label"]).mean()
        variance = pd.Series(self.deviation, self.labels) ** 2
        return float((1 - squares / variance).mean())

    def stacked(
        self,
        learned: NDArray[np.float64],
        target: NDArray[np.float64],
        applied: NDArray[np.float64],
        *,
        penalty: float,
    ) -> NDArray[np.float64]:
        """Estimates of a ridge regression."""
        return np.asarray(Ridge(alpha=penalty).fit(learned, target).predict(applied))
