"""Pretraining on the development institutions' exams, labelled or not."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import numpy as np
import torch
from matplotlib.figure import Figure

from datamodules.errors import InputError
from datamodules.inputs.input import Fitted
from datamodules.institution import ExamDataModule
from datamodules.multisite import MultiSiteDataModule
from experiments.console import StageBar, say
from experiments.evaluation.predictions import TRAIN
from experiments.figures.ecg_paper import sheets_figure
from experiments.software import software_version
from experiments.stages.exams import Exams
from experiments.stages.stage import Lab, Place, Record, Stage, run_stage
from experiments.stages.training import (
    RESUME_POINT,
    Compute,
    data_module,
    kept,
    resume_point,
    schedule,
    seed_after,
    trainer,
)
from lightning_modules.pretraining.pretraining import Pretraining, Verdict
from lightning_modules.target import name_of, resolve

EXAMPLE = "example.npz"


@dataclass(frozen=True)
class Pretrain(Stage):
    """A network's pretraining on exams of one input.

    `settings`: those of configs/pretrain, with the pretraining's class (`_target_`). `network`: its
    class, settings and shape.
    """

    kind: ClassVar[str] = "pretrain"

    settings: Mapping[str, Any]
    network_name: str
    network: Mapping[str, Any]
    fitted: Fitted
    exams: Exams
    seed: int
    compute: Compute

    @property
    def name(self) -> str:
        return "pretrain"

    @property
    def sites(self) -> str:
        return ", ".join(site.name for site in self.exams.sites)

    @property
    def title(self) -> str:
        return f"pretrain {self.network_name} · {self.sites}"

    @property
    def tags(self) -> dict[str, str]:
        return {"development": self.sites}

    @property
    def params(self) -> Mapping[str, Any]:
        return {"network": self.network_name, **self.settings}

    def told(self, record: Record) -> str:
        return pretraining_class(self.settings).told(record["metrics"])

    def module(self, processes: int = 1) -> Pretraining:
        """The pretraining, new; ValueError where its settings do not fit."""
        made = pretraining_class(self.settings).build(
            self.settings,
            reads=self.exams.reads,
            network=self.network,
            statistics=self.fitted.statistics,
            effective_batch=self.settings["batch_size"] * processes,
            seed=self.seed,
        )
        input = self.fitted.input
        made.input = {"_target_": name_of(type(input)), **input.as_dict()}
        return made

    def about(self, data: ExamDataModule) -> dict[str, Any]:
        """What a checkpoint tells of its making, as a training's."""
        trained_on = data.exams.iloc[data.chosen(TRAIN)]
        return {
            "name": self.network_name,
            "institutions": sorted(set(trained_on["institution"])),
            "exams": len(trained_on),
            "version": software_version(),
            "ranges": {quantity: list(limits) for quantity, limits in self.fitted.ranges.items()},
        }

    def make(self, place: Place) -> Record:
        L.seed_everything(self.seed, verbose=False)
        data = data_module(
            place.lab,
            self.fitted.input,
            self.exams,
            batch_size=self.settings["batch_size"],
            seed=self.seed,
            augmentation=self.fitted.input.augmentation(self.settings["augmentation"]),
        )
        kind = pretraining_class(self.settings)
        fit = trainer(
            place,
            self.compute,
            [
                StageBar(f"pretrain {self.network_name}", dict(kind.shown)),
                resume_point(place.path),
                ExampleFigure(data, place),
            ],
            logger=place.lab.tracking.logger(place.run),
            **schedule(self.settings),
        )
        module = self.module(fit.world_size)
        module.about = self.about(data)
        cut = seed_after(self.seed, fit, place.path / RESUME_POINT)
        begun = time.perf_counter()
        fit.fit(module, data, ckpt_path=cut, weights_only=True)
        cost = {
            "exams_seen": float(fit.global_step * self.settings["batch_size"] * fit.world_size),
            # Of a pretraining that was cut nobody knows.
            "seconds": time.perf_counter() - begun if cut is None else math.nan,
        }
        (final,) = fit.validate(module, data, verbose=False)
        if not math.isfinite(final["val/loss"]):
            raise InputError(
                "pretrain: training diverged, the loss is no number. Lower "
                "pretrain.base_learning_rate, or set pretrain.gradient_clip=1.0. "
                f"Remove {place.path} to begin anew."
            )
        fit.save_checkpoint(place.checkpoint, weights_only=True)
        return {
            "exams": len(data.chosen("train")),
            "metrics": {name: float(value) for name, value in final.items()} | cost,
            "files": kept(module, place),
        }


