"""Cohort flow: the boxes' numbers add up."""

import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Rectangle

from experiments.figures.flow import flow_figure

FLOW = pd.DataFrame(
    [("far", 10, 8, 6), ("home", 20, 20, 18), ("empty", 5, 0, 0)],
    columns=["institution", "in manifest", "packed", "with target"],
)
SPLITS = ["train"] * 10 + ["val"] * 5 + ["test"] * 5
EXAMS = pd.DataFrame(
    {
        "institution": ["far"] * 8 + ["home"] * 20,
        "role": ["external"] * 8 + ["development"] * 20,
        "patient_id": [str(n // 2) for n in range(28)],
        "split": ["external"] * 8 + SPLITS,
        "target": [1.0] * 2 + [0.0] * 4 + [None] * 2 + [1.0] * 6 + [0.0] * 12 + [None] * 2,
        "analysed": [True] * 5 + [False] * 3 + [True] * 20,
    }
)
REASONS = ["no such file"] * 3 + [f"the recording is {n} s long" for n in range(4)]
LEFT_OUT = pd.DataFrame({"institution": "far", "exam_id": "x", "path": "p", "reason": REASONS})


@pytest.fixture(scope="module")
def figure():
    return flow_figure(FLOW, EXAMS, LEFT_OUT, target="LVSD", title="LVSD: cohort flow")


def words(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_totals_and_reasons(figure):
    told = words(figure)
    assert told[told.index("Exams in the manifests") + 1] == "35"
    assert told[told.index("Exams with a usable input") + 1] == "28"
    assert "24 exams of 12 patients, 8 positive" in told
    assert "Without a usable input: 7" in told
    assert "LVSD not known: 4" in told
    # those that differ in numbers only are one reason
    assert "- 4 x the recording is 0 s long (or alike)" in told
    assert "- 3 x no such file" in told


def test_a_box_an_institution(figure):
    told = words(figure)
    home = told[told.index("home") : told.index("far")]
    assert home[1:] == [
        "manifest: 20", "no usable input: 0", "target unknown: 2", "training: 10 (6+)",
        "validation: 5 (0+)", "test: 3 (0+)", "External",
    ]  # fmt: skip
    far = told[told.index("far") :]
    assert far[1:6] == [
        "manifest: 10", "no usable input: 2", "target unknown: 2", "lacking an input: 1",
        "tested: 5 (2+)",
    ]  # fmt: skip
    assert told[told.index("empty") :] == [
        "empty", "manifest: 5", "no usable input: 5", "target unknown: 0", "tested: 0 (0+)",
    ]  # fmt: skip


def test_text_stays_in_its_box_with_large_numbers_and_long_names():
    flow = FLOW.assign(institution=["The_University_Hospital-of-the-City", "home", "empty"])
    flow[["in manifest", "packed", "with target"]] *= 9_999
    exams = pd.concat([EXAMS] * 999).assign(
        institution=lambda e: e["institution"].replace("far", flow["institution"].iloc[0])
    )
    figure = flow_figure(flow, exams, LEFT_OUT, target="LVSD", title="LVSD")
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    (axes,) = figure.axes
    boxes = [p.get_window_extent(renderer) for p in axes.patches if isinstance(p, Rectangle)]
    inside = 0
    for text in axes.texts:
        extent = text.get_window_extent(renderer)
        around = [box for box in boxes if box.contains(extent.x0, (extent.y0 + extent.y1) / 2)]
        inside += len(around)
        for box in around:
            assert extent.x1 <= box.x1
            assert box.y0 <= extent.y0
            assert extent.y1 <= box.y1
    assert inside == len(axes.texts) - 3  # title and the two roles


def test_many_institutions_go_on_in_further_rows():
    flow = pd.concat([FLOW.iloc[:1].assign(institution=f"site-{n}") for n in range(9)])
    figure = flow_figure(flow, EXAMS, LEFT_OUT.iloc[:0], target="LVSD", title="LVSD")
    names = {t.get_text(): t.get_position() for t in figure.axes[0].texts}
    assert names["site-0"][0] == names["site-7"][0]
    assert names["site-0"][1] < names["site-7"][1]
