"""Detection of pulmonary hypertension from ECG, chest X-ray and BNP.

Kishikawa et al., Eur Heart J Digit Health 2025;6:209, doi 10.1093/ehjdh/ztae097.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from lightning_modules.classifier import Classifier, ECGClassifier
from lightning_modules.networks.cxr import cxr_network
from lightning_modules.networks.fusion import FusionNetwork


class PHECGClassifier(ECGClassifier):
    """Pulmonary hypertension, seen in the ECG."""


class PHCXRClassifier(Classifier):
    """Pulmonary hypertension, seen in the chest X-ray: a 2-D CNN.

    batch["cxr"] is (B, 1, height, width). `settings` are the network's own, and with `pretrained`
    it starts from ImageNet (see `cxr_network`); a checkpoint has weights of its own.
    """

    input = "cxr"

    def __init__(
        self,
        *,
        architecture: str,
        settings: dict[str, Any],
        weight_decay: float,
        positive_weight: float,
        base_learning_rate: float,
        effective_batch: int,
        betas: Sequence[float],
        warmup_fraction: float,
        preprocessing: dict[str, Any],
        pretrained: bool = False,
        about: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(about=about)
        # Whoever loads the checkpoint is to download nothing.
        del self.hparams["pretrained"]
        self.network = cxr_network(architecture, settings=settings, pretrained=pretrained)


class PHBNPClassifier(Classifier):
    """Pulmonary hypertension, told by a blood test: logistic regression.

    batch["bnp"] is (B, features), standardised. The loss is the mean cross-entropy over n exams +
    penalty / (2 n) * |weights|^2, which is scikit-learn's LogisticRegression(C=1 / penalty); the
    intercept is free. Each training batch must be all n exams: one step, of L-BFGS, then
    converges. Train in double precision, Trainer(precision="64-true"), to reach the tolerance.
    """

    input = "bnp"
    network: nn.Linear

    def __init__(
        self,
        *,
        features: int,
        penalty: float,
        preprocessing: dict[str, Any],
        about: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(about=about)
        self.network = nn.Linear(features, 1)
        nn.init.zeros_(self.network.weight)
        nn.init.zeros_(self.network.bias)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        features = batch["bnp"].to(self.network.weight.dtype)
        with torch.autocast(features.device.type, enabled=False):
            return self.network(features).squeeze(1)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        exams = len(batch["target"])
        penalty = self.hparams["penalty"] / (2 * exams) * self.network.weight.square().sum()
        return super().training_step(batch, batch_idx) + penalty

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return torch.optim.LBFGS(
            self.parameters(),
            max_iter=1000,
            tolerance_grad=1e-10,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )


class PHFusion(Classifier):
    """Pulmonary hypertension, told by whichever submodels have their input.

    batch["logits"] is (B, submodels), in the order of `submodels`, NaN where an input is missing;
    at least one is there. `mean` and `deviation` (submodels,) are those of the logits trained on.
    `modality_dropout` is the probability of leaving out each input that is there, while training;
    the layers' `widths` are unknown in the paper (see `FusionNetwork`).

    The submodels are held frozen, so that one checkpoint is enough to predict. `submodels` maps
    their names to {"classifier": name of the class, "hyper_parameters": its arguments};
    `from_submodels` gives them their weights too. Raises ValueError where sizes do not fit, and
    where a submodel's logits do not vary.
    """

    input = "logits"
    network: FusionNetwork

    def __init__(
        self,
        *,
        submodels: dict[str, dict[str, Any]],
        mean: Sequence[float],
        deviation: Sequence[float],
        widths: Sequence[int],
        modality_dropout: float,
        weight_decay: float,
        base_learning_rate: float,
        effective_batch: int,
        betas: Sequence[float],
        warmup_fraction: float,
        about: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(about=about)
        for name, spread in zip(submodels, deviation, strict=True):
            if not spread > 0:
                raise ValueError(f"the logits of {name} do not vary: their deviation is {spread}")
        self.network = FusionNetwork(
            mean=mean, deviation=deviation, widths=widths, modality_dropout=modality_dropout
        )
        self.submodels = _rebuild(submodels).requires_grad_(False)

    @classmethod
    def from_submodels(cls, submodels: Mapping[str, Classifier], **settings: Any) -> "PHFusion":
        """A fusion of these trained submodels, in this order; `settings` as the constructor's."""
        described = {
            name: {"classifier": type(model).__name__, "hyper_parameters": dict(model.hparams)}
            for name, model in submodels.items()
        }
        fusion = cls(submodels=described, **settings)
        for name, model in submodels.items():
            fusion.submodels[name].load_state_dict(model.state_dict())
        return fusion

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        logits = batch["logits"].to(self.network.mean.dtype)
        with torch.autocast(logits.device.type, enabled=False):
            return self.network(logits).squeeze(1)

    @torch.no_grad()
    def submodel_logits(self, inputs: Mapping[str, Tensor | None]) -> Tensor:
        """Prepared inputs (B, ...) by the submodel's name -> logits (B, submodels).

        NaN where an input is None or not given. Raises ValueError where there is none at all, and
        for a name that is no submodel's.
        """
        given = {name: tensor for name, tensor in inputs.items() if tensor is not None}
        names = ", ".join(self.submodels)
        if unknown := given.keys() - self.submodels.keys():
            raise ValueError(f"{', '.join(sorted(unknown))} is not one of {names}")
        if not given:
            raise ValueError(f"there is no input for any of {names}")
        self.submodels.eval()
        logits = torch.full(
            (len(next(iter(given.values()))), len(self.submodels)), torch.nan, device=self.device
        )
        for column, (name, submodel) in enumerate(self.submodels.items()):
            if name in given:
                logits[:, column] = submodel({submodel.input: given[name]})
        return logits


SUBMODELS = {kind.__name__: kind for kind in (PHECGClassifier, PHCXRClassifier, PHBNPClassifier)}


def _rebuild(submodels: Mapping[str, Mapping[str, Any]]) -> nn.ModuleDict:
    # Not within a constructor: Lightning would save its arguments as the submodels' own.
    return nn.ModuleDict(
        {
            name: SUBMODELS[of["classifier"]](**of["hyper_parameters"])
            for name, of in submodels.items()
        }
    )