@dataclass(frozen=True)
class Pretrained:
    """A finished pretraining: its checkpoint, on how many exams, its last validation metrics, and
    what these have come to.
    """

    kind: type[Pretraining]
    network: str
    checkpoint: Path
    exams: int
    metrics: Mapping[str, float]
    verdict: Verdict

    def figure(self, title: str) -> Figure | None:
        """One validation exam, and what the pretraining made of it."""
        return example_figure(self.kind, self.checkpoint.with_name(EXAMPLE), title)

    def limit(self, held_out: str) -> str:
        """What a report says of a pretraining that learned next to nothing."""
        where = f" without {held_out}" if held_out else ""
        return (
            f"The pretraining{where} {self.verdict.failed}, so it learned next to nothing, and the "
            "models that start from it say nothing about pretraining."
        )


def pretrain(stage: Pretrain, lab: Lab, parent: str | None) -> Pretrained:
    """Pretrain, or reuse a finished pretraining of the same; one that failed says so where nobody
    can miss it."""
    made = run_stage(stage, lab, parent)
    kind = pretraining_class(stage.settings)
    verdict = kind.verdict(made.record["metrics"], lab.judging)
    _warn(verdict)
    lab.tracking.tags(made.run, {"plateau": str(bool(verdict.failed)).lower()})
    return Pretrained(
        kind,
        stage.network_name,
        made.checkpoint,
        made.record["exams"],
        made.record["metrics"],
        verdict,
    )


def pretraining_class(settings: Mapping[str, Any]) -> type[Pretraining]:
    """The class that the settings name; ValueError where it is no pretraining."""
    kind = resolve(settings["_target_"])
    if not (isinstance(kind, type) and issubclass(kind, Pretraining)):
        raise ValueError(f"_target_={settings['_target_']} is not a Pretraining")
    return kind


class ExampleFigure(L.Callback):
    """Logs what the pretraining makes of one validation exam at every validation, and keeps the
    newest.
    """

    def __init__(self, data: MultiSiteDataModule, place: Place) -> None:
        self.data, self.place = data, place

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, Pretraining)
        input, exam = self.data.input, int(self.data.chosen("val")[0])
        raw = self.data.dataset[exam]["recorded"]
        prepared = input.prepare(raw).to(pl_module.device)
        with trainer.precision_plugin.forward_context(), torch.no_grad():
            example = pl_module.example(prepared, partial(input.restore, raw=raw))
        arrays: dict[str, Any] = {name: of.cpu().numpy() for name, of in example.items()}
        arrays |= {"rate_hz": np.float64(input.rate_hz), "channels": np.array(input.channels)}
        np.savez(self.place.path / EXAMPLE, **arrays)
        figure = example_figure(
            type(pl_module), self.place.path / EXAMPLE, f"step {trainer.global_step}"
        )
        if figure is not None:
            name = f"reconstruction/step-{trainer.global_step:07d}.png"
            self.place.lab.tracking.figure(self.place.run, figure, name)


def example_figure(kind: type[Pretraining], file: Path, title: str) -> Figure | None:
    """The figure of an example that `ExampleFigure` kept, where the pretraining has one."""
    with np.load(file) as kept:
        arrays = dict(kept)
    rate, leads = float(arrays.pop("rate_hz")), arrays.pop("channels").tolist()
    sheets = kind.sheets(arrays)
    return sheets_figure(sheets, rate, title, leads) if sheets else None


def _warn(verdict: Verdict) -> None:
    """Of a failure, where nobody can miss it."""
    if verdict.failed:
        lines = [
            f"PRETRAINING {verdict.failed.upper()}.",
            "It has learned next to nothing, and models started from it gain nothing.",
            *verdict.advice,
        ]
        rule = "!" * 79
        say("\n".join([rule, *(f"!! {line}" for line in lines), rule]))
    elif verdict.remark:
        say(f"pretrain: {verdict.remark}")
