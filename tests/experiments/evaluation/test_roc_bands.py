"""Bands against scikit-learn's curves and a plain bootstrap of them."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_curve

from experiments.evaluation.roc_bands import GRID, roc_bands

SETTINGS = {"confidence": 0.95, "resamples": 1000, "seed": 3}


def table(target, probability, patient=None, institution="north", split="external"):
    n = len(target)
    return pd.DataFrame(
        {
            "model": "mae",
            "institution": institution,
            "split": split,
            "patient_id": np.arange(n).astype(str) if patient is None else patient,
            "exam_id": np.arange(n).astype(str),
            "target": np.asarray(target, dtype=int),
            "logit": 0.0,
            "probability": probability,
        }
    )


@pytest.fixture(scope="module")
def sample():
    generator = np.random.default_rng(1)
    target = np.arange(160) % 4 == 0
    return target, np.round(generator.beta(2 + 2 * target, 4), 3)


def sensitivities(target, probability):
    """scikit-learn's curve at GRID, the upper end of vertical steps."""
    false, true, _ = roc_curve(target, probability, drop_intermediate=False)
    found = []
    for rate in GRID:
        before = np.flatnonzero(false <= rate)[-1]
        if before == len(false) - 1 or false[before] == rate:
            found.append(true[before])
            continue
        share = (rate - false[before]) / (false[before + 1] - false[before])
        found.append(true[before] + share * (true[before + 1] - true[before]))
    return np.array(found)


def test_the_curve_is_scikit_learns(sample):
    bands = roc_bands(table(*sample), **SETTINGS)
    assert bands["false_positive_rate"].tolist() == GRID.tolist()
    np.testing.assert_allclose(bands["sensitivity"], sensitivities(*sample), atol=1e-12)


def test_bands_are_those_of_a_plain_bootstrap(sample):
    target, probability = sample
    generator = np.random.default_rng(8)
    curves = []
    for _ in range(1000):
        drawn = generator.integers(len(target), size=len(target))
        curves.append(sensitivities(target[drawn], probability[drawn]))
    low, high = np.quantile(curves, [0.025, 0.975], axis=0)
    bands = roc_bands(table(*sample), **SETTINGS)
    np.testing.assert_allclose(bands["sensitivity_low"], low, atol=0.06)
    np.testing.assert_allclose(bands["sensitivity_high"], high, atol=0.06)
    assert np.abs(bands["sensitivity_low"] - low).mean() < 0.015


def test_patients_with_several_exams_widen_the_bands(sample):
    target, probability = (np.tile(values, 2) for values in sample)
    twice = roc_bands(table(target, probability, np.arange(320) % 160), **SETTINGS)
    alone = roc_bands(table(target, probability), **SETTINGS)
    widths = [
        (bands["sensitivity_high"] - bands["sensitivity_low"]).mean() for bands in (twice, alone)
    ]
    assert widths[0] / widths[1] == pytest.approx(np.sqrt(2), rel=0.1)


def test_institutions_without_a_class_have_none(sample):
    target, probability = sample
    both = pd.concat(
        [table(target, probability), table(np.zeros(20), probability[:20], institution="south")]
    )
    assert roc_bands(both, **SETTINGS)["institution"].unique().tolist() == ["north"]
    assert roc_bands(table(np.zeros(20), probability[:20]), **SETTINGS).empty
