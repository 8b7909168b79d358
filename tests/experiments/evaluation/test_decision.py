"""Decision curves by their definition."""

import numpy as np
import pandas as pd
import pytest

from experiments.evaluation.decision import COLUMNS, decision_curves

CUTS = np.array([0.05, 0.1, 0.3, 0.5, 0.9])
SETTINGS = {"thresholds": CUTS, "confidence": 0.95, "resamples": 300, "seed": 0}


def predictions(target, probability, patient=None, institution="a"):
    n = len(target)
    return pd.DataFrame(
        {
            "model": "mae", "institution": institution, "split": "external",
            "patient_id": np.arange(n) if patient is None else patient, "exam_id": np.arange(n),
            "target": target, "logit": 0.0, "probability": probability,
        }
    )  # fmt: skip


def test_net_benefit_by_its_definition():
    generator = np.random.default_rng(0)
    probability = generator.random(200).round(2)  # with some on a threshold
    target = (generator.random(200) < probability).astype(int)
    table = decision_curves(predictions(target, probability), **SETTINGS)
    assert tuple(table.columns) == COLUMNS
    assert list(table["threshold"]) == list(CUTS)
    for row in table.itertuples():
        odds = row.threshold / (1 - row.threshold)
        treated = probability >= row.threshold
        benefit = (treated & (target == 1)).mean() - (treated & (target == 0)).mean() * odds
        assert row.net_benefit == pytest.approx(benefit)
        assert row.standardised == pytest.approx(benefit / target.mean())
        assert row.treat_all == pytest.approx(target.mean() - (1 - target.mean()) * odds)
        assert row.treat_none == 0
        assert row.net_benefit_low <= row.net_benefit <= row.net_benefit_high


def test_a_perfect_model_has_a_standardised_net_benefit_of_1():
    target = np.repeat([0, 1], [30, 10])
    table = decision_curves(predictions(target, 0.02 + 0.96 * target), **SETTINGS)
    np.testing.assert_allclose(table["standardised"], 1)
    np.testing.assert_allclose(table["standardised_low"], 1)
    assert (table["net_benefit_low"] < table["net_benefit_high"]).all()


def test_the_band_is_that_of_whole_patients():
    """The standard error of a mean, for at one threshold the net benefit is one over exams."""
    generator = np.random.default_rng(1)
    patient = np.repeat(np.arange(400), 3)
    target = (generator.random(400) < 0.3).astype(int)[patient]
    probability = np.clip(0.2 + 0.4 * target + 0.2 * generator.normal(size=400)[patient], 0, 1)
    table = decision_curves(
        predictions(target, probability, patient), **SETTINGS | {"resamples": 4000}
    )
    row = table[table["threshold"] == 0.3].iloc[0]
    treated = probability >= 0.3
    gain = treated * np.where(target == 1, 1.0, -0.3 / 0.7)
    error = gain[::3].std() / np.sqrt(400)
    width = row["net_benefit_high"] - row["net_benefit_low"]
    assert width == pytest.approx(2 * 1.96 * error, rel=0.06)


def test_a_missing_class_and_bad_thresholds():
    table = decision_curves(predictions([0, 0, 0], [0.1, 0.2, 0.3]), **SETTINGS)
    assert len(table) == len(CUTS)
    assert table[["net_benefit", "standardised_low", "treat_all"]].isna().all(axis=None)
    for bad in ([0.0, 0.5], [0.5, 0.5], [0.2, 1.0], [[0.5]]):
        with pytest.raises(ValueError, match="threshold probabilities"):
            decision_curves(
                predictions([0, 1], [0.1, 0.2]), **SETTINGS | {"thresholds": np.array(bad)}
            )
