"""The operating threshold against a literal search."""

import numpy as np
import pytest

from datamodules.errors import InputError
from experiments.evaluation.threshold import youden_threshold


def youden(target, probability, threshold):
    called = probability >= threshold
    return called[target == 1].mean() - called[target == 0].mean()


@pytest.mark.parametrize("digits", [1, 2, 15])
def test_it_is_the_best_of_all_cuts_and_between_two_exams(digits):
    generator = np.random.default_rng(digits)
    target = generator.integers(0, 2, 300)
    probability = generator.beta(2 + target, 3).round(digits)
    threshold = youden_threshold(target, probability)
    every = [youden(target, probability, cut) for cut in np.unique(probability)]
    assert youden(target, probability, threshold) == pytest.approx(max(every), abs=1e-12)
    below = probability[probability < threshold].max()
    above = probability[probability >= threshold].min()
    assert threshold == pytest.approx((below + above) / 2)


def test_by_hand():
    assert youden_threshold([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.8]) == pytest.approx(0.4)
    # cutting at 0.3 or 0.7 is equally good: the lower one misses no positive
    tied = youden_threshold([0, 1, 0, 1], [0.2, 0.4, 0.6, 0.8])
    assert tied == pytest.approx(0.3)
    assert youden_threshold([1, 0, 1, 0], [0.8, 0.6, 0.4, 0.2]) == tied


def test_no_use_in_a_cut():
    assert youden_threshold([0, 1], [0.5, 0.5]) == 0.5
    assert youden_threshold([1, 0], [0.3, 0.7]) == 0.3  # reversed scores: call everything positive


def test_neighbouring_floats_stay_apart():
    low = 0.3
    high = np.nextafter(low, 1)
    threshold = youden_threshold([0, 1], [low, high])
    assert low < threshold <= high


@pytest.mark.parametrize("target", [[0, 0], [1, 1], []])
def test_one_class_is_a_clear_error(target):
    with pytest.raises(InputError, match="both classes"):
        youden_threshold(target, np.linspace(0, 1, len(target)))
