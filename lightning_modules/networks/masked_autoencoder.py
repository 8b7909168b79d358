"""Masked autoencoder for 12-lead ECGs (He et al. 2022; Sawano et al. 2024, Fig 2)."""

from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from lightning_modules.networks.masking import mask_of
from lightning_modules.networks.vit import (
    ViT,
    patchify,
    position_embedding,
    unpatchify,
)


class MaskedAutoencoderNetwork(nn.Module):
    """The encoder sees visible patches only; a light decoder predicts every patch.

    `encoder` holds width, depth and heads of a Vision Transformer, `decoder` those of the decoder.
    With `normalise_targets` the prediction of a patch is in units of that patch's own mean and
    standard deviation; `reconstruct` puts them back.
    """

    def __init__(
        self,
        *,
        leads: int,
        samples: int,
        patch_samples: int,
        encoder: dict[str, Any],
        decoder: dict[str, int],
        normalise_targets: bool,
    ) -> None:
        super().__init__()
        self.leads, self.patch_samples = leads, patch_samples
        self.columns = samples // patch_samples
        self.patches = leads * self.columns
        self.normalise_targets = normalise_targets
        self.encoder = ViT(leads=leads, samples=samples, patch_samples=patch_samples, **encoder)
        width = decoder["width"]
        self.decoder_embed = nn.Linear(encoder["width"], width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.decoder_position = nn.Parameter(position_embedding(leads, self.columns, width))
        self.decoder_blocks = nn.Sequential(
            *(Block(width, decoder["heads"], qkv_bias=True) for _ in range(decoder["depth"]))
        )
        self.decoder_norm = nn.LayerNorm(width)
        self.decoder_head = nn.Linear(width, patch_samples)

        nn.init.normal_(self.mask_token, std=0.02)
        for module in (self.decoder_embed, *self.decoder_blocks.modules(), self.decoder_head):
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def encode(self, ecg: Tensor, visible: Tensor) -> Tensor:
        """ECG (B, leads, samples), visible (B, V) -> class token and patches (B, 1 + V, width)."""
        vit = self.encoder
        tokens = vit.patch_embed(ecg) + vit.pos_embed  # (B, N, width)
        tokens = tokens.gather(1, visible[..., None].expand(-1, -1, tokens.shape[2]))
        assert vit.cls_token is not None
        tokens = torch.cat([vit.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        latent: Tensor = vit.norm(vit.blocks(tokens))
        return latent

    def decode(self, latent: Tensor, visible: Tensor) -> Tensor:
        """Latents (B, 1 + V, width) -> predicted patches (B, N, patch)."""
        latent = self.decoder_embed(latent)
        class_token, seen = latent[:, :1], latent[:, 1:]
        tokens = self.mask_token.to(seen.dtype).expand(len(seen), self.patches, -1)
        tokens = tokens.scatter(1, visible[..., None].expand_as(seen), seen)
        tokens = torch.cat([class_token, tokens + self.decoder_position], dim=1)
        patches: Tensor = self.decoder_head(self.decoder_norm(self.decoder_blocks(tokens)))
        return patches[:, 1:]

    def forward(self, ecg: Tensor, visible: Tensor) -> Tensor:
        """Predicted patches (B, N, patch), in the units of the targets."""
        return self.decode(self.encode(ecg, visible), visible)

    def loss(self, ecg: Tensor, visible: Tensor, predicted: Tensor) -> Tensor:
        """Mean squared error over the samples of masked patches, and of no others."""
        targets = patchify(ecg, self.patch_samples)
        if self.normalise_targets:
            mean, deviation = patch_statistics(targets)
            targets = (targets - mean) / deviation
        error = (predicted.float() - targets).square().mean(2)  # (B, N)
        mask = mask_of(visible, self.patches)
        return (error * mask).sum() / mask.sum()

    def reconstruct(self, ecg: Tensor, visible: Tensor, predicted: Tensor) -> Tensor:
        """Prediction in the ECG's own units (B, leads, samples), visible patches as recorded."""
        targets = patchify(ecg, self.patch_samples)
        predicted = predicted.float()
        if self.normalise_targets:
            mean, deviation = patch_statistics(targets)
            predicted = predicted * deviation + mean
        mask = mask_of(visible, self.patches)[..., None]
        return unpatchify(torch.where(mask, predicted, targets), self.leads)


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each patch (B, N, 1), as He et al. 2022 normalise targets."""
    return patches.mean(2, keepdim=True), (patches.var(2, keepdim=True) + 1e-6).sqrt()
