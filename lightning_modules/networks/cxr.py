"""The networks that read a chest X-ray, by the name of their architecture."""

from collections.abc import Mapping
from typing import Any

import timm
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from torch import nn


def cxr_network(architecture: str, *, settings: Mapping[str, Any], pretrained: bool) -> nn.Module:
    """A network from chest X-ray (B, 1, height, width) to one logit (B, 1): "timm".

    With `pretrained` its weights are those that timm has from ImageNet, the three channels of the
    stem summed to one.
    """
    if architecture == "timm":
        return timm_network(pretrained=pretrained, **settings)
    raise ValueError(f"architecture {architecture!r} is not timm")


def timm_network(*, model: str, dropout: float, pretrained: bool) -> nn.Module:
    """timm's `model` with one channel, one output, and dropout before its head.

    Raises ValueError where timm does not know the model or has no pretrained weights of it, and
    RuntimeError where they are neither in the Hugging Face cache nor can be downloaded.
    """
    if not timm.is_model(model):
        raise ValueError(f"timm has no network {model!r}: timm.list_models() names them")
    settings: dict[str, Any] = {"in_chans": 1, "num_classes": 1, "drop_rate": dropout}
    if not pretrained:
        return timm.create_model(model, **settings)
    source, file = timm.get_pretrained_cfg(model), "model.safetensors"
    if source is None or source.hf_hub_id is None:
        raise ValueError(f"timm has no pretrained weights of {model}: train with pretrained=false")
    try:
        # One attempt: without a network, timm's own go on for a minute and longer.
        if not isinstance(try_to_load_from_cache(source.hf_hub_id, file), str):
            get_hf_file_metadata(hf_hub_url(source.hf_hub_id, file))
        return timm.create_model(model, pretrained=True, **settings)
    except Exception as error:
        raise RuntimeError(
            f"the pretrained weights of {model} can't be had ({error!r}): train with "
            "pretrained=false, or download them first where there is a network, with "
            f"timm.create_model({model!r}, pretrained=True), into the folder HF_HOME names here too"
        ) from None
