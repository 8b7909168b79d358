"""Subsets of modalities: every estimate on the line whose dots say what was given."""

from itertools import chain

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from experiments.figures.subsets import subsets_figure

MODALITIES = {
    "fusion": ("ECG", "CXR", "BNP"),
    "fusion_ecg": ("ECG",),
    "fusion_cxr": ("CXR",),
    "fusion_bnp": ("BNP",),
    "fusion_ecg_bnp": ("ECG", "BNP"),
    "fusion_ecg_cxr": ("ECG", "CXR"),
    "fusion_cxr_bnp": ("CXR", "BNP"),
}
EXTERNAL = ["north", "south", "east", "west"]
SETTINGS = {"confidence": 0.95, "title": "PH"}


@pytest.fixture(scope="module")
def summary():
    """Each model at `home`, four external institutions (`east` has no case), and all of these."""
    generator = np.random.default_rng(0)
    rows = []
    for model in ["ph_ecg", *MODALITIES]:
        for institution, role, n in (
            ("home", "development", 80),
            *((name, "external", 100) for name in EXTERNAL),
            ("all-external", "pooled", 400),
        ):
            value = generator.uniform(0.7, 0.9) if institution != "east" else np.nan
            rows.append((model, institution, role, n, n // 5, value, value - 0.05, value + 0.05))
    columns = ["model", "institution", "role", "n", "positives", "auroc", "auroc_low", "auroc_high"]
    return pd.DataFrame(rows, columns=columns)


@pytest.fixture(scope="module")
def figure(summary):
    return subsets_figure(summary, MODALITIES, **SETTINGS)


def lines(axes, start):
    """Model -> line, of those whose gid starts so."""
    found = {str(line.get_gid()): line for line in axes.get_lines()}
    return {gid.removeprefix(start): line for gid, line in found.items() if gid.startswith(start)}


def panels(figure):
    return {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_title(loc="left")}


def test_points_are_the_summarys_and_stand_on_their_line(figure, summary):
    drawn = panels(figure)
    assert list(drawn) == ["All external exams together", *EXTERNAL]
    for title, axes in drawn.items():
        institution = "all-external" if title.startswith("All") else title
        rows = summary[summary["institution"] == institution].set_index("model")
        points = lines(axes, "estimate-")
        words = [text.get_text() for text in axes.texts]
        if institution == "east":
            assert not points
            assert words.count("not estimable") == 7
            continue
        assert set(points) == set(MODALITIES)
        for model, point in points.items():
            assert point.get_xdata()[0] == rows.at[model, "auroc"]
        intervals = {tuple(x.get_xdata()) for x in axes.get_lines() if x.get_gid() == "interval"}
        expected = rows.loc[list(MODALITIES), ["auroc_low", "auroc_high"]]
        assert intervals == set(expected.itertuples(index=False, name=None))
        assert f"{rows['positives'].iloc[0]} positive of {rows['n'].iloc[0]} exams" in words


def test_filled_dots_are_what_the_model_on_that_line_was_given(figure):
    names = ["ECG", "CXR", "BNP"]
    matrices = [axes for axes in figure.axes if lines(axes, "given-")]
    assert len(matrices) == 3  # of the large panel, and of two rows of small ones
    assert {text.get_text() for text in matrices[0].texts} == set(names)
    places = {text.get_text(): text.get_position()[0] for text in matrices[0].texts}
    points = lines(panels(figure)["All external exams together"], "estimate-")
    for matrix in matrices:
        for model, dots in lines(matrix, "given-").items():
            assert set(dots.get_xdata()) == {places[name] for name in MODALITIES[model]}
            assert set(dots.get_ydata()) == {points[model].get_ydata()[0]}
    heights = [(len(MODALITIES[model]), line.get_ydata()[0]) for model, line in points.items()]
    assert sorted(heights) == sorted(heights, key=lambda pair: pair[1])


def test_the_number_stands_on_its_line(figure, summary):
    axes = panels(figure)["All external exams together"]
    row = summary[(summary["model"] == "fusion") & (summary["role"] == "pooled")].iloc[0]
    said = f"{row['auroc']:.3f} ({row['auroc_low']:.3f}-{row['auroc_high']:.3f})"
    text = next(text for text in axes.texts if text.get_text() == said)
    assert text.get_position()[1] == lines(axes, "estimate-")["fusion"].get_ydata()[0]


def test_one_external_institution_has_the_large_panel(summary):
    figure = subsets_figure(
        summary[summary["institution"].isin(["home", "south"])], MODALITIES, **SETTINGS
    )
    assert list(panels(figure)) == ["south"]
    with pytest.raises(ValueError, match="external"):
        subsets_figure(summary[summary["role"] == "development"], MODALITIES, **SETTINGS)


def test_nothing_leaves_the_page_or_overlaps(figure):
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    texts = [*figure.texts, *chain.from_iterable(axes.texts for axes in figure.axes)]
    texts += [axes.xaxis.label for axes in figure.axes if axes.get_xlabel()]
    texts += [axes._left_title for axes in panels(figure).values()]
    boxes = [text.get_window_extent(renderer) for text in texts]
    page = figure.bbox
    for number, box in enumerate(boxes):
        assert page.x0 <= box.x0
        assert box.x1 <= page.x1
        assert page.y0 <= box.y0
        assert box.y1 <= page.y1
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])
