"""fastai's xresnet with one-dimensional convolutions, as in the PTB-XL benchmark.

Strodthoff et al. (IEEE JBHI 2021;25:1519); the tweaks to a ResNet are those of He et al. 2019
(arXiv:1812.01187): a stem of three convolutions, averages before a strided shortcut, and last batch
norms that start at zero.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

STEM = (32, 32, 64)
EXPANSION = 4


def convolution(
    channels: int, width: int, kernel: int, stride: int = 1, *, activated: bool = True
) -> nn.Sequential:
    """A convolution without bias, batch norm and, where `activated`, ReLU."""
    layers: list[nn.Module] = [
        nn.Conv1d(channels, width, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm1d(width),
    ]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if activated else []))


class Bottleneck(nn.Module):
    """Narrow, convolve with `stride`, widen fourfold, beside a shortcut."""

    def __init__(self, channels: int, width: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = EXPANSION * width
        self.convolutions = nn.Sequential(
            convolution(channels, width, 1),
            convolution(width, width, kernel, stride),
            convolution(width, wide, 1, activated=False),
        )
        self.shortcut = nn.Sequential(
            nn.Identity() if stride == 1 else nn.AvgPool1d(stride, ceil_mode=True),
            nn.Identity() if channels == wide else convolution(channels, wide, 1, activated=False),
        )
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, samples) -> (B, 4 width, samples / stride, rounded up)."""
        out: Tensor = self.activation(self.convolutions(x) + self.shortcut(x))
        return out


class XResNet1d(nn.Module):
    """ECG (B, leads, samples), preprocessed -> logits (B, outputs); of any length.

    `blocks` gives the residual blocks of each stage, `width` the channels in their middle, `kernel`
    the length of the filters in samples, `hidden` the width between the head's two linear layers,
    `dropout` the share hidden before the last one in training, half of it before the first. The
    stem quarters time, every stage after the first halves it. The head sees maximum and mean over
    time. Raises ValueError for an even kernel, which would shift the signal.

    Blocks [3, 4, 23, 3], width 64, kernel 5 and 128 hidden make the benchmark's xresnet1d101: with
    12 leads 1,871,745 parameters for one output and 1,880,775 for PTB-XL's 71 statements, as many
    as the public code of the benchmark (github.com/helme/ecg_ptbxl_benchmarking) makes.
    """

    def __init__(
        self,
        *,
        leads: int,
        blocks: Sequence[int],
        width: int,
        kernel: int,
        hidden: int,
        dropout: float,
        outputs: int,
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"the kernel must be odd, not {kernel}")
        first, second, third = STEM
        self.stem = nn.Sequential(
            convolution(leads, first, kernel, 2),
            convolution(first, second, kernel),
            convolution(second, third, kernel),
            nn.MaxPool1d(3, 2, 1),
        )
        self.stages = nn.Sequential()
        channels = third
        for stage, number in enumerate(blocks):
            of_stage = nn.Sequential()
            for block in range(number):
                stride = 2 if stage and not block else 1
                of_stage.append(Bottleneck(channels, width, kernel, stride))
                channels = EXPANSION * width
            self.stages.append(of_stage)
        self.head = nn.Sequential(
            nn.BatchNorm1d(2 * channels),
            nn.Dropout(dropout / 2),
            nn.Linear(2 * channels, hidden),
            nn.ReLU(inplace=True),
            nn.BatchNorm1d(hidden),
            nn.Dropout(dropout),
            nn.Linear(hidden, outputs),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.convolutions[2][1].weight)  # type: ignore[index]

    def forward_map(self, ecg: Tensor) -> Tensor:
        """(B, leads, samples) -> features over time (B, 4 width, T'): T' is samples, halved twice
        by the stem and once by every stage after the first, rounded up."""
        features: Tensor = self.stages(self.stem(ecg))
        return features

    def forward_features(self, ecg: Tensor) -> Tensor:
        """(B, leads, samples) -> maximum and mean over time (B, 8 width)."""
        features = self.forward_map(ecg)
        return torch.cat([features.amax(2), features.mean(2)], dim=1)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Features (B, 8 width) -> logits (B, outputs), or (B, hidden) with `pre_logits`."""
        seen: Tensor = self.head[:-1](features)
        return seen if pre_logits else self.head[-1](seen)

    def forward(self, ecg: Tensor) -> Tensor:
        """(B, leads, samples) -> logits (B, outputs)."""
        return self.forward_head(self.forward_features(ecg))
