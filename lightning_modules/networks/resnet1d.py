"""One-dimensional residual network over time, leads as channels."""

from collections.abc import Sequence

from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut (He et al. 2016), halving time where `stride` is 2."""

    def __init__(self, channels: int, width: int, kernel: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv1d(channels, width, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Conv1d(width, width, kernel, 1, kernel // 2, bias=False),
            nn.BatchNorm1d(width),
        )
        same = channels == width and stride == 1
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(
                nn.Conv1d(channels, width, 1, stride, bias=False), nn.BatchNorm1d(width)
            )
        )
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, samples) -> (B, width, samples / stride, rounded up)."""
        out: Tensor = self.activation(self.convolutions(x) + self.shortcut(x))
        return out


class ResNet1d(nn.Module):
    """ECG (B, leads, samples), preprocessed -> logits (B, outputs).

    `widths` gives the channels of each stage, `blocks` the residual blocks a stage, `kernel` the
    length of the filters in samples, `dropout` the share of activations hidden in training. The
    stem and every stage halve time. Raises ValueError for an even kernel, which would shift the
    signal.
    """

    def __init__(
        self,
        *,
        leads: int,
        widths: Sequence[int],
        blocks: int,
        kernel: int,
        dropout: float,
        outputs: int,
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"the kernel must be odd, not {kernel}")
        self.stem = nn.Sequential(
            nn.Conv1d(leads, widths[0], kernel, 2, kernel // 2, bias=False),
            nn.BatchNorm1d(widths[0]),
            nn.ReLU(inplace=True),
        )
        stages: list[nn.Module] = []
        channels = widths[0]
        for width in widths:
            for block in range(blocks):
                stride = 2 if block == 0 else 1
                stages.append(ResidualBlock(channels, width, kernel, stride, dropout))
                channels = width
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(channels, outputs)

    def forward_map(self, ecg: Tensor) -> Tensor:
        """(B, leads, samples) -> features over time (B, widths[-1], T'): T' is samples, halved by
        the stem and each stage, rounded up."""
        features: Tensor = self.stages(self.stem(ecg))
        return features

    def forward_features(self, ecg: Tensor) -> Tensor:
        """(B, leads, samples) -> features averaged over time (B, widths[-1])."""
        return self.forward_map(ecg).mean(2)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Features (B, widths[-1]) -> logits (B, outputs), or as they are with `pre_logits`."""
        return features if pre_logits else self.head(features)

    def forward(self, ecg: Tensor) -> Tensor:
        """(B, leads, samples) -> logits (B, outputs)."""
        return self.forward_head(self.forward_features(ecg))
