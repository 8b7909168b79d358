"""A study's models: how each is trained on one set of development institutions."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import lightning as L
import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from numpy.typing import NDArray

from datamodules.errors import InputError
from datamodules.inputs.input import Fitted, Input
from datamodules.institution import ExamDataModule
from experiments.console import StageBar
from experiments.evaluation.predictions import TRAIN, VAL
from experiments.software import software_version
from experiments.stages.evaluate import outputs_of, rows_of
from experiments.stages.exams import Exams, Site
from experiments.stages.fit_input import fit_input
from experiments.stages.key import key_of
from experiments.stages.pretrain import Pretrain, Pretrained, pretrain, pretraining_class
from experiments.stages.stage import Lab, Place, Record, Stage, run_stage
from experiments.stages.training import (
    RESUME_POINT,
    Compute,
    data_module,
    kept,
    resume_point,
    schedule,
    seed_after,
    table_trainer,
    tester,
    trainer,
)
from experiments.tracking import MODEL_TAG
from lightning_modules.classifier import Blueprint, Classifier, TaskModule
from lightning_modules.linear import Directions
from lightning_modules.networks.batch_norm import batch_norms, reestimate
from lightning_modules.networks.network import embedding, load_published_weights
from lightning_modules.pretraining.pretraining import Pretraining
from lightning_modules.target import name_of
from lightning_modules.tasks.task import Task


@dataclass(frozen=True)
class Model:
    """One of a study's models, as it is configured.

    `kind` is its class, `reads` the name of its input. `network`: class, settings and
    layer_decay (None for a model without one). `recipe`: how it is trained. `pretrained`: whether
    it starts from the study's pretraining, or else from the network's published weights.
    """

    kind: type[TaskModule]
    reads: str
    network: Mapping[str, Any] | None
    recipe: Mapping[str, Any]
    pretrained: bool


@dataclass(frozen=True)
class Trained:
    """A trained model: its checkpoint, the key of the stage that made it, the MLflow run that shows
    it (None: not known here), and the pretraining that it started from, if any.
    """

    checkpoint: Path
    reads: str
    key: str
    run: str | None
    pretrained: Pretrained | None = None


@dataclass(frozen=True)
class Train(Stage):
    """A model, trained on the development institutions' labelled exams.

    The checkpoint holds network, input, and the recalibration and operating thresholds that were
    fitted on validation exams.
    """

    kind: ClassVar[str] = "train"

    model_name: str
    model: Model
    task: Task
    fitted: Fitted
    exams: Exams
    start: Path | None  # a pretraining's checkpoint
    start_kind: type[Pretraining] | None
    seed: int
    compute: Compute

    @property
    def name(self) -> str:
        return self.model_name

    @property
    def sites(self) -> str:
        return ", ".join(site.name for site in self.exams.sites)

    @property
    def tags(self) -> dict[str, str]:
        return {"model": self.name, "development": self.sites}

    def told(self, record: Record) -> str:
        return told(self.task, record)

    def data(self, place: Place, batch_size: int) -> ExamDataModule:
        return data_module(
            place.lab,
            self.fitted.input,
            self.exams,
            batch_size=batch_size,
            seed=self.seed,
            augmentation=self.fitted.input.augmentation(self.model.recipe.get("augmentation", {})),
        )

    def module(
        self,
        targets: NDArray[np.float64],
        processes: int = 1,
        about: Mapping[str, Any] | None = None,
    ) -> TaskModule:
        """The model, new, to train on `targets`. ValueError where its sizes don't fit."""
        recipe, input = self.model.recipe, self.fitted.input
        task = self.task.fitted(targets, balance=recipe.get("balance_classes", False))
        blueprint = Blueprint(
            reads=self.model.reads,
            input={"_target_": name_of(type(input)), **input.as_dict()},
            shape=input.shape,
            task={"_target_": name_of(type(task)), **task.as_dict()},
            network=self.model.network,
            recipe=recipe,
            effective_batch=recipe.get("batch_size", 0) * processes,
            about=about,
        )
        return self.model.kind.build(blueprint)

    def about(self, data: ExamDataModule) -> dict[str, Any]:
        """What a checkpoint tells of its making: whom it was trained on, and what they looked
        like."""
        trained_on = data.exams.iloc[data.chosen(TRAIN)]
        return {
            "name": self.name,
            "labels": list(self.task.labels),
            "institutions": sorted(set(trained_on["institution"])),
            "exams": len(trained_on),
            "version": software_version(),
            "ranges": {quantity: list(limits) for quantity, limits in self.fitted.ranges.items()},
        }

    def finished(
        self,
        place: Place,
        fit: L.Trainer,
        tested: L.Trainer,
        module: TaskModule,
        data: ExamDataModule,
    ) -> Record:
        """Recalibrate, choose the thresholds, and keep the checkpoint."""
        exam, outputs = outputs_of(tested, module, data)
        if not np.isfinite(outputs).all():
            raise InputError(
                f"{self.name}: training diverged, its outputs are no numbers. Lower its "
                "base_learning_rate, or set its gradient_clip=1.0. "
                f"Remove {place.path} to begin anew."
            )
        if isinstance(module, Classifier):
            outputs = recalibrated(module, data, exam, outputs)
        predictions = rows_of(module, data, exam, outputs)
        validation = predictions[predictions["split"] == VAL]
        task = module.task
        thresholds = chosen_thresholds(task, validation)
        module.set_threshold(thresholds)
        fit.save_checkpoint(place.checkpoint, weights_only=True)
        best = task.score(validation)
        return {
            "labels": len(data.train_targets),
            "validated": best,
            "thresholds": thresholds,
            "metrics": {f"{task.monitored}_best": best, **named(task, thresholds)},
            "files": kept(module, place),
        }


