"""Reliability and decision curves: what is drawn is what the tables say."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from experiments.evaluation.calibration import calibration_table, reliability_curves
from experiments.evaluation.decision import decision_curves
from experiments.figures.calibration import reliability_figure
from experiments.figures.decision import decision_figure
from experiments.figures.panels import entry, panels
from experiments.figures.style import look

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


@pytest.mark.parametrize("number", [1, 2, 10])
@pytest.mark.parametrize(
    "name",
    [
        "hospital of the large northern city {:02}",
        "HOSPITAL OF THE MUNICIPAL COMMUNITY M {:02}",
        "東京大学医学部附属病院循環器内科心不全外来研究部門 {:02}",
    ],
    ids=["ordinary", "capitals", "asian"],
)
def test_long_titles_and_legends_stay_on_the_page_and_apart(name, number):
    handles = [entry(name.format(model), "black") for model in range(12)]
    with look():
        figure, drawn = panels(
            [name.format(institution) for institution in range(number)],
            "pulmonary hypertension: net benefit of acting on a model",
            xlabel="x", ylabel="y", legend=handles,
        )  # fmt: skip
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    titles = [axes.get_title(loc="left") for axes in drawn]
    assert len(set(titles)) == number
    boxes = [axes._left_title.get_window_extent(renderer) for axes in drawn]
    boxes += [text.get_window_extent(renderer) for text in figure.texts]
    boxes.append(figure.legends[0].get_window_extent(renderer))
    for place, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0
        assert box.x1 <= figure.bbox.x1
        assert not any(box.overlaps(other) for other in boxes[place + 1 :])
