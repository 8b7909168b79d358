"""Forest plot: every estimate where it belongs, and every number in words."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from experiments.figures.forest import forest_figure

SUMMARY = pd.DataFrame(
    [
        ("mae", "home", "development", 80, 20, 0.95, 0.91, 0.99),
        ("mae", "north", "external", 400, 61, 0.912, 0.880, 0.944),
        ("mae", "east", "external", 40, 0, np.nan, np.nan, np.nan),
        ("mae", "all-external", "pooled", 440, 61, 0.90, 0.87, 0.93),
        ("cnn", "home", "development", 80, 20, 0.85, 0.78, 0.92),
        ("cnn", "north", "external", 400, 61, 0.80, 0.72, 0.88),
        ("cnn", "east", "external", 40, 0, np.nan, np.nan, np.nan),
        ("cnn", "all-external", "pooled", 440, 61, 0.79, 0.74, 0.84),
    ],
    columns=["model", "institution", "role", "n", "positives", "auroc", "auroc_low", "auroc_high"],
)


def drawn(axes, gid):
    return [line for line in axes.get_lines() if line.get_gid() == gid]


def texts(figure):
    return [text.get_text() for text in figure.findobj(match=lambda a: hasattr(a, "get_text"))]


@pytest.fixture(scope="module")
def figure():
    best = {"north": 0.97}
    return forest_figure(
        SUMMARY, confidence=0.95, title="LVSD", ceilings={"mae": best, "cnn": best}
    )


def test_points_and_intervals_are_the_summarys(figure):
    (axes,) = figure.axes
    estimable = SUMMARY.dropna(subset=["auroc"])
    points = sorted(float(line.get_xdata()[0]) for line in drawn(axes, "estimate"))
    assert points == sorted(estimable["auroc"])
    intervals = sorted(tuple(line.get_xdata()) for line in drawn(axes, "interval"))
    assert intervals == sorted(zip(estimable["auroc_low"], estimable["auroc_high"], strict=True))
    low, high = axes.get_xlim()
    assert low <= 0.72
    assert high >= 0.99


def test_number_and_point_stand_on_one_line(figure):
    (axes,) = figure.axes
    heights = {line.get_xdata()[0]: line.get_ydata()[0] for line in drawn(axes, "estimate")}
    text = next(text for text in axes.texts if text.get_text() == "0.912 (0.880-0.944)")
    assert text.get_position()[1] == heights[0.912]
    assert len(set(heights.values())) == len(heights)


def test_pooled_rows_come_last_and_development_first(figure):
    (axes,) = figure.axes
    height = {text.get_text(): text.get_position()[1] for text in axes.texts}
    assert height["home"] < height["External validation"] < height["north"] < height["east"]
    assert height["east"] < height["All external exams together"] < height["all-external"]


def test_words_and_ceiling(figure):
    words = texts(figure)
    assert words.count("not estimable") == 2
    assert {"61 / 400", "0 / 40", "mae", "cnn", "AUROC (95 % interval)"} <= set(words)
    (tick,) = drawn(figure.axes[0], "ceiling")
    assert list(tick.get_xdata()) == [0.97, 0.97]
    assert any("best possible" in word for word in words)
    plain = forest_figure(SUMMARY, confidence=0.95, title="LVSD")
    assert not any("best possible" in word for word in texts(plain))


def test_models_differ_by_marker_too(figure):
    assert len({line.get_marker() for line in drawn(figure.axes[0], "estimate")}) == 2


def test_a_ceiling_stands_at_the_lines_of_the_models_that_share_it():
    three = pd.concat([SUMMARY, SUMMARY[SUMMARY["model"] == "cnn"].assign(model="ecg", auroc=0.75)])
    ceilings = {"mae": {"north": 0.97}, "cnn": {"north": 0.97}, "ecg": {"north": 0.94}}
    (axes,) = forest_figure(three, confidence=0.95, title="PH", ceilings=ceilings).axes
    shared, own = drawn(axes, "ceiling")
    assert (shared.get_xdata()[0], own.get_xdata()[0]) == (0.97, 0.94)
    mae, cnn = (line for line in drawn(axes, "estimate") if line.get_xdata()[0] in (0.912, 0.80))
    top, bottom = shared.get_ydata()
    assert top < mae.get_ydata()[0] < cnn.get_ydata()[0] < bottom
    assert own.get_ydata()[0] == bottom
    assert own.get_ydata()[1] - bottom == pytest.approx((bottom - top) / 2)


def seven_models():
    """At eight institutions, all of them estimable and under names of the usual length."""
    models = ["ph_ecg", "ph_cxr", "ph_bnp", "ph_fusion", "mean_of_logits", "logistic_stacking",
              "best_submodel"]  # fmt: skip
    one = SUMMARY[(SUMMARY["model"] == "mae") & (SUMMARY["institution"] == "north")]
    institutions = pd.concat([one.assign(institution=f"hospital-{i}") for i in range(8)])
    return pd.concat([institutions.assign(model=model) for model in models])


def many_models(model, institution):
    """Twelve at ten institutions with many exams, under these names and their numbers."""
    one = SUMMARY[(SUMMARY["model"] == "mae") & (SUMMARY["institution"] == "north")]
    one = one.assign(n=1_234_567, positives=123_456)
    lines = [
        one.assign(model=model.format(m), institution=institution.format(i))
        for m in range(12)
        for i in range(10)
    ]
    return pd.concat(lines)


@pytest.mark.parametrize(
    ("summary", "ceilings"),
    [
        (SUMMARY.replace({"institution": {"north": "a"}}), None),
        (SUMMARY.replace({"institution": {"north": "a hospital with a long name of its own"}}), {}),
        (seven_models(), {"ph_ecg": {"hospital-1": 0.95}}),
        (
            many_models(
                "MODEL WITH A NAME IN MANY CAPITALS MM {}", "MEDICAL COMMUNITY HOSPITAL {}"
            ),
            {},
        ),
        (many_models("model {}", "東京大学医学部附属病院循環器内科心不全外来研究部門 {}"), {}),
    ],
    ids=["short name", "long name", "seven models", "capitals", "asian"],
)
def test_nothing_leaves_the_page_or_overlaps(summary, ceilings):
    figure = forest_figure(summary, confidence=0.95, title="LVSD", ceilings=ceilings)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    page = figure.bbox
    (legend,) = figure.legends
    boxes = [text.get_window_extent(renderer) for text in [*figure.axes[0].texts, *figure.texts]]
    boxes.append(legend.get_window_extent(renderer))
    for box in boxes:
        assert page.x0 <= box.x0
        assert box.x1 <= page.x1
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])


def test_nothing_estimable_is_still_a_figure():
    only = SUMMARY[SUMMARY["institution"] == "east"]
    figure = forest_figure(only, confidence=0.95, title="LVSD")
    assert texts(figure).count("not estimable") == 2
    assert not drawn(figure.axes[0], "estimate")


POOLED = pd.DataFrame(
    [("mae", 3, 0.91, 0.88, 0.93, 0.60, 0.97), ("cnn", 2, 0.80, 0.77, 0.83, np.nan, np.nan)],
    columns=[
        "model", "institutions", "auroc", "auroc_low", "auroc_high", "predicted_low",
        "predicted_high",
    ],
)  # fmt: skip


def test_diamonds_and_prediction_intervals():
    figure = forest_figure(SUMMARY, confidence=0.95, title="LVSD", pooled=POOLED)
    (axes,) = figure.axes
    diamonds = [patch.get_xy() for patch in axes.patches if patch.get_gid() == "diamond"]
    assert [(d[:, 0].min(), d[:, 0].max()) for d in diamonds] == [(0.88, 0.93), (0.77, 0.83)]
    (prediction,) = drawn(axes, "prediction")
    assert list(prediction.get_xdata()) == [0.60, 0.97]
    assert axes.get_xlim()[0] <= 0.60
    words = texts(figure)
    assert {"0.910 (0.880-0.930)", "0.600-0.970", "3 institutions", "2 institutions"} <= set(words)
    # a new hospital's interval takes three institutions
    assert words.count("not estimable") == 3


def test_nothing_of_the_meta_analysis_overlaps():
    figure = forest_figure(seven_models(), confidence=0.95, title="PH", pooled=POOLED.replace(
        {"mae": "ph_ecg", "cnn": "best_submodel"}))  # fmt: skip
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    boxes = [text.get_window_extent(renderer) for text in figure.axes[0].texts]
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])
