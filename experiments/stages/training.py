"""What pretraining and fine-tuning share: the Trainer, the DataModule, and resuming."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig

from datamodules.errors import InputError
from datamodules.inputs import Preprocessing
from datamodules.institution import InstitutionDataModule, Loading
from datamodules.multisite import MultiSiteDataModule
from datamodules.transforms import CXRAugmentation, ECGAugmentation
from experiments.config import plain
from experiments.console import StageBar
from experiments.stages.cohort import Site
from experiments.stages.folder import StageFolder
from experiments.tracking import Tracking

RESUME_POINT = "last.ckpt"
# Settings under `trainer` that are not Lightning's.
OURS = ("loading_workers", "test_batch_size")
OWN_WAYS: dict[str, Any] = {
    "num_sanity_val_steps": 0,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_autolog_hparams": False,
}
AUGMENTATIONS: dict[str, Any] = {"ecg": ECGAugmentation, "cxr": CXRAugmentation}


def data_module(
    config: DictConfig,
    development: Sequence[Site],
    external: Sequence[Site],
    *,
    preprocessing: Preprocessing,
    batch_size: int,
    labelled: bool,
    augmentation: Mapping[str, Any] | None = None,
) -> MultiSiteDataModule:
    """The cohort's exams that have the input of `preprocessing`, as batches."""
    input = preprocessing.input
    augment = AUGMENTATIONS[input](**augmentation) if augmentation else None

    def institution(site: Site) -> InstitutionDataModule:
        return InstitutionDataModule(
            site.name,
            site.exams_with(input),
            site.stores.get(input),
            preprocessing=preprocessing,
            augmentation=augment,
            loading=Loading(batch_size, config.trainer.loading_workers, config.seed),
            labelled=labelled,
        )

    def having(sites: Sequence[Site]) -> list[InstitutionDataModule]:
        return [institution(site) for site in sites if len(site.exams_with(input))]

    return MultiSiteDataModule(development=having(development), external=having(external))


def trainer(
    config: DictConfig,
    folder: Path,
    callbacks: Sequence[Callback],
    *,
    matmul_precision: str = "high",
    **settings: Any,
) -> L.Trainer:
    """Lightning's Trainer with the person's settings and ours for a stage."""
    made = L.Trainer(
        **{**_lightnings(config), **OWN_WAYS, **settings},
        callbacks=list(callbacks),
        default_root_dir=folder,
        use_distributed_sampler=False,  # the DataModule's samplers know their rank
    )
    torch.set_float32_matmul_precision(matmul_precision)
    torch.backends.cudnn.allow_tf32 = matmul_precision != "highest"
    local = max(1, made.num_devices)
    if made.strategy.root_device.type == "cpu" and local > 1:
        # Processes that each take every core run many times slower than one.
        torch.set_num_threads(max(1, (os.cpu_count() or local) // local))
    return made


def tester(config: DictConfig, folder: Path, description: str) -> L.Trainer:
    """A Trainer for predictions: in full float32, so that they are the same on every device."""
    return trainer(
        config,
        folder,
        [StageBar(description)],
        matmul_precision="highest",
        precision="32-true",
        logger=False,
    )


def table_trainer(folder: Path, callbacks: Sequence[Callback], **settings: Any) -> L.Trainer:
    """A Trainer for models of a table's few columns: one process on the CPU is all they need."""
    return L.Trainer(
        accelerator="cpu",
        devices=1,
        enable_checkpointing=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
        **{**OWN_WAYS, **settings},
    )


def seed_after(config: DictConfig, trainer: L.Trainer, cut: Path) -> Path | None:
    """Seed what is random while training, for each process, and on from a cut; the cut if any."""
    step = (
        torch.load(cut, map_location="cpu", weights_only=True)["global_step"] if cut.exists() else 0
    )
    L.seed_everything(config.seed + 1000 * trainer.global_rank + step, verbose=False)
    return cut if cut.exists() else None


def schedule(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a stage's settings ask of the Trainer. Validations come every so many steps."""
    if settings["max_steps"] < 1 and settings["max_epochs"] < 1:
        raise InputError("Give max_steps or max_epochs: without either, training never ends.")
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


def what_matters(config: DictConfig) -> dict[str, Any]:
    """What of the Trainer changes a result, for a stage's key: processes and precision.

    Raises InputError for a Trainer that can't be.
    """
    try:
        made = L.Trainer(**_lightnings(config), logger=False, enable_checkpointing=False)
    except (MisconfigurationException, ValueError, TypeError, RuntimeError, KeyError) as error:
        raise InputError(f"trainer: Lightning refuses these settings: {error}") from None
    return {"processes": made.world_size, "precision": str(config.trainer.precision)}


def _lightnings(config: DictConfig) -> dict[str, Any]:
    return {key: value for key, value in plain(config.trainer).items() if key not in OURS}


@contextmanager
def stage_run(
    tracking: Tracking,
    folder: StageFolder,
    name: str,
    *,
    parent: str | None,
    tags: Mapping[str, str],
    params: Mapping[str, Any],
    part: str = "run",
) -> Iterator[str | None]:
    """A stage's MLflow run, or that of a `part`; one that was cut goes on in the run it began."""
    begun = folder.read(f"{part}.json")
    resume = begun.get("run") if begun.get("uri") == tracking.uri else None
    if resume is not None and tracking.enabled and not tracking.exists(resume):
        resume = None
    with tracking.run(name, parent=parent, tags=tags, resume=resume) as run:
        if run is not None:
            tracking.tags(run, {"mlflow.parentRunId": str(parent)})
            folder.write(f"{part}.json", {"run": run, "uri": tracking.uri})
            if resume is None:
                tracking.params(run, flat(params))
        yield run


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}, as MLflow shows parameters."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            result.update(flat(value, f"{prefix}{key}."))
        else:
            result[f"{prefix}{key}"] = value
    return result
