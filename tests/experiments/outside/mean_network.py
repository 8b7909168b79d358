"""A network of one's own: a linear layer over each lead's mean and deviation."""

import torch
from torch import Tensor, nn


class MeanNetwork(nn.Module):
    """ECG (B, leads, samples) -> (B, outputs)."""

    def __init__(self, *, leads: int, outputs: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2 * leads, width), nn.ReLU(), nn.Linear(width, outputs)
        )

    def forward(self, ecg: Tensor) -> Tensor:
        return self.layers(torch.cat([ecg.mean(2), ecg.std(2)], dim=1))
