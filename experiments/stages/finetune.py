"""Supervised training on the development institutions' labelled exams."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from omegaconf import DictConfig

from datamodules.errors import InputError
from datamodules.recordings import LEADS
from datamodules.transforms import ECGPreprocessing
from experiments.config import plain
from experiments.console import StageBar, say
from experiments.evaluation.threshold import youden_threshold
from experiments.processes import is_first_process
from experiments.stages.cohort import Site
from experiments.stages.evaluate import predict
from experiments.stages.folder import StageFolder, file_digest
from experiments.stages.training import (
    RESUME_POINT,
    data_module,
    resume_point,
    schedule,
    seed_after,
    stage_run,
    trainer,
    what_matters,
)
from experiments.tracking import Tracking
from lightning_modules.lvsd import LVSDClassifier

MONITORED = "val/auroc"


def finetune(
    config: DictConfig,
    name: str,
    model: Mapping[str, Any],
    development: Sequence[Site],
    preprocessing: ECGPreprocessing,
    pretrained: Path | None,
    tracking: Tracking,
    parent: str | None,
) -> Path:
    """Train the study's model `name`, or reuse the same trained before; returns the checkpoint.

    The checkpoint is of the epoch with the best validation AUROC, and holds network,
    preprocessing and the operating threshold chosen on validation exams.
    """
    network, settings = model["network"], {**plain(config.finetune), **model["finetune"]}
    folder = StageFolder(
        Path(config.cache) / "stages",
        "finetune",
        {
            "network": network,
            "finetune": settings,
            "ecg": plain(config.ecg),
            "pretrained": file_digest(pretrained) if pretrained else None,
            "trainer": what_matters(config),
            "seed": config.seed,
            "data": [site.digest for site in development],
        },
    )
    with folder.alone():
        checkpoint = folder.path / "model.ckpt"
        if (record := folder.record) is not None:
            say(f"{name}: reused from run {record['run']} ({_outcome(record)})")
            tracking.tags(parent, {f"reused.{name}": str(record["run"])})
            return checkpoint

        L.seed_everything(config.seed, verbose=False)
        data = data_module(
            config,
            development,
            [],
            preprocessing=preprocessing,
            batch_size=settings["batch_size"],
            labelled=True,
            augmentation=settings["augmentation"],
        )
        # Few labels make short epochs; each of them is validated.
        epoch = math.ceil(len(data.train_targets) / settings["batch_size"])
        interval = min(settings["validate_every_steps"], epoch)
        sites = ", ".join(site.name for site in development)
        origin = "from mae" if pretrained else "from scratch"
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
                config, model, preprocessing, data.train_targets, world_size=fit.world_size
            )
            if pretrained:
                weights = torch.load(pretrained, map_location="cpu", weights_only=True)[
                    "state_dict"
                ]
                try:
                    module.load_encoder(weights)
                except ValueError as error:
                    raise InputError(
                        f"{name}: {error}. Pretrain the network it is to start from."
                    ) from None
            cut = seed_after(config, fit, folder.path / RESUME_POINT)
            fit.fit(module, data, ckpt_path=cut, weights_only=True)

            if best.best_model_path:
                chosen = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
                module.load_state_dict(chosen["state_dict"])
                auroc = float(best.best_model_score or np.nan)
            else:  # too short a training for a validation on the way
                auroc = fit.validate(module, data, verbose=False)[0][MONITORED]
            predictions = predict(fit, module, data)
            validation = predictions[predictions["split"] == "val"]
            if not np.isfinite(predictions["logit"]).all():
                raise InputError(
                    f"{name}: training diverged, its outputs are no numbers. Lower "
                    "finetune.base_learning_rate, or set finetune.gradient_clip=1.0. "
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
                say(f"{name}: trained on {record['labels']} labelled ECGs, {_outcome(record)}")
                tracking.metrics(
                    run, {"val/auroc_best": record["val_auroc"], "threshold": threshold}
                )
                tracking.file(run, checkpoint, "checkpoint")
                for used in folder.path.glob("*.ckpt"):
                    if used != checkpoint:
                        used.unlink()
                folder.finish(record)
            fit.strategy.barrier()
        return checkpoint


def classifier(
    config: DictConfig,
    model: Mapping[str, Any],
    preprocessing: ECGPreprocessing,
    targets: np.ndarray,
    world_size: int = 1,
) -> LVSDClassifier:
    """One of the study's models, new, for training `targets`. ValueError where sizes do not fit."""
    network, settings = model["network"], {**plain(config.finetune), **model["finetune"]}
    own = dict(network["settings"])
    if network["architecture"] == "vit":
        own |= {"pooling": settings["pooling"], "drop_path": network["drop_path"]}
    positives = targets.sum()
    return LVSDClassifier(
        architecture=network["architecture"],
        settings=own,
        leads=len(LEADS),
        samples=preprocessing.samples,
        patch_samples=config.ecg.patch_samples,
        frozen_encoder=settings["frozen_encoder"],
        layer_decay=network["layer_decay"],
        weight_decay=settings["weight_decay"],
        positive_weight=float((len(targets) - positives) / positives)
        if settings["balance_classes"]
        else 1.0,
        base_learning_rate=settings["base_learning_rate"],
        effective_batch=settings["batch_size"] * world_size,
        betas=settings["betas"],
        warmup_fraction=settings["warmup_fraction"],
        preprocessing=preprocessing.as_dict(),
    )


def _outcome(record: Mapping[str, Any]) -> str:
    return f"validation AUROC {record['val_auroc']:.3f}, threshold {record['threshold']:.3f}"
