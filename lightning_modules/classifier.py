"""What every model here shares: trained on development institutions for one task."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from timm.optim._param_groups import param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor, nn

from lightning_modules.linear import Directions, chosen_penalty, converging, fit_linear, ridge
from lightning_modules.networks.network import (
    HEAD,
    build_network,
    embedding,
    features,
    head,
    last_layer,
)
from lightning_modules.optimisation import adamw_warmup_cosine
from lightning_modules.target import name_of, resolve
from lightning_modules.tasks.task import Task


@dataclass(frozen=True)
class Blueprint:
    """What a study's configuration and its training exams say of a model to build.

    reads, input, task, about: as `TaskModule` and `Classifier` take them. shape: of the input's
    tensor. network: class, settings and layer_decay (None for a model without one). recipe:
    how it is trained, and `effective_batch` by how many exams a step.
    """

    reads: str
    input: Mapping[str, Any]
    shape: Mapping[str, int]
    task: Mapping[str, Any]
    network: Mapping[str, Any] | None
    recipe: Mapping[str, Any]
    effective_batch: int
    about: Mapping[str, Any] | None = None


class TaskModule(L.LightningModule):
    """A module for one task: its loss, validation metrics over whole epochs, and its thresholds.

    Batches hold the model's input under `reads`, "target" (B, labels), NaN where not known, and
    "exam" (B,), an exam's number in the DataModule's table. A subclass sets `reads` and builds
    `self.network`; its constructor's arguments are plain values, saved as hyper-parameters. `task`
    is fitted on training targets. `threshold` (labels,) is nan until `set_threshold`. It travels in
    the checkpoint, as do the class's name ("classifier") and `about`: plain values that tell
    whoever loads it what was trained on.

    whole: whether it is trained on all exams at once, to convergence, rather than step by step.
    """

    whole: ClassVar[bool] = False

    reads: str
    network: nn.Module
    task: Task
    threshold: Tensor

    def __init__(
        self,
        *,
        task: Mapping[str, Any],
        about: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.hparams["about"] = dict(about or {})
        self.task = build_task(task)
        self.register_buffer("threshold", torch.full((len(self.task.labels),), torch.nan))

    @classmethod
    @abstractmethod
    def build(cls, of: Blueprint) -> Self:
        """A new model. ValueError where network, input and recipe don't fit."""

    @classmethod
    def described(cls, label: str, task: type[Task], recipe: Mapping[str, Any]) -> str:
        """A model without a network, of an input called `label`, in a report's words."""
        return f"{cls.__name__} on {label}"

    def described_by(self, features: Sequence[str]) -> dict[str, float]:
        """What of a trained model a person would read as metrics of its run: coefficients, of
        features called so."""
        return {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["classifier"] = name_of(type(self))

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Outputs (B, outputs) of a batch."""
        inputs = batch[self.reads]
        seen = features(self.network, inputs)
        # bf16 has so few values that probabilities would tie, and an AUROC is made of ranks.
        with torch.autocast(inputs.device.type, enabled=False):
            return head(self.network, seen.float())

    def embed(self, batch: Mapping[str, Tensor]) -> Tensor:
        """What the network's last layer sees (B, D); ValueError where a network has no such."""
        return embedding(self.network, batch[self.reads])

    def set_threshold(self, thresholds: Sequence[float]) -> None:
        """Keep each label's value from which an exam counts as positive."""
        self.threshold.copy_(torch.tensor(list(thresholds)))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self.task.loss(self(batch), batch["target"])
        self.log("train/loss", loss)
        return loss

    def on_validation_epoch_start(self) -> None:
        self._validated: list[tuple[Tensor, Tensor, Tensor]] = []

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._validated.append((batch["exam"], self(batch).float(), batch["target"]))

    def on_validation_epoch_end(self) -> None:
        exam, outputs, target = (
            cast(Tensor, self.all_gather(torch.cat(parts))).view(-1, *parts[0].shape[1:])
            for parts in zip(*self._validated, strict=True)
        )
        # A distributed sampler repeats exams to fill its last batch: each counts once.
        order = exam.argsort()
        exam, outputs, target = exam[order], outputs[order], target[order]
        once = torch.ones(len(exam), dtype=torch.bool, device=self.device)
        once[1:] = exam[1:] != exam[:-1]
        outputs, target = outputs[once], target[once]
        self.log("val/loss", self.task.loss(outputs, target))
        self.log_dict(self.task.measured(outputs, target))

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return {"exam": batch["exam"], "outputs": self(batch).float()}


class Classifier(TaskModule):
    """A network of any class, from scratch or from a pretrained encoder, trained step by step.

    `network`: its class (`_target_`), `settings`, and the `shape` of the tensor that it reads.
    `input`: the input's class (`_target_`) and values, for whoever loads the checkpoint.
    `layer_decay` shrinks the learning rate layer by layer towards the input (timm; 1.0 for none).
    With `frozen_encoder` only the head learns: a linear probe. ValueError where sizes don't fit.

    Outputs are slope * (the network's) + intercept, buffers (outputs,) that are 1 and 0 until
    `recalibrate`, and travel in the checkpoint.
    """

    slope: Tensor
    intercept: Tensor

    def __init__(
        self,
        *,
        reads: str,
        input: Mapping[str, Any],
        task: Mapping[str, Any],
        network: Mapping[str, Any],
        frozen_encoder: bool,
        layer_decay: float,
        weight_decay: float,
        base_learning_rate: float,
        effective_batch: int,
        betas: Sequence[float],
        warmup_fraction: float,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(task=task, about=about)
        self.reads = reads
        self.network = build_network(network, network["shape"], self.task.outputs)
        self.register_buffer("slope", torch.ones(self.task.outputs))
        self.register_buffer("intercept", torch.zeros(self.task.outputs))
        if frozen_encoder:
            learning = [n for n, _ in self.network.named_parameters() if n.startswith(HEAD)]
            if not learning:
                raise ValueError(
                    f"frozen_encoder: {network['_target_']} has no parameters called "
                    f"{' or '.join(f'{name}*' for name in HEAD)} that would learn"
                )
            for name, parameter in self.network.named_parameters():
                parameter.requires_grad = name in learning

    @classmethod
    def build(cls, of: Blueprint) -> Self:
        network, recipe = of.network, of.recipe
        if network is None:
            raise ValueError(f"a {cls.__name__} needs a network")
        return cls(
            reads=of.reads,
            input=of.input,
            task=of.task,
            network={
                "_target_": network["_target_"],
                "settings": dict(network["settings"]),
                "shape": dict(of.shape),
            },
            frozen_encoder=recipe["frozen_encoder"],
            layer_decay=network["layer_decay"],
            weight_decay=recipe["weight_decay"],
            base_learning_rate=recipe["base_learning_rate"],
            effective_batch=of.effective_batch,
            betas=recipe["betas"],
            warmup_fraction=recipe["warmup_fraction"],
            about=of.about,
        )

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Recalibrated outputs (B, outputs) of a batch."""
        return super().forward(batch) * self.slope + self.intercept

    def recalibrate(self, outputs: Tensor, target: Tensor) -> None:
        """Make outputs (n, outputs) of exams that were not trained on, with targets (n, labels),
        say what was observed, as far as the task does that."""
        slope, intercept = self.task.recalibration(outputs.double(), target.double())
        self.intercept.copy_(slope.to(self.slope) * self.intercept + intercept.to(self.slope))
        self.slope.mul_(slope.to(self.slope))

    def begin_head(
        self,
        seen: Tensor,
        target: Tensor,
        patients: Sequence[str],
        penalties: Sequence[float],
        directions: Directions | None = None,
    ) -> float:
        """Start the head as the linear model of the task on embeddings `seen` (n, D) of training
        exams (Kumar et al., ICLR 2022); the penalty taken, as `chosen_penalty` does.

        Fine-tuning from a random head bends what was pretrained before the head knows anything.
        ValueError where the network has no last linear layer of such features.
        """
        layer = last_layer(self.network, seen.shape[1], self.task.outputs)
        penalty = chosen_penalty(self.task, seen, target, patients, penalties, directions)
        fitted = fit_linear(self.task, seen, target, penalty, directions)
        with torch.no_grad():
            layer.weight.copy_(fitted.weight)
            layer.bias.copy_(fitted.bias)
        return penalty

    def load_encoder(self, encoder: Mapping[str, Tensor]) -> None:
        """Start from an encoder's weights, by the network's own names; the head stays as it is.

        Raises ValueError, naming the weights, where the two encoders are not of one shape.
        """
        own = self.network.state_dict()
        misfits = [
            f"{name} is {tuple(weight.shape)}, here {tuple(own[name].shape)}"
            for name, weight in encoder.items()
            if name in own and weight.shape != own[name].shape
        ]
        missing = {n for n in own if n not in encoder and not n.startswith(HEAD)}
        unexpected = encoder.keys() - own.keys()
        if misfits or missing or unexpected:
            raise ValueError(
                "the pretrained encoder does not fit this network: "
                + "; ".join(misfits[:3] + sorted(missing)[:3] + sorted(unexpected)[:3])
            )
        self.network.load_state_dict(dict(encoder), strict=False)

    def on_train_epoch_start(self) -> None:
        if self.hparams["frozen_encoder"]:
            self.network.eval()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The optimiser's groups, each with its weight decay and, optionally, its `lr_scale`."""
        decay, layer_decay = self.hparams["weight_decay"], self.hparams["layer_decay"]
        unlisted: set[str] = getattr(self.network, "no_weight_decay", set)()
        groups: list[dict[str, Any]]
        if layer_decay < 1:
            groups = param_groups_layer_decay(
                self.network, decay, no_weight_decay_list=unlisted, layer_decay=layer_decay
            )
        else:
            groups = param_groups_weight_decay(self.network, decay, no_weight_decay_list=unlisted)
        return groups

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return adamw_warmup_cosine(
            self,
            self.parameter_groups(),
            base_learning_rate=self.hparams["base_learning_rate"],
            effective_batch=self.hparams["effective_batch"],
            betas=self.hparams["betas"],
            warmup_fraction=self.hparams["warmup_fraction"],
        )


class LinearModel(TaskModule):
    """A linear model of an input that is a row of numbers (B, features), standardised.

    The loss is the task's mean over n exams + penalty / (2 n) * |weights|^2: for a yes or no that
    is scikit-learn's LogisticRegression(C=1 / penalty), for a number, in its training deviations,
    Ridge(alpha=penalty), and so for each of several labels. The intercept is free. Each training
    batch must be all n exams: one step, of L-BFGS, then converges. Train in double precision,
    Trainer(precision="64-true"), to reach the tolerance.
    """

    whole: ClassVar[bool] = True

    network: nn.Linear

    def __init__(
        self,
        *,
        reads: str,
        input: Mapping[str, Any],
        task: Mapping[str, Any],
        features: int,
        penalty: float,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(task=task, about=about)
        self.reads = reads
        self.network = nn.Linear(features, self.task.outputs)
        nn.init.zeros_(self.network.weight)
        nn.init.zeros_(self.network.bias)

    @classmethod
    def build(cls, of: Blueprint) -> Self:
        if "features" not in of.shape:
            raise ValueError(
                f"a {cls.__name__} reads rows of numbers, and {of.reads} gives {of.shape}"
            )
        return cls(
            reads=of.reads,
            input=of.input,
            task=of.task,
            features=of.shape["features"],
            penalty=of.recipe["penalty"],
            about=of.about,
        )

    @classmethod
    def described(cls, label: str, task: type[Task], recipe: Mapping[str, Any]) -> str:
        return f"{task.linear} on {label}, ridge penalty {recipe['penalty']:g}"

    def described_by(self, features: Sequence[str]) -> dict[str, float]:
        told = {}
        labels = self.task.labels
        for i, label in enumerate(labels):
            of = f"/{label}" if len(labels) > 1 else ""
            weights = self.network.weight.detach()[i].tolist()
            told[f"intercept{of}"] = self.network.bias.detach()[i].item()
            told |= {f"coefficient{of}/{n}": w for n, w in zip(features, weights, strict=True)}
        return told

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        values = batch[self.reads].to(self.network.weight.dtype)
        with torch.autocast(values.device.type, enabled=False):
            outputs: Tensor = self.network(values)
        return outputs

    def embed(self, batch: Mapping[str, Tensor]) -> Tensor:
        raise ValueError("a linear model has no embedding: it sees its input itself")

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        penalised = ridge(self.task, self.network.weight, batch["target"], self.hparams["penalty"])
        return super().training_step(batch, batch_idx) + penalised

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return converging(self.parameters())


def build_task(task: Mapping[str, Any]) -> Task:
    """A task from its class (`_target_`) and values."""
    kind = resolve(task["_target_"])
    # Looked at before it is called: a checkpoint's values go to a Task, and to nothing else.
    if not (isinstance(kind, type) and issubclass(kind, Task)):
        raise ValueError(f"_target_={task['_target_']} is not a Task")
    return kind(**{name: value for name, value in task.items() if name != "_target_"})
