"""Masked autoencoder for ECGs (He et al. 2022; Sawano et al. 2024, Fig 2)."""

from collections.abc import Mapping
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from lightning_modules.networks.masking import mask_of
from lightning_modules.networks.tokens import Pieces, Tokens
from lightning_modules.networks.vit import ViT, attend, position_embedding


class MaskedAutoencoderNetwork(nn.Module):
    """The encoder sees visible tokens only; a light decoder predicts the samples of every token.

    `tokens` are a Vision Transformer's, `encoder` holds its width, depth and heads, `decoder` those
    of the decoder. With `normalise_targets` the prediction of a token is in units of its own mean
    and standard deviation; `in_units` puts them back.
    """

    def __init__(
        self,
        *,
        leads: int,
        samples: int,
        tokens: Mapping[str, Any],
        encoder: dict[str, Any],
        decoder: dict[str, int],
        normalise_targets: bool,
    ) -> None:
        super().__init__()
        self.normalise_targets = normalise_targets
        self.encoder = ViT(leads=leads, samples=samples, tokens=tokens, **encoder)
        grid = self.tokens.rows, self.tokens.columns
        width = decoder["width"]
        self.decoder_embed = nn.Linear(encoder["width"], width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.decoder_position = nn.Parameter(position_embedding(*grid, width))
        self.decoder_blocks = nn.Sequential(
            *(Block(width, decoder["heads"], qkv_bias=True) for _ in range(decoder["depth"]))
        )
        self.decoder_norm = nn.LayerNorm(width)
        self.decoder_head = nn.Linear(width, self.tokens.values)

        nn.init.normal_(self.mask_token, std=0.02)
        for module in (self.decoder_embed, *self.decoder_blocks.modules(), self.decoder_head):
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    @property
    def tokens(self) -> Tokens:
        return self.encoder.patch_embed

    def encode(self, pieces: Pieces, visible: Tensor) -> Tensor:
        """Pieces, visible (B, V) -> class token and visible tokens (B, 1 + V, width)."""
        hidden = mask_of(visible, self.tokens.num_patches)
        # A token that knows its neighbours (a convolution's) must not know hidden ones.
        shown = pieces._replace(values=pieces.values.masked_fill(hidden[..., None], 0))
        tokens = self.tokens(shown) + self.encoder.pos_embed
        tokens = tokens.gather(1, visible[..., None].expand(-1, -1, tokens.shape[2]))
        return self.encoder.encode(tokens, pieces.present.gather(1, visible))

    def decode(self, latent: Tensor, pieces: Pieces, visible: Tensor) -> Tensor:
        """Latents (B, 1 + V, width) -> predicted samples of all tokens (B, N, values)."""
        latent = self.decoder_embed(latent)
        class_token, seen = latent[:, :1], latent[:, 1:]
        tokens = self.mask_token.to(seen.dtype).expand(len(seen), self.tokens.num_patches, -1)
        tokens = tokens.scatter(1, visible[..., None].expand_as(seen), seen)
        tokens = torch.cat([class_token, tokens + self.decoder_position], dim=1)
        tokens = attend(self.decoder_blocks, tokens, pieces.present)
        predicted: Tensor = self.decoder_head(self.decoder_norm(tokens))
        return predicted[:, 1:]

    def forward(self, pieces: Pieces, visible: Tensor) -> Tensor:
        """Predicted samples of all tokens (B, N, values), in the units of the targets."""
        return self.decode(self.encode(pieces, visible), pieces, visible)

    def loss(self, pieces: Pieces, visible: Tensor, predicted: Tensor) -> Tensor:
        """Mean squared error over the samples of masked tokens that are present, and of no
        others."""
        targets = pieces.values
        if self.normalise_targets:
            mean, deviation = patch_statistics(targets)
            targets = (targets - mean) / deviation
        error = (predicted.float() - targets).square().mean(2)  # (B, N)
        mask = to_predict(pieces, visible)
        return (error * mask).sum() / mask.sum().clamp_min(1)

    def in_units(self, pieces: Pieces, predicted: Tensor) -> Tensor:
        """The prediction (B, N, values) in the ECG's own units."""
        predicted = predicted.float()
        if self.normalise_targets:
            mean, deviation = patch_statistics(pieces.values)
            predicted = predicted * deviation + mean
        return predicted


def to_predict(pieces: Pieces, visible: Tensor) -> Tensor:
    """Bool (B, N): tokens that are hidden and present."""
    return mask_of(visible, pieces.present.shape[1]) & pieces.present


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each patch (B, N, 1), as He et al. 2022 normalise targets."""
    return patches.mean(2, keepdim=True), (patches.var(2, keepdim=True) + 1e-6).sqrt()
