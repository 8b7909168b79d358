"""Masked-autoencoder pretraining on the development institutions' ECGs, labelled or not."""

import math
from collections.abc import Sequence
from pathlib import Path

import lightning as L
from omegaconf import DictConfig

from datamodules.errors import InputError
from datamodules.inputs import millivolts
from datamodules.institution import Fitted
from datamodules.multisite import MultiSiteDataModule
from datamodules.recordings import LEADS
from datamodules.transforms import ECGPreprocessing
from experiments.config import plain
from experiments.console import StageBar, say
from experiments.figures.ecg_paper import reconstruction_figure
from experiments.processes import is_first_process
from experiments.stages.cohort import Site
from experiments.stages.folder import StageFolder
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
from lightning_modules.mae import MaskedAutoencoder


def autoencoder(config: DictConfig, fitted: Fitted, world_size: int = 1) -> MaskedAutoencoder:
    """The configured masked autoencoder, new. ValueError where its sizes do not fit."""
    settings = plain(config.pretrain)
    preprocessing, lead_covariance = fitted.preprocessing, fitted.lead_covariance
    assert isinstance(preprocessing, ECGPreprocessing)
    assert lead_covariance is not None
    return MaskedAutoencoder(
        leads=len(LEADS),
        samples=preprocessing.samples,
        patch_samples=config.ecg.patch_samples,
        encoder=plain(config.network.settings),
        decoder=settings["decoder"],
        mask_ratio=settings["mask_ratio"],
        masking=settings["masking"],
        normalise_targets=settings["normalise_targets"],
        base_learning_rate=settings["base_learning_rate"],
        effective_batch=settings["batch_size"] * world_size,
        betas=settings["betas"],
        weight_decay=settings["weight_decay"],
        warmup_fraction=settings["warmup_fraction"],
        seed=config.seed,
        lead_covariance=lead_covariance.tolist(),
        preprocessing=preprocessing.as_dict(),
    )


def pretrain(
    config: DictConfig,
    development: Sequence[Site],
    fitted: Fitted,
    tracking: Tracking,
    parent: str | None,
) -> Path:
    """Pretrain, or reuse a finished pretraining of the same; returns the checkpoint.

    A cut pretraining goes on from its last validation. One that ends on its plateau says so.
    """
    settings = plain(config.pretrain)
    folder = StageFolder(
        Path(config.cache) / "stages",
        "pretrain",
        {
            "pretrain": {k: v for k, v in settings.items() if k != "plateau_explained_variance"},
            "network": plain(config.network.settings),
            "ecg": plain(config.ecg),
            "trainer": what_matters(config),
            "seed": config.seed,
            "data": [site.digest_of("ecg") for site in development],
        },
    )
    with folder.alone():
        checkpoint = folder.path / "model.ckpt"
        sites = ", ".join(site.name for site in development)
        if (record := folder.record) is not None:
            say(f"pretrain: reused from run {record['run']} ({_pair(record)})")
            tracking.tags(parent, {"reused.pretrain": str(record["run"])})
            _warn_of_plateau(record, settings)
            return checkpoint

        L.seed_everything(config.seed, verbose=False)
        data = data_module(
            config,
            development,
            [],
            preprocessing=fitted.preprocessing,
            batch_size=settings["batch_size"],
            labelled=False,
            augmentation=settings["augmentation"],
        )
        with stage_run(
            tracking,
            folder,
            f"pretrain {config.network.name} · {sites}",
            parent=parent,
            tags={"stage": "pretrain", "development": sites},
            params={"network": config.network.name, **settings},
        ) as run:
            bar = StageBar(
                f"pretrain {config.network.name}", {"val/explained_variance": "explained variance"}
            )
            fit = trainer(
                config,
                folder.path,
                [
                    bar,
                    resume_point(folder.path),
                    ReconstructionFigure(data, tracking, run),
                ],
                logger=tracking.logger(run),
                **schedule(settings),
            )
            module = autoencoder(config, fitted, fit.world_size)
            cut = seed_after(config, fit, folder.path / RESUME_POINT)
            fit.fit(module, data, ckpt_path=cut, weights_only=True)
            (final,) = fit.validate(module, data, verbose=False)
            if not math.isfinite(final["val/loss"]):
                raise InputError(
                    "pretrain: training diverged, the loss is no number. Lower "
                    "pretrain.base_learning_rate, or set pretrain.gradient_clip=1.0. "
                    f"Remove {folder.path} to begin anew."
                )
            fit.save_checkpoint(checkpoint, weights_only=True)
            if is_first_process():
                record = {
                    "run": run,
                    "uri": tracking.uri,
                    "explained_variance": final["val/explained_variance"],
                    "least_squares": final["val/explained_variance_least_squares"],
                }
                say(f"pretrain: done, {_pair(record)}")
                tracking.tags(run, {"plateau": str(_warn_of_plateau(record, settings)).lower()})
                tracking.file(run, checkpoint, "checkpoint")
                (folder.path / RESUME_POINT).unlink(missing_ok=True)
                folder.finish(record)
            fit.strategy.barrier()
        return checkpoint


class ReconstructionFigure(L.Callback):
    """Logs original, masked and reconstructed ECG of one validation exam at every validation."""

    def __init__(self, data: MultiSiteDataModule, tracking: Tracking, run: str | None) -> None:
        self.data, self.tracking, self.run = data, tracking, run

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.run is None:
            return
        assert isinstance(pl_module, MaskedAutoencoder)
        preprocessing = self.data.preprocessing
        assert isinstance(preprocessing, ECGPreprocessing)
        exam = int(self.data.chosen("val")[0])
        ((rate, (_, samples, units, baseline)),) = self.data.dataset[exam]["recorded"].items()
        recorded = preprocessing.filter_and_resample(millivolts(samples, units, baseline), rate)
        ecg = preprocessing.normalise(recorded).to(pl_module.device)
        with trainer.precision_plugin.forward_context():
            visible, reconstruction = pl_module.reconstruct(ecg)
        restored = preprocessing.to_millivolts(reconstruction.float().cpu(), recorded)
        figure = reconstruction_figure(
            recorded[0].numpy(),
            visible[0].cpu().numpy(),
            restored[0].numpy(),
            preprocessing.sampling_rate_hz,
            title=f"step {trainer.global_step}",
        )
        self.tracking.figure(self.run, figure, f"reconstruction/step-{trainer.global_step:07d}.png")


def _pair(record: dict[str, float]) -> str:
    return (
        f"explained variance {record['explained_variance']:.3f}, "
        f"least squares from the visible leads {record['least_squares']:.3f}"
    )


def _warn_of_plateau(record: dict[str, float], settings: dict[str, float]) -> bool:
    """Whether the pretraining ended on its plateau; says so where nobody can miss it."""
    plateau = record["explained_variance"] < settings["plateau_explained_variance"]
    if plateau:
        say(
            f"{'!' * 79}\n"
            f"!! PRETRAINING ENDED ON ITS PLATEAU: it explains "
            f"{record['explained_variance']:.1%} of the masked samples' variance.\n"
            "!! It has learned next to nothing, and models started from it gain nothing.\n"
            "!! Train longer (pretrain.max_steps, pretrain.max_epochs), with smaller batches and\n"
            "!! so more steps, a higher pretrain.base_learning_rate, or pretrain.masking=random.\n"
            f"{'!' * 79}"
        )
    elif record["explained_variance"] < record["least_squares"]:
        say(
            "pretrain: it has not learned more than lead algebra yet (least squares explains "
            "more); longer pretraining may pay."
        )
    return plateau
