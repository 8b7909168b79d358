"""Reliability and decision curves: what is drawn is what the tables say."""

import numpy as np
import pandas as pd
import pytest

from experiments.evaluation.calibration import calibration_table, reliability_curves
from experiments.evaluation.decision import decision_curves
from experiments.figures.calibration import reliability_figure
from experiments.figures.decision import decision_figure

SETTINGS = {"confidence": 0.95, "resamples": 50, "seed": 3}


@pytest.fixture(scope="module")
def predictions():
    generator = np.random.default_rng(0)
    parts = []
    for model in ("mae", "cnn"):
        for institution, split in (
            ("home", "val"), ("home", "test"), ("a", "external"), ("b", "external"),
        ):  # fmt: skip
            target = np.arange(60) % 4 == 0 if institution != "b" else np.zeros(60, dtype=bool)
            ids = [f"{split}{n}" for n in range(60)]
            parts.append(
                pd.DataFrame(
                    {
                        "model": model,
                        "institution": institution,
                        "split": split,
                        "patient_id": ids,
                        "exam_id": ids,
                        "target": target.astype(int),
                        "logit": 0.0,
                        "probability": generator.beta(2 + target, 5),
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def lines(axes, prefix):
    return {
        line.get_gid(): line
        for line in axes.get_lines()
        if (line.get_gid() or "").startswith(prefix)
    }


def test_reliability_before_and_after(predictions):
    curves = reliability_curves(predictions, **SETTINGS)
    table = calibration_table(predictions, **SETTINGS)
    curves, table = curves[curves["institution"] == "a"], table[table["institution"] == "a"]
    figure = reliability_figure(curves, table, confidence=0.95, title="LVSD")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["mae", "cnn"]
    for axes in figure.axes:
        model = axes.get_title(loc="left")
        drawn = lines(axes, "reliability-")
        assert list(drawn) == ["reliability-none", "reliability-platt"]
        for method in ("none", "platt"):
            rows = curves[(curves["model"] == model) & (curves["recalibration"] == method)]
            points = drawn[f"reliability-{method}"].get_xydata()
            np.testing.assert_allclose(points, rows[["predicted", "observed"]])
        assert len({line.get_marker() for line in drawn.values()}) == 2
        slopes = table[table["model"] == model].set_index("recalibration")["slope"]
        assert f"slope {slopes['none']:.2f} to {slopes['platt']:.2f}" in [
            text.get_text() for text in axes.texts
        ]


def test_decision_curves_of_every_set(predictions):
    curves = decision_curves(predictions, thresholds=np.arange(0.05, 0.5, 0.05), **SETTINGS)
    figure = decision_figure(curves, banded=["mae"], title="LVSD")
    names = [axes.get_title(loc="left") for axes in figure.axes]
    assert names == ["all-external", "a", "b"]
    pooled, _, empty = figure.axes
    drawn = lines(pooled, "net-benefit-")
    for model in ("mae", "cnn"):
        rows = curves[(curves["model"] == model) & (curves["institution"] == "all-external")]
        points = drawn[f"net-benefit-{model}"].get_xydata()
        np.testing.assert_allclose(points, rows[["threshold", "net_benefit"]])
    assert [band.get_gid() for band in pooled.collections] == ["band-mae"]
    assert not lines(empty, "net-benefit-")
    assert "not estimable" in [text.get_text() for text in empty.texts]


def test_without_external_sets_the_internal_test_is_shown(predictions):
    internal = predictions[predictions["split"] != "external"]
    curves = decision_curves(internal, thresholds=[0.1, 0.2], **SETTINGS)
    figure = decision_figure(curves, banded=[], title="LVSD")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["home"]
