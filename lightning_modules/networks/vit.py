"""timm's Vision Transformer over an ECG's tokens; patches of one lead as in Sawano et al. 2024."""

from collections.abc import Mapping
from typing import Any

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from lightning_modules.networks.tokens import Tokens, tokens_of

POOLING = {"mean": "avg", "class_token": "token"}


def position_embedding(rows: int, columns: int, width: int) -> Tensor:
    """Sine-cosine embedding of lead x time, (1, rows * columns, width): half the width for each.

    The two-dimensional form of He et al. 2022, where learned embeddings start: from small random
    ones, pretraining stays on its plateau for far longer. The longest wave is 2 pi * 100 patches,
    not 2 pi * 10,000 as in text: the axes are 12 leads and 10 to 20 instants short, and the
    plateau ends a quarter earlier.
    """
    if width % 4:
        raise ValueError(f"the width must be divisible by 4, not {width}")
    frequencies = 100.0 ** -(torch.arange(width // 4) / (width // 4))

    def axis(length: int) -> Tensor:
        angle = torch.arange(length)[:, None] * frequencies
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    lead = axis(rows)[:, None].expand(-1, columns, -1)
    time = axis(columns)[None].expand(rows, -1, -1)
    return torch.cat([lead, time], dim=2).reshape(1, rows * columns, width)


def attend(blocks: nn.Sequential, tokens: Tensor, present: Tensor) -> Tensor:
    """Class token and tokens (B, 1 + K, width) through timm's blocks; nobody attends to a token
    that is not `present` (B, K)."""
    if present.all():
        attended: Tensor = blocks(tokens)
        return attended
    mask = nn.functional.pad(present, (1, 0), value=True)[:, None, None]
    for block in blocks:
        assert isinstance(block, Block)
        tokens = block(tokens, attn_mask=mask)
    return tokens


class ViT(VisionTransformer):
    """A Vision Transformer for (B, leads, samples), with `outputs` numbers (0: features only).

    `tokens` name a class of `tokens` and its settings. `pooling` is "mean" (over patches, as MAE
    fine-tunes) or "class_token". Raises ValueError where the sizes do not fit.
    """

    patch_embed: Tokens

    def __init__(
        self,
        *,
        leads: int,
        samples: int,
        tokens: Mapping[str, Any],
        width: int,
        depth: int,
        heads: int,
        outputs: int = 0,
        pooling: str = "class_token",
        drop_path: float = 0.0,
    ) -> None:
        if width % heads:
            raise ValueError(f"a width of {width} does not divide into {heads} heads")
        if pooling not in POOLING:
            raise ValueError(f"pooling {pooling!r} is not one of {', '.join(POOLING)}")
        super().__init__(
            img_size=(leads, samples),
            in_chans=1,
            num_classes=outputs,
            global_pool=POOLING[pooling],  # type: ignore[arg-type]
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            no_embed_class=True,
            drop_path_rate=drop_path,
            weight_init="jax",
            embed_layer=lambda **_: tokens_of(tokens, leads=leads, samples=samples, width=width),
        )
        grid = self.patch_embed.rows, self.patch_embed.columns
        self.pos_embed = nn.Parameter(position_embedding(*grid, width))

    def encode(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Embedded tokens with their positions (B, K, width), and which are `present` (B, K) ->
        class token and tokens (B, 1 + K, width)."""
        assert self.cls_token is not None
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        latent: Tensor = self.norm(attend(self.blocks, tokens, present))
        return latent

    def forward_features(self, ecg: Tensor, **unused: object) -> Tensor:  # type: ignore[override]
        """(B, leads, samples) -> class token and tokens (B, 1 + N, width).

        An absent token has the mean of those present, so that the mean over all is theirs.
        """
        pieces = self.patch_embed.cut(ecg)
        latent = self.encode(self.patch_embed(pieces) + self.pos_embed, pieces.present)
        seen, present = latent[:, 1:], pieces.present[..., None]
        mean = (seen * present).sum(1, keepdim=True) / present.sum(1, keepdim=True).clamp_min(1)
        return torch.cat([latent[:, :1], torch.where(present, seen, mean)], dim=1)

    def forward_map(self, ecg: Tensor) -> Tensor:
        """Features over time before pooling (B, width, instants), where a token is an instant.

        ValueError where a token is one lead's.
        """
        if self.patch_embed.rows > 1:
            raise ValueError(
                "a Vision Transformer has features over time where its tokens are instants of all "
                "leads: tokens=stem"
            )
        return self.forward_features(ecg)[:, 1:].transpose(1, 2)
