"""Batch statistics of a trained network, taken anew from the exams that it was trained on."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """The layers that keep a running mean and variance."""
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    return [layer for layer in layers if layer.running_mean is not None]


@torch.no_grad()
def reestimate(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set every batch norm's running mean and variance to those over all `batches` (B, ...).

    A running average is of weights that have moved on since, and far off after few steps. As the
    network trains, each batch is normalised by itself on the way to the next layer; everything
    else is as in evaluation, so nothing is random. The variance is the unbiased one, as torch
    keeps it. The network is left in evaluation mode. (Precise batch statistics: Wu and Johnson,
    arXiv:2105.07576.)
    """
    network.eval()
    layers = batch_norms(network)
    sums = {layer: torch.zeros(3, layer.num_features, dtype=torch.float64) for layer in layers}

    def add(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        (x,) = inputs
        over = [dim for dim in range(x.ndim) if dim != 1]
        variance, mean = (of.double().cpu() for of in torch.var_mean(x.float(), over, correction=0))
        n = x.numel() // x.shape[1]
        sums[layer] += n * torch.stack([torch.ones_like(mean), mean, variance + mean**2])  # type: ignore[index]

    handles = [layer.register_forward_pre_hook(add) for layer in layers]
    try:
        for layer in layers:
            layer.train()
        for batch in batches:
            network(batch)
    finally:
        for handle in handles:
            handle.remove()
        network.eval()
    for layer, (n, total, squares) in sums.items():
        mean = total / n
        variance = (squares / n - mean**2).clamp_min(0) * n / (n - 1)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance)
