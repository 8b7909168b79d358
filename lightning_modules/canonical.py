"""What several views of one thing have in common: generalised canonical correlation."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Canonical(NamedTuple):
    """weights: (features, count), from centred features to variates of variance 1. shared: (count,)
    falling, how much the views agree on each: without a ridge 1 where only one view has it, and the
    number of views where all have the same."""

    weights: Tensor
    shared: Tensor


def canonical_variates(
    covariance: Tensor, views: Sequence[Tensor], *, ridge: float, count: int
) -> Canonical:
    """The `count` combinations of all features on which the views agree most.

    `covariance` (features, features) is that of the centred features, `views` the features of each
    view. Every view is whitened, its variances enlarged by `ridge` of their sum, so that what is
    small in a view is taken for noise; the variates are the principal components of the whitened
    views side by side (MAXVAR: Kettenring, Biometrika 1971;58:433). Signs are arbitrary.
    """
    covariance = covariance.double()
    whitening = torch.zeros_like(covariance)
    for view in views:
        variances, directions = torch.linalg.eigh(covariance[view][:, view])
        enlarged = variances.clamp_min(0) + ridge * variances.sum()
        # What does not vary has nothing to share.
        varies = enlarged > 1e-12 * enlarged.max().clamp_min(1e-12)
        scale = torch.where(varies, enlarged.where(varies, 1.0).rsqrt(), 0.0)
        whitening[view[:, None], view[None]] = directions * scale
    variances, directions = torch.linalg.eigh(whitening.T @ covariance @ whitening)
    largest = variances.argsort(descending=True)[:count]
    shared = variances[largest].clamp_min(0)
    found = shared > 1e-9
    scale = torch.where(found, shared.where(found, 1.0).rsqrt(), 0.0)
    weights = whitening @ directions[:, largest] * scale
    return Canonical(weights, shared)
