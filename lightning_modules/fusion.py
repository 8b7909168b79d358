"""The fusion of models of any classes and inputs by three fully connected layers."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from timm.optim._param_groups import param_groups_weight_decay
from torch import Tensor, nn

from lightning_modules.classifier import Blueprint, TaskModule
from lightning_modules.networks.fusion import FusionNetwork
from lightning_modules.optimisation import adamw_warmup_cosine
from lightning_modules.target import name_of, resolve


class Fusion(TaskModule):
    """One task, told by whichever submodels have their input.

    batch["logits"] is (B, submodels), in the order of `submodels`, NaN where an input is missing;
    at least one is there. `mean` and `deviation` (submodels,) are those of the logits trained on.
    `modality_dropout` is the probability of leaving out each input that is there, while training;
    the layers' `widths` are unknown in the paper (see `FusionNetwork`).

    The submodels are held frozen, so that one checkpoint is enough to predict. `submodels` maps
    their names to {"_target_": their class, "hyper_parameters": its arguments}; `from_submodels`
    gives them their weights too. Raises ValueError where sizes do not fit, and where a submodel's
    logits do not vary.
    """

    reads = "logits"
    network: FusionNetwork

    def __init__(
        self,
        *,
        task: Mapping[str, Any],
        weights: Sequence[float],
        submodels: Mapping[str, Mapping[str, Any]],
        mean: Sequence[float],
        deviation: Sequence[float],
        widths: Sequence[int],
        modality_dropout: float,
        weight_decay: float,
        base_learning_rate: float,
        effective_batch: int,
        betas: Sequence[float],
        warmup_fraction: float,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(task=task, weights=weights, about=about)
        for name, spread in zip(submodels, deviation, strict=True):
            if not spread > 0:
                raise ValueError(f"the logits of {name} do not vary: their deviation is {spread}")
        self.network = FusionNetwork(
            mean=mean, deviation=deviation, widths=widths, modality_dropout=modality_dropout
        )
        self.submodels = _rebuild(submodels).requires_grad_(False)

    @classmethod
    def build(cls, of: Blueprint) -> "Fusion":
        raise ValueError("a fusion is made of a study's models: configure it under fusion")

    @classmethod
    def from_submodels(cls, submodels: Mapping[str, TaskModule], **settings: Any) -> "Fusion":
        """A fusion of these trained submodels, in this order; `settings` as the constructor's."""
        described = {
            name: {"_target_": name_of(type(model)), "hyper_parameters": dict(model.hparams)}
            for name, model in submodels.items()
        }
        fusion = cls(submodels=described, **settings)
        for name, model in submodels.items():
            fusion.submodels[name].load_state_dict(model.state_dict())
        return fusion

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        logits = batch["logits"].to(self.network.mean.dtype)
        with torch.autocast(logits.device.type, enabled=False):
            outputs: Tensor = self.network(logits)
        return outputs

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
                logits[:, column] = submodel({submodel.reads: given[name]}).squeeze(1)
        return logits

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return adamw_warmup_cosine(
            self,
            param_groups_weight_decay(self.network, self.hparams["weight_decay"]),
            base_learning_rate=self.hparams["base_learning_rate"],
            effective_batch=self.hparams["effective_batch"],
            betas=self.hparams["betas"],
            warmup_fraction=self.hparams["warmup_fraction"],
        )


def _rebuild(submodels: Mapping[str, Mapping[str, Any]]) -> nn.ModuleDict:
    # Not within a constructor: Lightning would save its arguments as the submodels' own.
    return nn.ModuleDict(
        {name: _kind(of["_target_"])(**of["hyper_parameters"]) for name, of in submodels.items()}
    )


def _kind(target: str) -> type[TaskModule]:
    kind = resolve(target)
    if not (isinstance(kind, type) and issubclass(kind, TaskModule)):
        raise ValueError(f"_target_={target} is not a model")
    return kind
