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
from lightning_modules.tasks.task import Task


class Fusion(TaskModule):
    """One task, told by whichever submodels have their input.

    batch["values"] is (B, submodels, labels), what each of `submodels`, in their order, says of
    each label (the task's `values`), NaN where its input is missing; at least one is there. `mean`
    and `deviation` (submodels, labels) are those of the values trained on.
    `modality_dropout` is the probability of leaving out each input that is there, while training;
    the layers' `widths` are unknown in the paper (see `FusionNetwork`).

    The submodels are held frozen, so that one checkpoint is enough to predict. `submodels` maps
    their names to {"_target_": their class, "hyper_parameters": its arguments}; `from_submodels`
    gives them their weights too. Raises ValueError where sizes do not fit, and where what a
    submodel says does not vary.
    """

    reads = "values"
    network: FusionNetwork

    def __init__(
        self,
        *,
        task: Mapping[str, Any],
        submodels: Mapping[str, Mapping[str, Any]],
        mean: Sequence[Sequence[float]],
        deviation: Sequence[Sequence[float]],
        widths: Sequence[int],
        modality_dropout: float,
        weight_decay: float,
        base_learning_rate: float,
        effective_batch: int,
        betas: Sequence[float],
        warmup_fraction: float,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(task=task, about=about)
        for name, spreads in zip(submodels, deviation, strict=True):
            for label, spread in zip(self.task.labels, spreads, strict=True):
                if not spread > 0:
                    raise ValueError(
                        f"the {self.task.value}s of {name} for {label} do not vary: their "
                        f"deviation is {spread}"
                    )
        self.network = FusionNetwork(
            mean=mean,
            deviation=deviation,
            widths=widths,
            modality_dropout=modality_dropout,
            outputs=self.task.outputs,
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
        values = batch["values"].to(self.network.mean.dtype)
        with torch.autocast(values.device.type, enabled=False):
            outputs: Tensor = self.network(values)
        return outputs

    @torch.no_grad()
    def submodel_values(self, inputs: Mapping[str, Tensor | None]) -> Tensor:
        """Prepared inputs (B, ...) by the submodel's name -> values (B, submodels, labels).

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
        exams = len(next(iter(given.values())))
        values = torch.full(
            (exams, len(self.submodels), len(self.task.labels)), torch.nan, device=self.device
        )
        for column, (name, submodel) in enumerate(self.submodels.items()):
            if name in given:
                outputs = submodel({submodel.reads: given[name]})
                task: Task = submodel.task  # type: ignore[assignment]
                values[:, column] = task.values(outputs)
        return values

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