@dataclass(frozen=True)
class Finetune(Train):
    """A model trained step by step, by gradients of batches.

    With `patience` it keeps the weights of least validation loss, and stops after so many
    validations without a better one; without, those at the end of its schedule. AUROC on some ten
    positive exams chooses nothing: it is a lottery. With `head_penalties` its head starts as a
    linear model of the task, and that is all of a linear probe.
    """

    kind: ClassVar[str] = "finetune"

    @property
    def title(self) -> str:
        name = "" if self.model.network is None else f" {self.model.network['name']}"
        origin = "published weights" if self.model.pretrained else "scratch"
        if self.start_kind is not None:
            origin = self.start_kind.word
        return f"finetune{name} from {origin} · {self.name}"

    @property
    def params(self) -> Mapping[str, Any]:
        return {"network": self.model.network or {}, **self.model.recipe}

    def make(self, place: Place) -> Record:
        recipe = self.model.recipe
        L.seed_everything(self.seed, verbose=False)
        data = self.data(place, recipe["batch_size"])
        patience = recipe["patience"]
        best = ModelCheckpoint(
            dirpath=place.path,
            filename="best",
            monitor="val/loss",
            save_weights_only=True,
            enable_version_counter=False,
        )
        choosing = [] if patience is None else [best, EarlyStopping("val/loss", patience=patience)]
        cut_at = place.path / RESUME_POINT
        interval = validation_interval(recipe, len(data.train_targets), self.compute.processes)
        head = HeadFirst(data, [] if cut_at.exists() else recipe["head_penalties"] or [])
        fit = trainer(
            place,
            self.compute,
            [
                StageBar(self.name, dict(self.task.shown)),
                head,
                BatchStatistics(data),
                *choosing,
                resume_point(place.path),
            ],
            logger=place.lab.tracking.logger(place.run),
            **schedule({**recipe, "validate_every_steps": interval, **self.probe}),
        )
        module = self.module(data.train_targets, fit.world_size, self.about(data))
        head.directions = self.begin(module)
        cut = seed_after(self.seed, fit, cut_at)
        fit.fit(module, data, ckpt_path=cut, weights_only=True)
        if best.best_model_path:
            chosen = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
            module.load_state_dict(chosen["state_dict"])
        return self.finished(place, fit, tester(place, f"threshold {self.name}"), module, data)

    @property
    def probe(self) -> dict[str, Any]:
        """What of the schedule is otherwise in a linear probe: once its head is fitted, it is
        trained."""
        recipe = self.model.recipe
        fitted = recipe["frozen_encoder"] and recipe["head_penalties"]
        return {"max_steps": 0, "max_epochs": -1} if fitted else {}

    def begin(self, module: TaskModule) -> Directions | None:
        """Give the network the weights that it starts from, and what they know of the head;
        InputError where they don't fit."""
        if self.start is not None and self.start_kind is not None:
            kept = torch.load(self.start, map_location="cpu", weights_only=True)
            encoder = self.start_kind.encoder(kept["state_dict"], module.network)
            try:
                cast(Classifier, module).load_encoder(encoder)
            except ValueError as error:
                raise InputError(
                    f"{self.name}: {error}. Pretrain the network it is to start from."
                ) from None
            return self.start_kind.directions(kept)
        if self.model.pretrained:
            load_published_weights(module.network)
        return None


