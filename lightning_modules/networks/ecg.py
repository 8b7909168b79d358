"""The networks that read an ECG, by the name of their architecture."""

from collections.abc import Mapping
from typing import Any

from timm.models.vision_transformer import VisionTransformer

from lightning_modules.networks.resnet1d import ResNet1d
from lightning_modules.networks.vit import vision_transformer


def ecg_network(
    architecture: str, *, leads: int, samples: int, patch_samples: int, settings: Mapping[str, Any]
) -> VisionTransformer | ResNet1d:
    """A network from ECG (B, leads, samples) to one logit (B, 1): "vit" or "resnet1d"."""
    if architecture == "vit":
        return vision_transformer(
            leads=leads, samples=samples, patch_samples=patch_samples, outputs=1, **settings
        )
    if architecture == "resnet1d":
        return ResNet1d(leads=leads, outputs=1, **settings)
    raise ValueError(f"architecture {architecture!r} is not one of vit, resnet1d")
