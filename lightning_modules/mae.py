"""Masked-autoencoder pretraining, and the pair of numbers that tells what it has learned."""

from collections.abc import Sequence
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from timm.optim import param_groups_weight_decay
from torch import Tensor

from lightning_modules.networks.lead_algebra import least_squares_reconstruction
from lightning_modules.networks.masked_autoencoder import MaskedAutoencoderNetwork, patch_statistics
from lightning_modules.networks.masking import STRATEGIES, mask_of, sample_visible
from lightning_modules.networks.vit import patchify, unpatchify
from lightning_modules.optimisation import adamw_warmup_cosine


class MaskedAutoencoder(L.LightningModule):
    """Pretrains a Vision Transformer on ECGs (batch["ecg"]: (B, leads, samples), normalised).

    Logs `val/explained_variance`, the share of the masked samples' variance that the
    reconstruction explains, beside `val/explained_variance_least_squares`, what the best linear
    combination of the leads that stay visible at the same instant explains: a model above it has
    learned more than lead algebra.

    `lead_covariance` (leads, leads) is that of the normalised training ECGs. `preprocessing` is
    carried in the checkpoint for whoever loads it. Raises ValueError for settings that do not fit.
    """

    lead_covariance: Tensor

    def __init__(
        self,
        *,
        leads: int,
        samples: int,
        patch_samples: int,
        encoder: dict[str, int],
        decoder: dict[str, int],
        mask_ratio: float,
        masking: str,
        normalise_targets: bool,
        base_learning_rate: float,
        effective_batch: int,
        betas: Sequence[float],
        weight_decay: float,
        warmup_fraction: float,
        seed: int,
        lead_covariance: Sequence[Sequence[float]],
        preprocessing: dict[str, Any],
    ) -> None:
        super().__init__()
        if masking not in STRATEGIES:
            raise ValueError(f"masking {masking!r} is not one of {', '.join(STRATEGIES)}")
        self.save_hyperparameters()
        self.network = MaskedAutoencoderNetwork(
            leads=leads,
            samples=samples,
            patch_samples=patch_samples,
            encoder=encoder,
            decoder=decoder,
            normalise_targets=normalise_targets,
        )
        self.register_buffer("lead_covariance", torch.tensor(lead_covariance), persistent=False)

    def visible_patches(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        """Indices (batch, visible) of patches, drawn with the configured strategy."""
        return sample_visible(
            batch,
            self.network.leads,
            self.network.columns,
            self.hparams["mask_ratio"],
            self.hparams["masking"],
            device=self.device,
            generator=generator,
        )

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        ecg = batch["ecg"]
        visible = self.visible_patches(len(ecg))
        loss = self.network.loss(ecg, visible, self.network(ecg, visible))
        self.log("train/loss", loss)
        return loss

    def on_validation_epoch_start(self) -> None:
        # The same masks every time, so that two validations differ by the network alone.
        self._generator = torch.Generator(self.device).manual_seed(self.hparams["seed"])
        self._sums = torch.zeros(5, device=self.device)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        ecg = batch["ecg"]
        visible = self.visible_patches(len(ecg), self._generator)
        predicted = self.network(ecg, visible)
        hidden = mask_of(visible, self.network.patches)
        masked = unpatchify(
            hidden[..., None].expand(-1, -1, self.network.patch_samples), self.network.leads
        )

        def squared_error(reconstruction: Tensor) -> Tensor:
            return (masked * (reconstruction - ecg)).square().sum()

        self._sums += torch.stack(
            [
                torch.tensor(float(len(ecg)), device=self.device),
                len(ecg) * self.network.loss(ecg, visible, predicted),
                squared_error(self.network.reconstruct(ecg, visible, predicted)),
                squared_error(self._least_squares(ecg, hidden)),
                (masked * ecg).square().sum(),
            ]
        )

    def _least_squares(self, ecg: Tensor, hidden: Tensor) -> Tensor:
        reconstruction = least_squares_reconstruction(
            ecg, hidden, self.lead_covariance, self.network.columns
        )
        if not self.hparams["normalise_targets"]:
            return reconstruction
        # The network is told each patch's mean and deviation then; so is its yardstick.
        patches = patchify(reconstruction, self.network.patch_samples)
        (mean, deviation), (own_mean, own_deviation) = (
            patch_statistics(patchify(ecg, self.network.patch_samples)),
            patch_statistics(patches),
        )
        return unpatchify(
            (patches - own_mean) / own_deviation * deviation + mean, self.network.leads
        )

    def on_validation_epoch_end(self) -> None:
        gathered = cast(Tensor, self.all_gather(self._sums))
        exams, loss, error, least_squares, variance = gathered.view(-1, 5).sum(0)
        self.log_dict(
            {
                "val/loss": loss / exams,
                "val/explained_variance": 1 - error / variance,
                "val/explained_variance_least_squares": 1 - least_squares / variance,
            },
            rank_zero_only=True,
        )

    @torch.no_grad()
    def reconstruct(self, ecg: Tensor) -> tuple[Tensor, Tensor]:
        """(B, leads, samples) -> what was visible (bool), and the reconstruction; same shape."""
        generator = torch.Generator(self.device).manual_seed(self.hparams["seed"])
        visible = self.visible_patches(len(ecg), generator)
        hidden = mask_of(visible, self.network.patches)[..., None]
        seen = ~hidden.expand(-1, -1, self.network.patch_samples)
        reconstruction = self.network.reconstruct(ecg, visible, self.network(ecg, visible))
        return unpatchify(seen, self.network.leads), reconstruction

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return adamw_warmup_cosine(
            self,
            param_groups_weight_decay(
                self.network,
                self.hparams["weight_decay"],
                no_weight_decay_list=[
                    name
                    for name, _ in self.network.named_parameters()
                    if name.endswith(("pos_embed", "cls_token", "mask_token", "decoder_position"))
                ],
            ),
            base_learning_rate=self.hparams["base_learning_rate"],
            effective_batch=self.hparams["effective_batch"],
            betas=self.hparams["betas"],
            warmup_fraction=self.hparams["warmup_fraction"],
        )
