"""Diagonal state space network (S4D): each channel a bank of damped waves that remember.

S4D is Gu et al. 2022 (arXiv:2206.11893). The network's shape is that of Mehari and Strodthoff (IEEE
JBHI 2023), whose layers are S4: the matrix of its states is diagonal plus low rank.
"""

import math

import torch
from torch import Tensor, nn

# Of the steps that discretise a state, in samples (Gu et al. 2022).
SHORTEST, LONGEST = 0.001, 0.1


class DiagonalStateSpace(nn.Module):
    """Signals (B, width, samples) -> the same shape, each channel by its own state space.

    A channel's `states` / 2 complex numbers x follow dx/dt = A x + u, with A diagonal, and give
    2 Re(C x). Discretised by zero-order hold with the channel's own step, that is the convolution
    of u with K[l] = 2 Re sum_n C_n (exp(step A_n) - 1) / A_n exp(step A_n l), here by FFT and in
    float32 whatever the precision. A second C reads the signal from its end; both see the present
    sample, and D u is added. At the start A_n = -1/2 + i pi n (S4D-Lin).
    """

    def __init__(self, width: int, states: int) -> None:
        super().__init__()
        half = states // 2
        low, high = math.log(SHORTEST), math.log(LONGEST)
        self.log_step = nn.Parameter(torch.empty(width, 1).uniform_(low, high))
        self.log_damping = nn.Parameter(torch.full((width, half), math.log(0.5)))
        self.frequency = nn.Parameter(math.pi * torch.arange(half).repeat(width, 1))
        # The last axis is the real and the imaginary part; together a variance of 1.
        self.readout = nn.Parameter(torch.randn(width, 2, half, 2) / math.sqrt(2))
        self.skip = nn.Parameter(torch.randn(width, 1))

    def kernels(self, samples: int) -> Tensor:
        """The convolutions (width, 2, samples): towards the past, and towards the future."""
        step = self.log_step.exp()
        rate = torch.complex(-self.log_damping.exp(), self.frequency)  # (width, half)
        weight = torch.view_as_complex(self.readout) * (torch.expm1(step * rate) / rate)[:, None]
        lag = torch.arange(samples, device=step.device)
        size = ((step * rate.real)[..., None] * lag).exp()
        angle = (step * rate.imag)[..., None] * lag
        waves = torch.cat([size * angle.cos(), size * angle.sin()], dim=1)
        return 2 * torch.cat([weight.real, -weight.imag], dim=2) @ waves

    def forward(self, signal: Tensor) -> Tensor:
        """(B, width, samples) -> (B, width, samples)."""
        samples = signal.shape[2]
        with torch.autocast(signal.device.type, enabled=False):
            signal = signal.to(self.skip.dtype)
            past, future = torch.fft.rfft(self.kernels(samples), n=2 * samples).unbind(1)
            # The spectrum of a kernel turned round in time is its conjugate.
            spectrum = torch.fft.rfft(signal, n=2 * samples) * (past + future.conj())
            convolved: Tensor = torch.fft.irfft(spectrum, n=2 * samples)[..., :samples]
            return convolved + self.skip * signal


class S4DBlock(nn.Module):
    """A state space, channels mixed by a gated linear unit, a shortcut and a layer norm."""

    def __init__(self, width: int, states: int, dropout: float) -> None:
        super().__init__()
        self.space = DiagonalStateSpace(width, states)
        self.mix = nn.Sequential(
            nn.GELU(),
            nn.Dropout1d(dropout),
            nn.Conv1d(width, 2 * width, 1),
            nn.GLU(dim=1),
            nn.Dropout1d(dropout),
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, samples) -> (B, width, samples)."""
        mixed = x + self.mix(self.space(x))
        normed: Tensor = self.norm(mixed.transpose(1, 2)).transpose(1, 2)
        return normed


class S4D(nn.Module):
    """ECG (B, leads, samples), preprocessed -> logits (B, outputs); of any length.

    `width` is the channels of every layer, `states` the real dimensions of a channel's state,
    `dropout` the share of channels hidden in training. The stem makes an instant of `stride`
    samples, by a linear layer. The steps start between 0.001 and 0.1 instants, so memories between
    20 and 2000 instants. Raises ValueError for an odd number of states.

    With 12 leads, 4 layers, width 512, 8 states and one output it has 2,165,761 parameters. The
    public code of Mehari and Strodthoff (github.com/tmehari/ssm_ecg) makes 2,147,329: as many
    without the 18,432 steps, dampings and frequencies, which it keeps as they start.
    """

    def __init__(
        self,
        *,
        leads: int,
        width: int,
        layers: int,
        states: int,
        dropout: float,
        outputs: int,
        stride: int = 1,
    ) -> None:
        super().__init__()
        if states % 2:
            raise ValueError(f"the states come in conjugate pairs: an even number, not {states}")
        self.stem = nn.Conv1d(leads, width, stride, stride)
        self.blocks = nn.Sequential(*(S4DBlock(width, states, dropout) for _ in range(layers)))
        self.head = nn.Linear(width, outputs)

    def forward_map(self, ecg: Tensor) -> Tensor:
        """(B, leads, samples) -> features at every instant (B, width, samples / stride)."""
        features: Tensor = self.blocks(self.stem(ecg))
        return features

    def forward_features(self, ecg: Tensor) -> Tensor:
        """(B, leads, samples) -> features averaged over time (B, width)."""
        return self.forward_map(ecg).mean(2)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Features (B, width) -> logits (B, outputs), or as they are with `pre_logits`."""
        return features if pre_logits else self.head(features)

    def forward(self, ecg: Tensor) -> Tensor:
        """(B, leads, samples) -> logits (B, outputs)."""
        return self.forward_head(self.forward_features(ecg))

    def no_weight_decay(self) -> set[str]:
        """The states' steps, damping and frequencies, which Gu et al. 2022 leave out of it too."""
        return {
            f"blocks.{block}.space.{name}"
            for block in range(len(self.blocks))
            for name in ("log_step", "log_damping", "frequency")
        }