@dataclass(frozen=True)
class FitWhole(Train):
    """A model of a few coefficients, fitted on all training exams at once, to convergence."""

    kind: ClassVar[str] = "fit"
    alone: ClassVar[bool] = True

    @property
    def title(self) -> str:
        return f"fit {self.model.kind.__name__} · {self.name}"

    @property
    def params(self) -> Mapping[str, Any]:
        return self.model.recipe

    def make(self, place: Place) -> Record:
        data = self.data(place, sum(len(site.exams) for site in self.exams.sites))
        module = self.module(data.train_targets, about=self.about(data))
        fit = table_trainer(
            place.path,
            [],
            precision="64-true",
            max_epochs=1,
            logger=place.lab.tracking.logger(place.run),
        )
        fit.fit(module, data)
        record = self.finished(place, fit, fit, module, data)
        record["metrics"] |= module.described_by(list(self.fitted.input.reads))
        return record


@dataclass(frozen=True)
class Models:
    """A study's models and all that they come from: unfitted inputs, the task, how a network is
    pretrained (`pretraining`, None: none is), the seed and what computes."""

    task: Task
    inputs: Mapping[str, Input]
    models: Mapping[str, Model]
    pretraining: Mapping[str, Any] | None
    seed: int
    compute: Compute

    def train(self, development: Sequence[Site], lab: Lab, run: str | None) -> dict[str, Trained]:
        """Fit inputs, pretrain where a model asks for it, and train: all on `development`."""
        fitted: dict[str, Fitted] = {}
        pretrained: dict[str, Pretrained] = {}  # several models may start from one
        trained = {}
        for name, model in self.models.items():
            if model.reads not in fitted:
                exams = Exams(tuple(development), model.reads)
                fitted[model.reads] = fit_input(self.inputs[model.reads], exams, lab)
            start = None
            if self.starts_from_pretraining(model):
                stage = self.pretrain_stage(model, fitted[model.reads], development)
                key = key_of(stage)
                if key not in pretrained:
                    pretrained[key] = pretrain(stage, lab, run)
                start = pretrained[key]
            made = run_stage(
                self.stage(name, model, fitted[model.reads], development, start), lab, run
            )
            trained[name] = Trained(made.checkpoint, model.reads, made.path.name, made.run, start)
        # By these, `experiments.predict` finds a launch's models.
        lab.tracking.tags(run, {f"{MODEL_TAG}{name}": str(of.run) for name, of in trained.items()})
        return trained

    def stage(
        self,
        name: str,
        model: Model,
        fitted: Fitted,
        development: Sequence[Site],
        start: Pretrained | None = None,
    ) -> Train:
        """The stage that trains a model."""
        network = model.network and {**model.network, "shape": fitted.input.shape}
        kind = FitWhole if model.kind.whole else Finetune
        return kind(
            name,
            replace(model, network=network),
            self.task,
            fitted,
            Exams(tuple(development), model.reads, self.task.labels),
            None if start is None else start.checkpoint,
            None if start is None else start.kind,
            self.seed,
            self.compute,
        )

    def starts_from_pretraining(self, model: Model) -> bool:
        """Whether a model starts from the study's pretraining."""
        return (
            model.pretrained
            and self.pretraining is not None
            and self.pretraining["input"] == model.reads
        )

    def pretrain_stage(self, model: Model, fitted: Fitted, development: Sequence[Site]) -> Pretrain:
        """The stage that pretrains a model's network."""
        assert self.pretraining is not None
        assert model.network is not None
        kind = pretraining_class(self.pretraining)
        return Pretrain(
            self.pretraining,
            model.network["name"],
            kind.of_network({**model.network, "shape": fitted.input.shape}),
            fitted,
            Exams(tuple(development), model.reads),
            self.seed,
            self.compute,
        )


# Training exams, at most, that batch statistics are taken from: more change next to nothing.
_MOST_EXAMS = 2048


