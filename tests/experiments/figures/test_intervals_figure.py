"""Subgroups and operating points: points, numbers and words on one line."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from experiments.figures.operating import operating_figure
from experiments.figures.subgroups import subgroups_figure

SUBGROUPS = pd.DataFrame(
    [
        ("mae", "sex", "female", 400, 61, 0.91, 0.88, 0.94, 1.1, 0.9, 1.3),
        ("mae", "sex", "male", 1400, 90, 0.89, 0.85, 0.92, 0.8, 0.6, 9.0),
        ("mae", "age", "not recorded", 4, 0, np.nan, np.nan, np.nan, np.nan, np.nan, np.nan),
        ("cnn", "sex", "female", 400, 61, 0.81, 0.78, 0.84, 1.2, 1.0, 1.4),
        ("cnn", "sex", "male", 1400, 90, 0.79, 0.75, 0.82, 0.7, 0.5, 0.9),
        ("cnn", "age", "not recorded", 4, 0, np.nan, np.nan, np.nan, np.nan, np.nan, np.nan),
    ],
    columns=[
        "model", "variable", "group", "n", "positives", "auroc", "auroc_low", "auroc_high",
        "observed_expected", "observed_expected_low", "observed_expected_high",
    ],
)  # fmt: skip


def drawn(axes, gid):
    return [line for line in axes.get_lines() if line.get_gid() == gid]


@pytest.fixture(scope="module")
def figure():
    return subgroups_figure(SUBGROUPS, confidence=0.95, title="LVSD: subgroups")


def test_points_and_numbers_of_both_statistics(figure):
    first, second = figure.axes
    known = SUBGROUPS.dropna(subset="auroc")
    for axes, column in ((first, "auroc"), (second, "observed_expected")):
        points = sorted(float(line.get_xdata()[0]) for line in drawn(axes, "estimate"))
        assert points == sorted(known[column])
    heights = {line.get_xdata()[0]: line.get_ydata()[0] for line in drawn(first, "estimate")}
    text = next(t for t in first.texts if t.get_text() == "0.91 (0.88 to 0.94)")
    assert text.get_position()[1] == heights[0.91]
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert words.count("not estimable") == 4
    assert {"90 / 1,400", "sex", "age", "female", "not recorded"} <= set(words)


def test_a_long_interval_ends_in_an_arrow_at_the_axis(figure):
    ratios = figure.axes[1]
    right = ratios.get_xlim()[1]
    assert right < 9
    (arrow,) = (line for line in ratios.get_lines() if line.get_marker() == ">")
    assert arrow.get_xdata()[0] == right


def test_models_of_a_group_stand_together_and_nothing_overlaps(figure):
    first = figure.axes[0]
    heights = [line.get_ydata()[0] for line in drawn(first, "estimate")]
    assert heights == sorted(heights)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    boxes = [t.get_window_extent(renderer) for axes in figure.axes for t in axes.texts]
    for number, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0
        assert box.x1 <= figure.bbox.x1
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])


@pytest.mark.parametrize(
    "name",
    ["MEDICAL COMMUNITY HOSPITAL MMMMMMMMMM {}", "東京大学医学部附属病院循環器内科心不全外来 {}"],
)
def test_long_names_and_large_counts_stay_apart(name):
    one = SUBGROUPS.head(1).assign(n=1_234_567, positives=123_456)
    lines = [
        one.assign(model=name.format(m), group=name.format(g)) for m in range(12) for g in range(10)
    ]
    figure = subgroups_figure(pd.concat(lines), confidence=0.95, title="LVSD")
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    boxes = [t.get_window_extent(renderer) for axes in figure.axes for t in axes.texts]
    boxes += [drawn.get_window_extent(renderer) for drawn in (*figure.texts, *figure.legends)]
    for number, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0
        assert box.x1 <= figure.bbox.x1
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])


def test_operating_points_by_role():
    rows = [
        ("mae", "home", "development", 80, 20, 0.9),
        ("mae", "north", "external", 400, 61, 0.8),
        ("mae", "all-external", "pooled", 400, 61, 0.85),
    ]
    table = pd.DataFrame(rows, columns=["model", "institution", "role", "n", "positives", "value"])
    for name in ("sensitivity", "specificity"):
        table[name] = table["value"]
        table[f"{name}_low"], table[f"{name}_high"] = table["value"] - 0.1, table["value"] + 0.05
    figure = operating_figure(table.iloc[::-1], confidence=0.95, title="LVSD")
    height = {text.get_text(): text.get_position()[1] for text in figure.axes[0].texts}
    assert height["Internal test"] < height["home"] < height["External validation"]
    assert height["north"] < height["All external exams together"] < height["all-external"]
