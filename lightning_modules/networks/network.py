"""From a network's class, its settings and the shape of its input to the network."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lightning_modules.target import resolve

# Of the parameters of a network's last layers, as far as they are called so.
HEAD = ("head.", "fc_norm.")


def build_network(network: Mapping[str, Any], shape: Mapping[str, int], outputs: int) -> nn.Module:
    """`network` names its class (`_target_`) and holds its `settings`.

    The class is called with the settings, `outputs`, and whichever of the input's `shape` it takes
    ("leads" and "samples" of an ECG, "channels" and "size" of a film, "features" of a table). It
    takes tensors (B, ...) of that shape to (B, outputs). ValueError where it can't be built.
    """
    target = network["_target_"]
    kind = resolve(target)
    parameters = inspect.signature(kind).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    wanted = [
        name
        for name, p in parameters.items()
        if p.default is p.empty and p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    lacking = [n for n in wanted if n not in {*shape, *network["settings"], "outputs"}]
    if lacking:
        raise ValueError(
            f"{target} needs {' and '.join(lacking)}, which is neither among its settings nor what "
            f"the input tells of its shape ({', '.join(shape)}): is it a network for this input?"
        )
    given = {name: size for name, size in shape.items() if takes_all or name in parameters}
    try:
        made = kind(**given, outputs=outputs, **network["settings"])
    except TypeError as error:
        raise ValueError(
            f"{target} can't be built ({error}); it is called with outputs, its settings "
            f"({', '.join(network['settings']) or 'none'}) and what it takes of {', '.join(shape)}"
        ) from None
    if not isinstance(made, nn.Module):
        raise ValueError(f"{target} makes a {type(made).__name__}, not a torch.nn.Module")
    return made


def features(network: nn.Module, inputs: Tensor) -> Tensor:
    """What the network's head sees, where it has `forward_features`; else its outputs."""
    forward = getattr(network, "forward_features", network)
    computed: Tensor = forward(inputs)
    return computed


def head(network: nn.Module, seen: Tensor) -> Tensor:
    """From `features` to outputs (B, outputs)."""
    if not hasattr(network, "forward_features"):
        return seen
    outputs: Tensor = network.forward_head(seen)  # type: ignore[operator]
    return outputs


def embedding(network: nn.Module, inputs: Tensor) -> Tensor:
    """What the network's last linear layer sees, (B, D).

    As timm gives it: `forward_head(forward_features(inputs), pre_logits=True)`. ValueError where
    the network lacks one of the two, its head takes no `pre_logits`, or another shape comes out.
    """
    forward_head = getattr(network, "forward_head", None)
    if (
        forward_head is None
        or not hasattr(network, "forward_features")
        or "pre_logits" not in inspect.signature(forward_head).parameters
    ):
        raise ValueError(
            f"{type(network).__name__} has no embedding: it needs forward_features(inputs) and "
            "forward_head(features, pre_logits=False), which gives with pre_logits=True what its "
            "last linear layer sees"
        )
    embedded: Tensor = forward_head(features(network, inputs), pre_logits=True)
    if embedded.ndim != 2:
        raise ValueError(
            f"{type(network).__name__} embeds as {tuple(embedded.shape)}, not as rows of numbers"
        )
    return embedded


def last_layer(network: nn.Module, features: int, outputs: int) -> nn.Linear:
    """The linear layer that takes the embedding (B, features) to outputs (B, outputs).

    ValueError where there is none.
    """
    layers = [
        layer
        for layer in network.modules()
        if isinstance(layer, nn.Linear)
        and (layer.in_features, layer.out_features) == (features, outputs)
        and layer.bias is not None
    ]
    if not layers:
        raise ValueError(
            f"{type(network).__name__} has no last nn.Linear({features}, {outputs}) that a linear "
            "model could start: set finetune.head_penalties=null"
        )
    return layers[-1]


def load_published_weights(network: nn.Module) -> None:
    """Start from the weights that the network's makers published, where its class knows them.

    ValueError where it knows none, RuntimeError where they can't be had.
    """
    load = getattr(network, "load_published_weights", None)
    if load is None:
        raise ValueError(f"pretrained=true: {type(network).__name__} has no published weights")
    load()
