"""What stages that train or predict share: the Trainer, the DataModule, seeds and resuming."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from datamodules.errors import InputError
from datamodules.inputs.input import Augmentation, Input
from datamodules.institution import InstitutionDataModule, Loading
from datamodules.multisite import MultiSiteDataModule
from experiments.console import StageBar
from experiments.stages.exams import Exams
from experiments.stages.stage import Lab, Place
from experiments.tracking import CHECKPOINT as CHECKPOINT_FOLDER
from lightning_modules.classifier import TaskModule
from lightning_modules.pretraining.pretraining import Pretraining

RESUME_POINT = "last.ckpt"
# Settings under `trainer` that are not Lightning's.
OURS = ("loading_workers", "test_batch_size")
# Lightning's that say where a training runs and what it tells, and not what comes of it.
MACHINERY = (
    "accelerator",
    "devices",
    "num_nodes",
    "strategy",
    "log_every_n_steps",
)
OWN_WAYS: dict[str, Any] = {
    "num_sanity_val_steps": 0,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_autolog_hparams": False,
}
# Odd, so that each rank and each step has a seed of its own among 2^32.
PER_RANK, PER_STEP = 0x9E3779B1, 0x85EBCA77


@dataclass(frozen=True)
class Compute:
    """What of a Trainer changes a result: how many processes train, and in what precision.

    `options`: Lightning's own, beside the machinery.
    """

    processes: int = 1
    precision: str = "32-true"
    options: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(trainer: Mapping[str, Any]) -> "Compute":
        """Of Lightning's settings; InputError for a Trainer that can't be."""
        try:
            made = L.Trainer(**trainer, logger=False, enable_checkpointing=False)
        except (MisconfigurationException, ValueError, TypeError, RuntimeError, KeyError) as error:
            raise InputError(f"trainer: Lightning refuses these settings: {error}") from None
        others = {k: v for k, v in trainer.items() if k not in (*MACHINERY, "precision")}
        return Compute(made.world_size, str(trainer["precision"]), others)


def data_module(
    lab: Lab,
    input: Input,
    development: Exams,
    external: Exams | None = None,
    *,
    batch_size: int,
    seed: int = 0,
    augmentation: Augmentation | None = None,
) -> MultiSiteDataModule:
    """The exams as batches of the input that they are given for; where they have labels, those with
    a target of any."""

    def having(exams: Exams | None) -> list[InstitutionDataModule]:
        if exams is None:
            return []
        return [
            InstitutionDataModule(
                site.name,
                with_input,
                site.stores.get(exams.reads),
                reads=exams.reads,
                input=input,
                augmentation=augmentation,
                loading=Loading(batch_size, lab.loading_workers, seed),
                targets=exams.targets,
            )
            for site in exams.sites
            if len(with_input := site.exams_with(exams.reads))
        ]

    return MultiSiteDataModule(development=having(development), external=having(external))


def trainer(
    place: Place,
    compute: Compute,
    callbacks: Sequence[Callback],
    *,
    matmul_precision: str = "high",
    **settings: Any,
) -> L.Trainer:
    """Lightning's Trainer with the person's settings and ours for a stage."""
    machinery = {k: v for k, v in place.lab.trainer.items() if k in MACHINERY}
    given = {"precision": compute.precision, **compute.options, **machinery}
    made = L.Trainer(
        **{**given, **OWN_WAYS, **settings},
        callbacks=list(callbacks),
        default_root_dir=place.path,
        use_distributed_sampler=False,  # the DataModule's samplers know their rank
    )
    torch.set_float32_matmul_precision(matmul_precision)
    torch.backends.cudnn.allow_tf32 = matmul_precision != "highest"
    local = max(1, made.num_devices)
    if made.strategy.root_device.type == "cpu" and local > 1:
        # Processes that each take every core run many times slower than one.
        torch.set_num_threads(max(1, (os.cpu_count() or local) // local))
    return made


def tester(place: Place, description: str) -> L.Trainer:
    """A Trainer for predictions: in full float32, so that they are the same on every device."""
    return trainer(
        place, Compute(), [StageBar(description)], matmul_precision="highest", logger=False
    )


def table_trainer(path: Path, callbacks: Sequence[Callback], **settings: Any) -> L.Trainer:
    """A Trainer for models of a table's few columns: one process on the CPU is all they need."""
    return L.Trainer(
        accelerator="cpu",
        devices=1,
        enable_checkpointing=False,
        default_root_dir=path,
        callbacks=list(callbacks),
        **{**OWN_WAYS, **settings},
    )


def seed_after(seed: int, trainer: L.Trainer, cut: Path) -> Path | None:
    """Seed what is random while training, for each process, and on from a cut; the cut if any."""
    step = (
        torch.load(cut, map_location="cpu", weights_only=True)["global_step"] if cut.exists() else 0
    )
    L.seed_everything(seed_of(seed, trainer.global_rank, step), verbose=False)
    return cut if cut.exists() else None


def seed_of(seed: int, rank: int, step: int) -> int:
    """The seed of a process that starts at a step: `seed` itself for the first one at the start."""
    return (seed + PER_RANK * rank + PER_STEP * step) % 2**32


def schedule(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a stage's settings ask of the Trainer. Validations come every so many steps."""
    return {
        "max_epochs": settings["max_epochs"],
        "max_steps": settings["max_steps"],
        "val_check_interval": settings["validate_every_steps"],
        "check_val_every_n_epoch": None,
        "gradient_clip_val": settings["gradient_clip"],
    }


def resume_point(folder: Path) -> ModelCheckpoint:
    """Keeps the state after the newest validation: where a cut run goes on.

    After, not before: other callbacks have then learned what the validation gave.
    """
    return ModelCheckpoint(
        dirpath=folder,
        filename=RESUME_POINT.removesuffix(".ckpt"),
        save_top_k=1,
        monitor=None,
        every_n_epochs=1,
        save_on_train_epoch_end=False,
        enable_version_counter=False,
    )


def kept(module: TaskModule | Pretraining, place: Place) -> dict[str, str]:
    """A stage's "files": its checkpoint, and beside it what makes that an MLflow model."""
    # They read stages themselves.
    from experiments.inference import LoadedModel
    from experiments.serving import describe

    checkpoint = place.checkpoint.name
    beside: list[str] = []
    if place.lab.processes.first:
        beside = describe(LoadedModel(module, checkpoint), place.path, checkpoint)
    return dict.fromkeys([checkpoint, *beside], CHECKPOINT_FOLDER)
