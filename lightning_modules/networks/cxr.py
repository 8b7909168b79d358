"""The networks that read a chest X-ray: timm's."""

from typing import Any

import timm
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from torch import Tensor, nn


class TimmNetwork(nn.Module):
    """timm's `model` for chest X-rays (B, channels, height, width), with dropout before its head.

    Raises ValueError where timm does not know the model.
    """

    def __init__(self, *, model: str, dropout: float, channels: int, outputs: int) -> None:
        super().__init__()
        if not timm.is_model(model):
            raise ValueError(f"timm has no network {model!r}: timm.list_models() names them")
        self.name = model
        self.settings: dict[str, Any] = {
            "in_chans": channels,
            "num_classes": outputs,
            "drop_rate": dropout,
        }
        self.model: Any = timm.create_model(model, **self.settings)

    def forward_features(self, images: Tensor) -> Tensor:
        """(B, channels, height, width) -> the model's features."""
        features: Tensor = self.model.forward_features(images)
        return features

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """The model's features -> (B, outputs), or the embedding (B, D) with `pre_logits`."""
        outputs: Tensor = self.model.forward_head(features, pre_logits=pre_logits)
        return outputs

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))

    def no_weight_decay(self) -> set[str]:
        """Parameters that timm decays in none of its recipes: positions, tokens."""
        unlisted: set[str] = getattr(self.model, "no_weight_decay", set)()
        return {f"model.{name}" for name in unlisted}

    def load_published_weights(self) -> None:
        """Start from timm's ImageNet weights, the three channels of the stem summed to one.

        Raises ValueError where timm has none, and RuntimeError where they are neither in the
        Hugging Face cache nor can be downloaded.
        """
        source, file = timm.get_pretrained_cfg(self.name), "model.safetensors"
        if source is None or source.hf_hub_id is None:
            raise ValueError(
                f"timm has no pretrained weights of {self.name}: train with pretrained=false"
            )
        try:
            # One attempt: without a network, timm's own go on for a minute and longer.
            if not isinstance(try_to_load_from_cache(source.hf_hub_id, file), str):
                get_hf_file_metadata(hf_hub_url(source.hf_hub_id, file))
            self.model = timm.create_model(self.name, pretrained=True, **self.settings)
        except Exception as error:
            raise RuntimeError(
                f"the pretrained weights of {self.name} can't be had ({error!r}): train with "
                "pretrained=false, or download them first where there is a network, with "
                f"timm.create_model({self.name!r}, pretrained=True), into the folder HF_HOME names "
                "here too"
            ) from None
