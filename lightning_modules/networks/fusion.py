"""Three fully connected layers over submodels' outputs (Kishikawa et al. 2025), some missing."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ModalityDropout(nn.Module):
    """Logits (B, M), NaN where missing -> the same with more of them missing, while training.

    Each is dropped with `probability`; where that would leave none, one of those that were there,
    each as likely, stays.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, logits: Tensor) -> Tensor:
        """(B, M) -> (B, M); as they are outside training."""
        if not self.training:
            return logits
        draw = torch.rand_like(logits).masked_fill(logits.isnan(), -1.0)
        stays = (draw >= self.probability) | (draw == draw.amax(1, keepdim=True))
        return logits.masked_fill(~stays, torch.nan)


class FusionNetwork(nn.Module):
    """Submodels' logits (B, M), NaN where missing -> logits (B, 1).

    Each logit, standardised with `mean` and `deviation` (M,) and 0 where missing, enters beside
    an indicator of its presence. `widths` are those between the first and second, and the second
    and third layer; ReLU follows each of the two. Raises ValueError for other than two.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        *,
        mean: Sequence[float],
        deviation: Sequence[float],
        widths: Sequence[int],
        modality_dropout: float,
    ) -> None:
        super().__init__()
        if len(widths) != 2:
            raise ValueError(f"three layers have two widths between them, not {list(widths)}")
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation), persistent=False)
        self.modality_dropout = ModalityDropout(modality_dropout)
        first, second = widths
        self.layers = nn.Sequential(
            nn.Linear(2 * len(mean), first),
            nn.ReLU(),
            nn.Linear(first, second),
            nn.ReLU(),
            nn.Linear(second, 1),
        )

    def forward(self, logits: Tensor) -> Tensor:
        """Submodels' logits (B, M), NaN where missing -> logits (B, 1)."""
        logits = self.modality_dropout(logits)
        present = ~logits.isnan()
        scores = torch.where(present, (logits - self.mean) / self.deviation, 0.0)
        fused: Tensor = self.layers(torch.cat([scores, present.to(scores.dtype)], dim=1))
        return fused
