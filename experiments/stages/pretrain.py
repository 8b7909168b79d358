"""Masked-autoencoder pretraining on the development institutions' ECGs, labelled or not."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from matplotlib.figure import Figure
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

EXAMPLE = "reconstruction.npz"


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


@dataclass(frozen=True)
class Pretrained:
    """A finished pretraining: on how many ECGs, what share of the masked samples' variance it
    explains beside what least squares does, and whether that is a plateau.
    """

    checkpoint: Path
    ecgs: int
    explained_variance: float
    least_squares: float
    plateau: bool

    @staticmethod
    def of(folder: StageFolder, settings: Mapping[str, Any]) -> "Pretrained":
        """Of a stage's finished folder."""
        record = folder.record
        assert record is not None
        return Pretrained(
            folder.path / "model.ckpt",
            record["ecgs"],
            record["explained_variance"],
            record["least_squares"],
            record["explained_variance"] < settings["plateau_explained_variance"],
        )

    def figure(self, title: str) -> Figure:
        """One validation exam: original, masked and reconstructed."""
        with np.load(self.checkpoint.with_name(EXAMPLE)) as example:
            return reconstruction_figure(**example, title=title)

    def plateau_text(self, held_out: str) -> str:
        """What a report says of a pretraining that ended on its plateau."""
        where = f" without {held_out}" if held_out else ""
        return (
            f"The pretraining{where} ended on its plateau: it explains "
            f"{100 * self.explained_variance:.1f} % of the masked samples' variance, so it learned "
            "next to nothing, and the models that start from it say nothing about pretraining."
        )


def pretrain(
    config: DictConfig,
    development: Sequence[Site],
    fitted: Fitted,
    tracking: Tracking,
    parent: str | None,
) -> Pretrained:
    """Pretrain, or reuse a finished pretraining of the same.

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
            pretrained = Pretrained.of(folder, settings)
            _warn(pretrained)
            return pretrained

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
            example = ReconstructionFigure(data, tracking, run, folder.path / EXAMPLE)
            fit = trainer(
                config,
                folder.path,
                [bar, resume_point(folder.path), example],
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
                    "ecgs": len(data.chosen("train")),
                    "explained_variance": final["val/explained_variance"],
                    "least_squares": final["val/explained_variance_least_squares"],
                }
                say(f"pretrain: done, {_pair(record)}")
                tracking.file(run, checkpoint, "checkpoint")
                (folder.path / RESUME_POINT).unlink(missing_ok=True)
                folder.finish(record)
            fit.strategy.barrier()
            pretrained = Pretrained.of(folder, settings)
            _warn(pretrained)
            tracking.tags(run, {"plateau": str(pretrained.plateau).lower()})
        return pretrained


class ReconstructionFigure(L.Callback):
    """Logs original, masked and reconstructed ECG of one validation exam at every validation, and
    keeps the newest in `file`.
    """

    def __init__(
        self, data: MultiSiteDataModule, tracking: Tracking, run: str | None, file: Path
    ) -> None:
        self.data, self.tracking, self.run, self.file = data, tracking, run, file

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
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
        example: dict[str, Any] = {
            "original": recorded[0].numpy(),
            "visible": visible[0].cpu().numpy(),
            "reconstruction": restored[0].numpy(),
            "sampling_rate_hz": np.float64(preprocessing.sampling_rate_hz),
        }
        np.savez(self.file, **example)
        figure = reconstruction_figure(**example, title=f"step {trainer.global_step}")
        self.tracking.figure(self.run, figure, f"reconstruction/step-{trainer.global_step:07d}.png")


def _pair(record: dict[str, float]) -> str:
    return (
        f"explained variance {record['explained_variance']:.3f}, "
        f"least squares from the visible leads {record['least_squares']:.3f}"
    )


def _warn(pretrained: Pretrained) -> None:
    """Of a plateau, where nobody can miss it, and of a network that knows only lead algebra."""
    if pretrained.plateau:
        say(
            f"{'!' * 79}\n"
            f"!! PRETRAINING ENDED ON ITS PLATEAU: it explains "
            f"{pretrained.explained_variance:.1%} of the masked samples' variance.\n"
            "!! It has learned next to nothing, and models started from it gain nothing.\n"
            "!! Train longer (pretrain.max_steps, pretrain.max_epochs), with smaller batches and\n"
            "!! so more steps, a higher pretrain.base_learning_rate, or pretrain.masking=random.\n"
            f"{'!' * 79}"
        )
    elif pretrained.explained_variance < pretrained.least_squares:
        say(
            "pretrain: it has not learned more than lead algebra yet (least squares explains "
            "more); longer pretraining may pay."
        )
