"""The interval of a proportion."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm


def wilson_interval(
    successes: ArrayLike, trials: ArrayLike, *, confidence: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Wilson's score interval (J Am Stat Assoc 1927;22:209) of successes / trials, elementwise.

    Neither need be whole: `trials` may be an effective sample size. NaN where it is not positive.
    """
    n = np.asarray(trials, dtype=np.float64)
    n = np.where(n > 0, n, np.nan)
    share = np.asarray(successes, dtype=np.float64) / n
    z = norm.ppf((1 + confidence) / 2)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # a share of 0 or 1 is a bound, and rounding must not miss it
    return np.where(share == 0, 0.0, centre - half), np.where(share == 1, 1.0, centre + half)
