"""Supervised training on the development institutions' labelled exams."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from omegaconf import DictConfig

from datamodules.errors import InputError
from datamodules.inputs import Preprocessing
from datamodules.institution import ExamDataModule, Fitted
from datamodules.recordings import LEADS
from datamodules.transforms import CXRPreprocessing, ECGPreprocessing
from experiments.config import plain
from experiments.console import StageBar, say
from experiments.evaluation.threshold import youden_threshold
from experiments.processes import is_first_process
from experiments.stages.cohort import Site
from experiments.stages.evaluate import predict
from experiments.stages.folder import StageFolder, file_digest
from experiments.stages.pretrain import Pretrained
from experiments.stages.training import (
    RESUME_POINT,
    data_module,
    resume_point,
    schedule,
    seed_after,
    stage_run,
    tester,
    trainer,
    what_matters,
)
from experiments.tracking import Tracking
from lightning_modules.checkpoint import CLASSIFIERS
from lightning_modules.classifier import ECGClassifier
from lightning_modules.ph import PHCXRClassifier

MONITORED = "val/auroc"
ORIGIN = {True: "from ImageNet", False: "from scratch"}


@dataclass(frozen=True)
class Trained:
    """A trained model: its checkpoint, the MLflow run that made it (None: not known here), and the
    pretraining that it started from, if any.
    """

    checkpoint: Path
    run: str | None
    pretrained: Pretrained | None = None


def finetune(
    config: DictConfig,
    name: str,
    model: Mapping[str, Any],
    development: Sequence[Site],
    fitted: Fitted,
    pretrained: Pretrained | None,
    tracking: Tracking,
    parent: str | None,
) -> Trained:
    """Train the study's model `name`, or reuse the same trained before.

    The checkpoint is of the epoch with the best validation AUROC, and holds network,
    preprocessing and the operating threshold chosen on validation exams.
    """
    network, settings = model["network"], settings_of(config, model)
    folder = StageFolder(
        Path(config.cache) / "stages",
        "finetune",
        {
            "name": name,  # the checkpoint tells it
            "model": {"classifier": model["classifier"], "network": network},
            "target": config.target,
            "finetune": settings,
            "preprocessing": fitted.preprocessing.as_dict(),
            "pretrained": file_digest(pretrained.checkpoint) if pretrained else model["pretrained"],
            "trainer": what_matters(config),
            "seed": config.seed,
            "data": [site.digest_of(fitted.preprocessing.input, "target") for site in development],
        },
    )
    with folder.alone():
        checkpoint = folder.path / "model.ckpt"
        if (record := folder.record) is not None:
            say(f"{name}: reused from run {record['run']} ({outcome(record)})")
            tracking.tags(parent, {f"reused.{name}": str(record["run"])})
            return Trained(checkpoint, record["run"], pretrained)

        L.seed_everything(config.seed, verbose=False)
        data = data_module(
            config,
            development,
            [],
            preprocessing=fitted.preprocessing,
            batch_size=settings["batch_size"],
            labelled=True,
            augmentation=settings["augmentation"],
        )
        # Few labels make short epochs; each of them is validated.
        epoch = math.ceil(len(data.train_targets) / settings["batch_size"])
        interval = min(settings["validate_every_steps"], epoch)
        sites = ", ".join(site.name for site in development)
        origin = "from mae" if pretrained else ORIGIN[bool(model["pretrained"])]
        with stage_run(
            tracking,
            folder,
            f"finetune {network['name']} {origin} · {name}",
            parent=parent,
            tags={"stage": "finetune", "model": name, "development": sites},
            params={"network": network, **settings},
        ) as run:
            best = ModelCheckpoint(
                dirpath=folder.path,
                filename="best",
                monitor=MONITORED,
                mode="max",
                save_weights_only=True,
                enable_version_counter=False,
            )
            fit = trainer(
                config,
                folder.path,
                [
                    StageBar(name, {MONITORED: "validation AUROC"}),
                    best,
                    EarlyStopping(MONITORED, mode="max", patience=settings["patience"]),
                    resume_point(folder.path),
                ],
                logger=tracking.logger(run),
                **schedule({**settings, "validate_every_steps": interval}),
            )
            module = classifier(
                config,
                model,
                fitted.preprocessing,
                data.train_targets,
                world_size=fit.world_size,
                about=about(config, name, data, fitted),
            )
            if pretrained is not None:
                assert isinstance(module, ECGClassifier)
                start = torch.load(pretrained.checkpoint, map_location="cpu", weights_only=True)
                try:
                    module.load_encoder(start["state_dict"])
                except ValueError as error:
                    raise InputError(
                        f"{name}: {error}. Pretrain the network it is to start from."
                    ) from None
            cut = seed_after(config, fit, folder.path / RESUME_POINT)
            fit.fit(module, data, ckpt_path=cut, weights_only=True)

            if best.best_model_path:
                chosen = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
                module.load_state_dict(chosen["state_dict"])
                assert best.best_model_score is not None
                auroc = float(best.best_model_score)
            else:  # too short a training for a validation on the way
                auroc = fit.validate(module, data, verbose=False)[0][MONITORED]
            predictions = predict(tester(config, folder.path, f"threshold {name}"), module, data)
            validation = predictions[predictions["split"] == "val"]
            if not np.isfinite(predictions["logit"]).all():
                raise InputError(
                    f"{name}: training diverged, its outputs are no numbers. Lower its "
                    "base_learning_rate, or set its gradient_clip=1.0. "
                    f"Remove {folder.path} to begin anew."
                )
            threshold = youden_threshold(validation["target"], validation["probability"])
            module.set_threshold(threshold)
            fit.save_checkpoint(checkpoint, weights_only=True)
            if is_first_process():
                record = {
                    "run": run,
                    "uri": tracking.uri,
                    "labels": len(data.train_targets),
                    "val_auroc": auroc,
                    "threshold": threshold,
                }
                say(f"{name}: trained on {record['labels']} labelled exams, {outcome(record)}")
                tracking.metrics(
                    run, {"val/auroc_best": record["val_auroc"], "threshold": threshold}
                )
                tracking.file(run, checkpoint, "checkpoint")
                for used in folder.path.glob("*.ckpt"):
                    if used != checkpoint:
                        used.unlink()
                folder.finish(record)
            fit.strategy.barrier()
        return Trained(checkpoint, run, pretrained)


def settings_of(config: DictConfig, model: Mapping[str, Any]) -> dict[str, Any]:
    """How a model is trained: the settings for its input, and its own where it has some."""
    common = {"ecg": config.finetune, "cxr": config.cxr_finetune}
    return {**plain(common[CLASSIFIERS[model["classifier"]].input]), **model["finetune"]}


def classifier(
    config: DictConfig,
    model: Mapping[str, Any],
    preprocessing: Preprocessing,
    targets: np.ndarray,
    world_size: int = 1,
    about: Mapping[str, Any] | None = None,
) -> ECGClassifier | PHCXRClassifier:
    """One of the study's networks, new, to train on `targets`. ValueError where sizes don't fit."""
    kind: Any = CLASSIFIERS[model["classifier"]]
    network, settings = model["network"], settings_of(config, model)
    positives = targets.sum()
    common = {
        "architecture": network["architecture"],
        "weight_decay": settings["weight_decay"],
        "positive_weight": float((len(targets) - positives) / positives)
        if settings["balance_classes"]
        else 1.0,
        "base_learning_rate": settings["base_learning_rate"],
        "effective_batch": settings["batch_size"] * world_size,
        "betas": settings["betas"],
        "warmup_fraction": settings["warmup_fraction"],
        "preprocessing": preprocessing.as_dict(),
        "about": dict(about or {}),
    }
    own = dict(network["settings"])
    if isinstance(preprocessing, CXRPreprocessing):
        return kind(settings=own, pretrained=model["pretrained"], **common)
    assert isinstance(preprocessing, ECGPreprocessing)
    if network["architecture"] == "vit":
        own |= {"pooling": settings["pooling"], "drop_path": network["drop_path"]}
    return kind(
        settings=own,
        leads=len(LEADS),
        samples=preprocessing.samples,
        patch_samples=config.ecg.patch_samples,
        frozen_encoder=settings["frozen_encoder"],
        layer_decay=network["layer_decay"],
        **common,
    )


def about(config: DictConfig, name: str, data: ExamDataModule, fitted: Fitted) -> dict[str, Any]:
    """What a checkpoint tells of its making: whom it was trained on, and what they looked like."""
    trained_on = data.exams.iloc[data.chosen("train")]
    return {
        "name": name,
        "target": config.target,
        "institutions": sorted(set(trained_on["institution"])),
        "exams": len(trained_on),
        "ranges": {quantity: list(limits) for quantity, limits in fitted.ranges.items()},
    }


def outcome(record: Mapping[str, Any]) -> str:
    return f"validation AUROC {record['val_auroc']:.3f}, threshold {record['threshold']:.3f}"