def training_inputs(
    data: ExamDataModule, device: torch.device, most: int | None = None
) -> Iterator[torch.Tensor]:
    """The network's input (B, ...) of training exams as they are, none augmented, in order: of all,
    or of `most`, spread evenly."""
    exams = data.chosen(TRAIN)
    if most is not None and len(exams) > most:
        exams = exams[np.linspace(0, len(exams) - 1, most).astype(int)]
    # Of nearly one size: a batch norm can't normalise a batch of one exam.
    for of in np.array_split(exams, math.ceil(len(exams) / max(2, data.loading.batch_size))):
        batch = move_data_to_device(data.dataset.__getitems__(of.tolist()), device)
        yield data.prepare(batch)[data.reads]


class HeadFirst(Callback):
    """Starts the head, before the first step, as the linear model of the task on the encoder's
    features of all training exams; without `penalties`, as it is. `directions` are what the
    encoder's pretraining knows of these. Every process does the same, and the first one's head
    holds for all.
    """

    def __init__(self, data: ExamDataModule, penalties: Sequence[float]) -> None:
        self.data, self.penalties = data, penalties
        self.directions: Directions | None = None

    @torch.no_grad()
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.penalties:
            return
        assert isinstance(pl_module, Classifier)
        data, network = self.data, pl_module.network
        if batch_norms(network):  # the pretraining's last weights have others than its averages
            reestimate(network, training_inputs(data, pl_module.device, _MOST_EXAMS))
        network.eval()
        seen = torch.cat(
            [embedding(network, of).float().cpu() for of in training_inputs(data, pl_module.device)]
        )
        network.train()
        patients = data.exams["patient_id"].iloc[data.chosen(TRAIN)].astype(str).tolist()
        targets = torch.from_numpy(data.train_targets)
        pl_module.begin_head(seen, targets, patients, self.penalties, self.directions)
        # Of several processes on several machines, rounding may differ.
        begun: Any = trainer.strategy.broadcast(pl_module.network.state_dict())
        network.load_state_dict(begun)


class BatchStatistics(Callback):
    """Takes batch statistics anew from the training exams, before a validation and at the end: what
    is judged is what is kept."""

    def __init__(self, data: ExamDataModule) -> None:
        self.data = data

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        network = cast(TaskModule, pl_module).network
        if batch_norms(network):
            reestimate(network, training_inputs(self.data, pl_module.device, _MOST_EXAMS))

    on_train_end = on_validation_start


def recalibrated(
    module: Classifier, data: ExamDataModule, exam: NDArray[np.int64], outputs: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What `outputs_of` gave, of a model that is then recalibrated on the validation exams."""
    targets = data.exams[list(data.targets)].to_numpy(np.float64)[exam]
    of = (data.exams["split"] == VAL).to_numpy()[exam]
    module.recalibrate(torch.from_numpy(outputs[of]), torch.from_numpy(targets[of]))
    # In the precision that the checkpoint will predict in, for thresholds that fall on an exam.
    slope, intercept = (of.cpu().numpy() for of in (module.slope, module.intercept))
    calibrated = outputs.astype(np.float32) * slope + intercept
    return np.asarray(calibrated, np.float64)


def validation_interval(recipe: Mapping[str, Any], exams: int, processes: int) -> int:
    """Optimiser steps from one validation to the next: as asked, or every epoch where few labels
    make it shorter. A step takes a batch of each process."""
    epoch = math.ceil(exams / (recipe["batch_size"] * processes))
    return int(min(recipe["validate_every_steps"], epoch))


def chosen_thresholds(task: Task, validation: Any) -> list[float]:
    """The task's operating thresholds; InputError where validation exams allow none."""
    try:
        return task.thresholds(validation)
    except ValueError as error:
        raise InputError(f"{', '.join(task.labels)}: {error}") from None


def named(task: Task, thresholds: Sequence[float]) -> dict[str, float]:
    """Thresholds as metrics of a run: `threshold`, or by label where there are several."""
    several = len(task.labels) > 1
    return {
        f"threshold/{label}" if several else "threshold": of
        for label, of in zip(task.labels, thresholds, strict=True)
        if of == of
    }


def told(task: Task, record: Record) -> str:
    """A training's outcome in a few words."""
    known = [of for of in record["thresholds"] if of == of]
    threshold = f", threshold {known[0]:.3f}" if len(task.labels) == 1 and known else ""
    return (
        f"{record['labels']} labelled exams, {task.shown[task.monitored]} "
        f"{record['validated']:.3f}{threshold}"
    )
