"""What the leads of an ECG tell of one another at one instant: the yardstick for pretraining."""

import torch
from torch import Tensor


def least_squares_reconstruction(
    ecg: Tensor, mask: Tensor, covariance: Tensor, columns: int
) -> Tensor:
    """Predict every lead from the leads visible at the same instant by linear least squares.

    ecg (B, leads, samples) with mean zero; mask (B, leads * columns), True where a patch is hidden;
    covariance (leads, leads) of the population. The best linear predictor of the hidden leads h
    from the visible v is S_hv S_vv^-1 v; where nothing is visible it is zero. A ridge of 1e-6 of
    the mean variance keeps S_vv invertible, since six limb leads span only two dimensions.
    Returns (B, leads, samples).
    """
    batch, leads, samples = ecg.shape
    seen = (~mask).view(batch, leads, columns).transpose(1, 2).to(covariance.dtype)  # (B, C, L)
    identity = torch.eye(leads, device=ecg.device, dtype=covariance.dtype)
    system = covariance * seen[..., :, None] * seen[..., None, :]
    system = system + torch.diag_embed(1 - seen) + 1e-6 * covariance.trace() / leads * identity
    weights: Tensor = torch.linalg.solve(system, seen[..., None] * covariance)  # (B, C, L, L)
    signal = ecg.to(covariance.dtype).view(batch, leads, columns, -1).transpose(1, 2)
    predicted = weights.transpose(-1, -2) @ (seen[..., None] * signal)  # (B, C, L, patch)
    return predicted.transpose(1, 2).reshape(batch, leads, samples).to(ecg.dtype)
