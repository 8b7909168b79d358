"""timm's Vision Transformer over patches of one lead each, as in Sawano et al. 2024 (Fig 2)."""

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

POOLING = {"mean": "avg", "class_token": "token"}


class LeadPatchEmbed(nn.Module):
    """ECG (B, leads, samples) -> (B, leads * samples / patch, width): a patch is one lead's.

    A reshape and a matrix product: what timm's strided convolution computes, several times
    faster on a CPU. The signature is the one that timm calls.
    """

    def __init__(
        self,
        img_size: tuple[int, int],
        patch_size: tuple[int, int],
        in_chans: int,
        embed_dim: int,
        bias: bool = True,
        **unused: object,
    ) -> None:
        super().__init__()
        (leads, samples), (_, patch_samples) = img_size, patch_size
        self.patch_samples = patch_samples
        self.img_size, self.patch_size = img_size, patch_size
        self.grid_size = (leads, samples // self.patch_samples)
        self.num_patches = leads * (samples // self.patch_samples)
        self.proj = nn.Linear(self.patch_samples * in_chans, embed_dim, bias=bias)

    def forward(self, ecg: Tensor) -> Tensor:
        if ecg.shape[1:] != self.img_size:
            raise ValueError(
                f"the network takes (leads, samples) {tuple(self.img_size)}, "
                f"not {tuple(ecg.shape[1:])}"
            )
        tokens: Tensor = self.proj(patchify(ecg, self.patch_samples))
        return tokens


def patchify(ecg: Tensor, patch_samples: int) -> Tensor:
    """(B, leads, samples) -> (B, leads * samples / patch, patch), lead by lead."""
    return ecg.reshape(ecg.shape[0], -1, patch_samples)


def unpatchify(patches: Tensor, leads: int) -> Tensor:
    """The inverse of `patchify`: (B, patches, patch) -> (B, leads, samples)."""
    return patches.reshape(patches.shape[0], leads, -1)


def position_embedding(leads: int, columns: int, width: int) -> Tensor:
    """Sine-cosine embedding of lead x time, (1, leads * columns, width): half the width for each.

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

    lead = axis(leads)[:, None].expand(-1, columns, -1)
    time = axis(columns)[None].expand(leads, -1, -1)
    return torch.cat([lead, time], dim=2).reshape(1, leads * columns, width)


class ViT(VisionTransformer):
    """A Vision Transformer for (B, leads, samples), with `outputs` numbers (0: features only).

    `pooling` is "mean" (over patches, as MAE fine-tunes) or "class_token".
    Raises ValueError where the sizes do not fit.
    """

    def __init__(
        self,
        *,
        leads: int,
        samples: int,
        patch_samples: int,
        width: int,
        depth: int,
        heads: int,
        outputs: int = 0,
        pooling: str = "class_token",
        drop_path: float = 0.0,
    ) -> None:
        if samples % patch_samples:
            raise ValueError(f"{samples} samples are not a whole number of {patch_samples}-patches")
        if width % heads:
            raise ValueError(f"a width of {width} does not divide into {heads} heads")
        if pooling not in POOLING:
            raise ValueError(f"pooling {pooling!r} is not one of {', '.join(POOLING)}")
        super().__init__(
            img_size=(leads, samples),
            patch_size=(1, patch_samples),
            in_chans=1,
            num_classes=outputs,
            global_pool=POOLING[pooling],  # type: ignore[arg-type]
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            no_embed_class=True,
            drop_path_rate=drop_path,
            weight_init="jax",
            embed_layer=LeadPatchEmbed,
        )
        self.pos_embed = nn.Parameter(position_embedding(leads, samples // patch_samples, width))
