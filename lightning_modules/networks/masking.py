"""Which tokens of an ECG a masked autoencoder sees."""

import torch
from torch import Tensor

STRATEGIES = ("random", "time", "lead", "mixed")


def sample_visible(
    batch: int,
    rows: int,
    columns: int,
    mask_ratio: float,
    strategy: str,
    *,
    device: torch.device | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw the visible tokens of each ECG: sorted indices (batch, visible) into rows * columns.

    Token `row * columns + column` is one lead's (or all leads', where there is one row) stretch of
    time or beat. Every ECG keeps the same number of tokens, round((1 - mask_ratio) * rows *
    columns), whatever the strategy:

    - "random": any tokens (the paper's).
    - "time": all leads of an instant or beat are hidden together, so nothing can be copied across
      leads.
    - "lead": whole leads are hidden.
    - "mixed": each ECG draws one of the three.

    Where whole instants or leads do not add up to the number, one of them is hidden in part.

    Raises ValueError for an unknown strategy or a ratio that leaves nothing visible or masked.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"masking strategy {strategy!r} is not one of {', '.join(STRATEGIES)}")
    visible = round((1 - mask_ratio) * rows * columns)
    if not 0 < visible < rows * columns:
        raise ValueError(
            f"mask ratio {mask_ratio} leaves {visible} of {rows * columns} tokens visible"
        )

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, device=device, generator=generator)

    # Tokens are ranked by a key and the lowest stay visible. A rank shared along an axis comes
    # before the token's own key in [0, 1), so that an axis is hidden as a whole.
    patch_key = draw(batch, rows, columns)
    time_key = patch_key + draw(batch, 1, columns).argsort(2).argsort(2)
    lead_key = patch_key + draw(batch, rows, 1).argsort(1).argsort(1)
    if strategy == "mixed":
        choice = torch.randint(3, (batch, 1, 1), device=device, generator=generator)
        key = torch.where(choice == 0, patch_key, torch.where(choice == 1, time_key, lead_key))
    else:
        key = {"random": patch_key, "time": time_key, "lead": lead_key}[strategy]
    return key.flatten(1).argsort(1)[:, :visible].sort(1).values


def mask_of(visible: Tensor, patches: int) -> Tensor:
    """Bool (batch, patches), True where masked, from visible indices (batch, visible)."""
    mask = torch.ones(visible.shape[0], patches, dtype=torch.bool, device=visible.device)
    return mask.scatter(1, visible, False)
