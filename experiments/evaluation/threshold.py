"""The operating threshold, chosen on development validation exams only."""

import numpy as np
from numpy.typing import ArrayLike

from datamodules.errors import InputError
from experiments.evaluation.auroc import roc_curve


def youden_threshold(target: ArrayLike, probability: ArrayLike) -> float:
    """The threshold with the largest sensitivity + specificity - 1 (Youden, Cancer 1950;3:32).

    An exam is called positive where its probability >= threshold. The threshold lies midway between
    two neighbouring probabilities, so that it is not tied to one exam; among equally good ones it
    is the lowest, which misses the fewest positives. Where no cut between two probabilities beats
    calling everything positive, it is the lowest probability. InputError where a class is missing.
    """
    labels = np.asarray(target)
    if not 0 < labels.sum() < labels.size:
        raise InputError(
            f"an operating threshold needs validation exams of both classes; of {labels.size}, "
            f"{int(labels.sum())} are positive. Add exams to the development institutions."
        )
    false_positive_rate, sensitivity, cuts = (curve[1:] for curve in roc_curve(target, probability))
    youden = sensitivity - false_positive_rate
    # the curves come from the highest cut to the lowest, and rounding must not break a tie
    best = np.flatnonzero(youden >= youden.max() - 1e-12)[-1]
    if best == cuts.size - 1:
        return float(cuts[best])
    upper, lower = cuts[best], cuts[best + 1]
    middle = lower + (upper - lower) / 2
    return float(middle if middle > lower else upper)
