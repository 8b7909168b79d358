"""Three fully connected layers over submodels' outputs (Kishikawa et al. 2025), some missing."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ModalityDropout(nn.Module):
    """Values (B, M, K), NaN where one of the M is missing -> more of the M missing, while training.

    Each is dropped with `probability`; where that would leave none, one of those that were there,
    each as likely, stays.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, values: Tensor) -> Tensor:
        """(B, M, K) -> (B, M, K); as they are outside training."""
        if not self.training:
            return values
        missing = values[..., 0].isnan()
        draw = torch.rand_like(values[..., 0]).masked_fill(missing, -1.0)
        stays = (draw >= self.probability) | (draw == draw.amax(1, keepdim=True))
        return values.masked_fill(~stays[..., None], torch.nan)


class FusionNetwork(nn.Module):
    """What M submodels say of K labels (B, M, K), NaN where one is missing -> (B, outputs).

    Each value, standardised with `mean` and `deviation` (M, K) and 0 where missing, enters beside
    an indicator of its submodel's presence. `widths` are those between the first and second, and
    the second and third layer; ReLU follows each of the two. Raises ValueError for other than two.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        *,
        mean: Sequence[Sequence[float]],
        deviation: Sequence[Sequence[float]],
        widths: Sequence[int],
        modality_dropout: float,
        outputs: int,
    ) -> None:
        super().__init__()
        if len(widths) != 2:
            raise ValueError(f"three layers have two widths between them, not {list(widths)}")
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation), persistent=False)
        self.modality_dropout = ModalityDropout(modality_dropout)
        first, second = widths
        submodels, labels = self.mean.shape
        self.layers = nn.Sequential(
            nn.Linear(submodels * labels + submodels, first),
            nn.ReLU(),
            nn.Linear(first, second),
            nn.ReLU(),
            nn.Linear(second, outputs),
        )

    def forward_features(self, values: Tensor) -> Tensor:
        """(B, M, K), NaN where missing -> (B, second width)."""
        values = self.modality_dropout(values)
        present = ~values[..., 0].isnan()
        scores = torch.where(present[..., None], (values - self.mean) / self.deviation, 0.0)
        seen: Tensor = self.layers[:-1](
            torch.cat([scores.flatten(1), present.to(scores.dtype)], dim=1)
        )
        return seen

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, second width) -> (B, outputs)."""
        if pre_logits:
            return features
        outputs: Tensor = self.layers[-1](features)
        return outputs

    def forward(self, values: Tensor) -> Tensor:
        """(B, M, K), NaN where missing -> (B, outputs)."""
        return self.forward_head(self.forward_features(values))
