"""What the leads of an ECG tell of one another at one instant: the yardstick for pretraining."""

import torch
from torch import Tensor


def least_squares_reconstruction(stretches: Tensor, seen: Tensor, covariance: Tensor) -> Tensor:
    """Predict every lead from the leads seen at the same instant by linear least squares.

    stretches (B, leads, columns, length) of ECGs with mean zero; seen, bool (B, leads, columns);
    covariance (leads, leads) of the population. The best linear predictor of the other leads h
    from those seen, v, is S_hv S_vv^-1 v; where nothing is seen it is zero. A ridge of 1e-6 of
    the mean variance keeps S_vv invertible, since six limb leads span only two dimensions.
    Returns (B, leads, columns, length).
    """
    leads = stretches.shape[1]
    v = seen.transpose(1, 2).to(covariance.dtype)  # (B, columns, leads)
    identity = torch.eye(leads, device=stretches.device, dtype=covariance.dtype)
    system = covariance * v[..., :, None] * v[..., None, :]
    system = system + torch.diag_embed(1 - v) + 1e-6 * covariance.trace() / leads * identity
    weights: Tensor = torch.linalg.solve(system, v[..., None] * covariance)  # (B, C, L, L)
    signal = stretches.to(covariance.dtype).transpose(1, 2)
    predicted = weights.transpose(-1, -2) @ (v[..., None] * signal)  # (B, C, L, length)
    return predicted.transpose(1, 2).to(stretches.dtype)
