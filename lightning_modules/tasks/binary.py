"""Yes or no: a logit a label, its probability, and the threshold from which it is a yes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from lightning_modules.tasks.decision import shrunken_logistic, youden_threshold
from lightning_modules.tasks.task import Task


@dataclass(frozen=True)
class Binary(Task):
    """Labels that are each 0 or 1: weighted cross-entropy, AUROC, and Youden's thresholds.

    Targets are (B, labels) in {0, 1, NaN}, outputs (B, labels) logits of the development
    prevalences. Of several labels, any number may be 1, and what is measured is the mean over them.

    positive_weights: of each label's positive exams in the loss, learned of training targets:
    negatives / positives, or 1.
    """

    monitored: ClassVar[str] = "val/auroc"
    shown: ClassVar[Mapping[str, str]] = {"val/auroc": "validation AUROC"}
    truth: ClassVar[str] = "target"
    value: ClassVar[str] = "logit"
    learned: ClassVar[tuple[str, ...]] = ("positive_weights",)
    linear: ClassVar[str] = "logistic regression"

    positive_weights: tuple[float, ...] = ()

    def fitted(self, targets: NDArray[np.float64], *, balance: bool) -> Self:
        weights = [1.0] * len(self.labels)
        for i, label in enumerate(self.labels):
            known = targets[~np.isnan(targets[:, i]), i]
            positives = known.sum()
            if not 0 < positives < len(known):
                raise ValueError(
                    f"{label}: of {len(known)} training exams {positives:g} are positive, and a "
                    "model learns from both"
                )
            if balance:
                weights[i] = float((len(known) - positives) / positives)
        return replace(self, positive_weights=tuple(weights))

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Weighted cross-entropy whose optimum is the unweighted log-odds.

        The log of the positive weight is taken off the logit, so that probabilities stay those of
        the development prevalence.
        """
        weights = outputs.new_tensor(self.positive_weights)
        known = ~target.isnan()
        total = binary_cross_entropy_with_logits(
            outputs + weights.log(),
            target.where(known, 0.0),
            weight=known.to(outputs.dtype),
            pos_weight=weights,
            reduction="sum",
        )
        return total / self.terms(target)

    def measured(self, outputs: Tensor, target: Tensor) -> dict[str, Tensor]:
        found = [
            (binary_auroc(p, y), binary_average_precision(p, y))
            for p, y in self._known(self.values(outputs).sigmoid(), target)
            if 0 < y.sum() < len(y)
        ]
        if not found:
            return dict.fromkeys(
                (self.monitored, "val/average_precision"), outputs.new_tensor(torch.nan)
            )
        auroc, precision = (torch.stack(of).mean() for of in zip(*found, strict=True))
        return {self.monitored: auroc, "val/average_precision": precision}

    def _known(self, values: Tensor, target: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for i in range(len(self.labels)):
            known = ~target[:, i].isnan()
            yield values[known, i], target[known, i].int()

    def values(self, outputs: Tensor) -> Tensor:
        """Logits."""
        return outputs

    def recalibration(self, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Platt's logistic regression on each label's logit, shrunken (`shrunken_logistic`)."""
        fitted = [
            shrunken_logistic(t[known].numpy(), z[known].numpy())
            for z, t in zip(outputs.cpu().T, target.cpu().T, strict=True)
            for known in [~t.isnan()]
        ]
        slope, intercept = zip(*fitted, strict=True)
        return outputs.new_tensor(slope), outputs.new_tensor(intercept)

    def columns(self, target: NDArray[np.float64], value: NDArray[np.float64]) -> dict[str, Any]:
        return {"target": target, "logit": value, "probability": expit(value)}

    def answer(self, value: float, threshold: float) -> dict[str, Any]:
        probability, known = float(expit(value)), threshold == threshold
        return {
            "probability": probability,
            "threshold": threshold if known else None,
            "positive": probability >= threshold if known else None,
        }

    def thresholds(self, rows: pd.DataFrame) -> list[float]:
        of_labels = dict(self._estimable(rows))
        if not of_labels:
            known = rows.dropna(subset="target")
            youden_threshold(known["target"], known["probability"])  # says what is missing
        return [
            youden_threshold(of_labels[label]["target"], of_labels[label]["probability"])
            if label in of_labels
            else float("nan")
            for label in self.labels
        ]

    def score(self, rows: pd.DataFrame) -> float:
        """AUROC, of several labels the mean over those with exams of both classes."""
        aurocs = [roc_auc_score(of["target"], of["logit"]) for _, of in self._estimable(rows)]
        return float(np.mean(aurocs))

    def _estimable(self, rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
        """Labels with known exams of both classes."""
        for label in self.labels:
            known = rows[(rows["label"] == label) & rows["target"].notna()]
            if known["target"].nunique() == 2:
                yield label, known

    def stacked(
        self,
        learned: NDArray[np.float64],
        target: NDArray[np.float64],
        applied: NDArray[np.float64],
        *,
        penalty: float,
    ) -> NDArray[np.float64]:
        """Logits of a logistic regression with a ridge penalty."""
        model = LogisticRegression(C=1 / penalty, max_iter=1000).fit(learned, target)
        return np.asarray(model.decision_function(applied))
