"""Masked-autoencoder pretraining, and the pair of numbers that tells what it has learned."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from timm.optim._param_groups import param_groups_weight_decay
from torch import Tensor, nn

from lightning_modules.networks.lead_algebra import least_squares_reconstruction
from lightning_modules.networks.masked_autoencoder import (
    MaskedAutoencoderNetwork,
    patch_statistics,
    to_predict,
)
from lightning_modules.networks.masking import STRATEGIES, sample_visible
from lightning_modules.networks.tokens import Pieces
from lightning_modules.networks.vit import ViT
from lightning_modules.optimisation import adamw_warmup_cosine
from lightning_modules.pretraining.pretraining import Arrays, Pretraining, Sheet, Verdict
from lightning_modules.target import resolve

EXPLAINED = "val/explained_variance"
LEAST_SQUARES = "val/explained_variance_least_squares"
# What of a Vision Transformer's settings, beside its tokens, makes its encoder.
SIZES = ("width", "depth", "heads")


class MaskedAutoencoder(Pretraining):
    """Pretrains a Vision Transformer on ECGs (batch[reads]: (B, leads, samples), normalised).

    Logs `val/explained_variance`, the share of the masked samples' variance that the
    reconstruction explains, beside `val/explained_variance_least_squares`, what the best linear
    combination of the leads that stay visible at the same instant explains: a model above it has
    learned more than lead algebra.

    `lead_covariance` (leads, leads) is that of the normalised training ECGs. Raises ValueError for
    settings that do not fit.
    """

    word: ClassVar[str] = "mae"
    name: ClassVar[str] = "a masked autoencoder"
    judging: ClassVar[tuple[str, ...]] = ("plateau_explained_variance",)
    shown: ClassVar[Mapping[str, str]] = {EXPLAINED: "explained variance"}
    numbers: ClassVar[Mapping[str, tuple[str, str]]] = {
        EXPLAINED: ("explained_variance", "explained by the autoencoder"),
        LEAST_SQUARES: ("least_squares", "explained by least squares"),
    }
    example_caption: ClassVar[str] = (
        "A validation exam: original, what the encoder saw of it, and its reconstruction."
    )

    lead_covariance: Tensor

    def __init__(
        self,
        *,
        reads: str,
        leads: int,
        samples: int,
        tokens: Mapping[str, Any],
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
    ) -> None:
        super().__init__()
        if masking not in STRATEGIES:
            raise ValueError(f"masking {masking!r} is not one of {', '.join(STRATEGIES)}")
        self.save_hyperparameters()
        self.reads = reads
        self.network = MaskedAutoencoderNetwork(
            leads=leads,
            samples=samples,
            tokens=tokens,
            encoder=encoder,
            decoder=decoder,
            normalise_targets=normalise_targets,
        )
        self.register_buffer("lead_covariance", torch.tensor(lead_covariance), persistent=False)

    @classmethod
    def of_network(cls, network: Mapping[str, Any]) -> dict[str, Any]:
        taken = super().of_network(network)
        settings = taken["settings"]
        return {
            **taken,
            "settings": {k: settings[k] for k in (*SIZES, "tokens") if k in settings},
        }

    @classmethod
    def build(
        cls,
        settings: Mapping[str, Any],
        *,
        reads: str,
        network: Mapping[str, Any],
        statistics: Mapping[str, Any],
        effective_batch: int,
        seed: int,
    ) -> Self:
        kind, sizes, shape = resolve(network["_target_"]), network["settings"], network["shape"]
        if not (isinstance(kind, type) and issubclass(kind, ViT)):
            raise ValueError(
                f"{network['_target_']} can't be pretrained as {cls.name}: it is no ViT. Choose a "
                "network=vit_*, another pretrain=, or pretrained=false"
            )
        made = cls(
            reads=reads,
            leads=shape["leads"],
            samples=shape["samples"],
            tokens=sizes["tokens"],
            encoder={name: sizes[name] for name in SIZES},
            decoder=settings["decoder"],
            mask_ratio=settings["mask_ratio"],
            masking=settings["masking"],
            normalise_targets=settings["normalise_targets"],
            base_learning_rate=settings["base_learning_rate"],
            effective_batch=effective_batch,
            betas=settings["betas"],
            weight_decay=settings["weight_decay"],
            warmup_fraction=settings["warmup_fraction"],
            seed=seed,
            lead_covariance=statistics["lead_covariance"],
        )
        made.visible_patches(1)  # a ratio that leaves nothing visible or masked is refused now
        return made

    @classmethod
    def encoder(cls, weights: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
        prefix, own = "network.encoder.", network.state_dict().keys()
        encoder = {
            name.removeprefix(prefix): weight
            for name, weight in weights.items()
            if name.startswith(prefix)
        }
        # Mean pooling replaces the encoder's last norm by one of its own, after pooling.
        return {k: w for k, w in encoder.items() if k in own or not k.startswith("norm.")}

    def visible_patches(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        """Indices (batch, visible) of tokens, drawn with the configured strategy."""
        return sample_visible(
            batch,
            self.network.tokens.rows,
            self.network.tokens.columns,
            self.hparams["mask_ratio"],
            self.hparams["masking"],
            device=self.device,
            generator=generator,
        )

    def embed(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The mean over the tokens' embeddings of a whole exam, nothing masked."""
        return self.network.encoder.forward_features(batch[self.reads])[:, 1:].mean(1)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        pieces = self.network.tokens.cut(batch[self.reads])
        visible = self.visible_patches(len(pieces.values))
        loss = self.network.loss(pieces, visible, self.network(pieces, visible))
        self.log("train/loss", loss)
        return loss

    def on_validation_epoch_start(self) -> None:
        # The same masks every time, so that two validations differ by the network alone.
        self._generator = torch.Generator(self.device).manual_seed(self.hparams["seed"])
        self._sums = torch.zeros(5, device=self.device)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        pieces = self.network.tokens.cut(batch[self.reads])
        exams = len(pieces.values)
        visible = self.visible_patches(exams, self._generator)
        predicted = self.network(pieces, visible)
        hidden = to_predict(pieces, visible)[..., None]

        def squared_error(reconstruction: Tensor) -> Tensor:
            return (hidden * (reconstruction - pieces.values)).square().sum()

        self._sums += torch.stack(
            [
                torch.tensor(float(exams), device=self.device),
                exams * self.network.loss(pieces, visible, predicted),
                squared_error(self.network.in_units(pieces, predicted)),
                squared_error(self._least_squares(pieces, visible)),
                (hidden * pieces.values).square().sum(),
            ]
        )

    def _least_squares(self, pieces: Pieces, visible: Tensor) -> Tensor:
        tokens = self.network.tokens
        seen = torch.zeros_like(pieces.present).scatter(1, visible, True) & pieces.present
        reconstruction = tokens.of_leads(
            least_squares_reconstruction(
                tokens.by_lead(pieces.values),
                tokens.by_lead(seen[..., None])[..., 0],
                self.lead_covariance,
            )
        )
        if not self.hparams["normalise_targets"]:
            return reconstruction
        # The network is told each token's mean and deviation then; so is its yardstick.
        mean, deviation = patch_statistics(reconstruction)
        return self.network.in_units(pieces, (reconstruction - mean) / deviation)

    def on_validation_epoch_end(self) -> None:
        gathered = cast(Tensor, self.all_gather(self._sums))
        exams, loss, error, least_squares, variance = gathered.view(-1, 5).sum(0)
        self.log_dict(
            {
                "val/loss": loss / exams,
                EXPLAINED: 1 - error / variance,
                LEAST_SQUARES: 1 - least_squares / variance,
            },
            rank_zero_only=True,
        )

    @torch.no_grad()
    def reconstruct(self, ecg: Tensor) -> tuple[Tensor, Tensor]:
        """(B, leads, samples) -> what was visible (bool), and the reconstruction; same shape.

        Where tokens lie on one another, what was visible stays, and reconstructions are averaged.
        NaN where no token was cut.
        """
        generator = torch.Generator(self.device).manual_seed(self.hparams["seed"])
        tokens = self.network.tokens
        pieces = tokens.cut(ecg)
        visible = self.visible_patches(len(ecg), generator)
        predicted = self.network.in_units(pieces, self.network(pieces, visible))
        hidden = to_predict(pieces, visible)
        seen = ~tokens.laid(pieces.values, pieces.present & ~hidden, pieces.starts).isnan()
        rebuilt = tokens.laid(predicted, hidden, pieces.starts)
        return seen, torch.where(seen, ecg.float(), rebuilt)

    def example(self, exam: Tensor, restore: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        visible, reconstruction = self.reconstruct(exam)
        return {
            "original": restore(exam)[0],
            "visible": visible[0],
            "reconstruction": restore(reconstruction)[0],
        }

    @classmethod
    def sheets(cls, example: Arrays) -> list[Sheet]:
        """The original, what the encoder saw of it, and the reconstruction of the rest, over the
        hidden original in grey; what no token was cut from stays grey."""
        original, visible = example["original"], example["visible"].astype(bool)
        seen, hidden = np.where(visible, original, np.nan), np.where(visible, np.nan, original)
        rebuilt = np.where(visible, np.nan, example["reconstruction"])
        between = bool(np.isnan(example["reconstruction"]).any())
        return [
            Sheet("Original", {"original": original}),
            Sheet(
                f"Masked: what the encoder saw ({visible.mean():.0%}; grey is hidden"
                + (", or in no token)" if between else ")"),
                {"visible": seen},
                hidden=~visible,
            ),
            Sheet(
                "Reconstructed: visible parts black, reconstruction blue, hidden original behind "
                "it grey",
                {"hidden": hidden, "visible": seen, "reconstruction": rebuilt},
            ),
        ]

    @classmethod
    def told(cls, metrics: Mapping[str, float]) -> str:
        return (
            f"explained variance {metrics[EXPLAINED]:.3f}, "
            f"least squares from the visible leads {metrics[LEAST_SQUARES]:.3f}"
        )

    @classmethod
    def verdict(cls, metrics: Mapping[str, float], settings: Mapping[str, Any]) -> Verdict:
        """Failed where it explains less than `plateau_explained_variance`: on its plateau."""
        explained, least_squares = metrics[EXPLAINED], metrics[LEAST_SQUARES]
        if explained < settings["plateau_explained_variance"]:
            return Verdict(
                failed=(
                    f"ended on its plateau: it explains {100 * explained:.1f} % of the masked "
                    "samples' variance"
                ),
                advice=(
                    "Train longer (pretrain.max_steps, pretrain.max_epochs), with smaller batches "
                    "and so more",
                    "steps, a higher pretrain.base_learning_rate, or pretrain.masking=random.",
                ),
            )
        remark = (
            "it has not learned more than lead algebra yet (least squares explains more); longer "
            "pretraining may pay."
        )
        return Verdict(remark=remark if explained < least_squares else "")

    @classmethod
    def summary(cls, pretrainings: Sequence[Mapping[str, float]]) -> str:
        more = sum(of[EXPLAINED] > of[LEAST_SQUARES] for of in pretrainings)
        learned = f"{more} of {len(pretrainings)} autoencoders learned more than that"
        if len(pretrainings) == 1:
            learned = f"the autoencoder has {'' if more else 'not '}learned more than that"
        return (
            "Explained is the share of the masked samples' variance in validation patients. Least "
            "squares reconstructs a masked sample from the leads that stay visible at the same "
            f"instant, and so knows nothing but lead algebra: {learned}."
        )

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
