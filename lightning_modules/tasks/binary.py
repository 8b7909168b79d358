"""Yes or no: one logit an exam, its probability, and the threshold from which it is a yes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision

from lightning_modules.tasks.decision import Recalibration, recalibrations, youden_threshold
from lightning_modules.tasks.task import Task


@dataclass(frozen=True)
class Binary(Task):
    """One label, 0 or 1: weighted cross-entropy, AUROC, and Youden's threshold.

    Targets are (B, 1) in {0, 1}, outputs (B, 1) logits of the development prevalence.
    """

    monitored: ClassVar[str] = "val/auroc"
    shown: ClassVar[Mapping[str, str]] = {"val/auroc": "validation AUROC"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.labels) != 1:
            raise ValueError(f"a binary task has one label, not {len(self.labels)}")

    @property
    def outputs(self) -> int:
        return 1

    @property
    def classed(self) -> tuple[str, ...]:
        return self.labels

    def weights(self, targets: NDArray[np.float64], *, balance: bool) -> list[float]:
        """The weight of positive exams: negatives / positives, or 1."""
        positives = targets.sum()
        return [float((len(targets) - positives) / positives) if balance else 1.0]

    def loss(self, outputs: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """Weighted cross-entropy whose optimum is the unweighted log-odds.

        The log of the positive weight is taken off the logit, so that probabilities stay those of
        the development prevalence.
        """
        return binary_cross_entropy_with_logits(outputs + weights.log(), target, pos_weight=weights)

    def metrics(self) -> MetricCollection:
        return MetricCollection(
            {"auroc": BinaryAUROC(), "average_precision": BinaryAveragePrecision()}, prefix="val/"
        )

    def scores(self, outputs: Tensor) -> Tensor:
        """Probabilities."""
        return outputs.sigmoid()

    def thresholds(self, rows: pd.DataFrame) -> list[float]:
        return [youden_threshold(rows["target"], rows["probability"])]

    def recalibrations(self, target: ArrayLike, probability: ArrayLike) -> dict[str, Recalibration]:
        return recalibrations(target, probability)

    def rows(self, exams: pd.DataFrame, outputs: NDArray[np.float64]) -> pd.DataFrame:
        (label,) = self.labels
        logit = outputs[:, 0]
        return exams.assign(label=label, logit=logit, probability=1 / (1 + np.exp(-logit)))

    def score(self, rows: pd.DataFrame) -> float:
        """AUROC."""
        return float(roc_auc_score(rows["target"], rows["logit"]))
