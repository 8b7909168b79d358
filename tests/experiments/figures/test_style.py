"""The shared look."""

import io
from itertools import combinations, pairwise

import matplotlib
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.font_manager import findfont

from experiments.figures import style


def test_models_keep_their_look_and_differ_without_colour():
    looks = style.model_styles(["mae", "cnn", "mae", "vit"])
    assert list(looks) == ["mae", "cnn", "vit"]
    assert len({look.marker for look in looks.values()}) == 3
    assert len({look.line for look in looks.values()}) == 3
    greys = sorted(
        0.299 * r + 0.587 * g + 0.114 * b for r, g, b in (to_rgb(x.colour) for x in looks.values())
    )
    assert min(b - a for a, b in pairwise(greys)) > 0.05


def test_no_two_of_many_models_share_two_parts_of_their_look():
    many = style.model_styles(str(number) for number in range(49)).values()
    for parts in combinations(range(3), 2):
        assert len({tuple(look[part] for part in parts) for look in many}) == 49


def test_long_names_keep_beginning_and_end():
    assert style.shortened("asahi", 5) == "asahi"
    names = {style.shortened(f"Hospital of the Northern City {n}", 20) for n in (1, 10)}
    assert names == {"Hospital o…rn City 1", "Hospital o…n City 10"}


@pytest.mark.parametrize("name", ["WWW MMMM", "hospital of the city", "llll"])
def test_the_width_of_a_text_is_as_drawn(name):
    figure = style.new_figure(100, 20)
    with style.look():
        text = figure.text(0, 0, name, size=8.5, weight="bold")
    drawn = text.get_window_extent(FigureCanvasAgg(figure).get_renderer()).width
    width = style.text_width(name, 8.5, "bold")
    assert width == pytest.approx(drawn / style.DPI / style.MM)
    assert style.fitted(name, width, 8.5, "bold") == name
    short = style.fitted(name, 0.7 * width, 8.5, "bold")
    assert (short[0], short[-1]) == (name[0], name[-1])
    assert style.text_width(short, 8.5, "bold") <= 0.7 * width


def test_nothing_global_changes():
    before = dict(matplotlib.rcParams)
    with style.look():
        assert matplotlib.rcParams["font.size"] == style.STYLE["font.size"]
    assert dict(matplotlib.rcParams) == before


def test_the_font_comes_with_matplotlib():
    path = findfont(style.FONTS[0], fallback_to_default=False)
    assert path.startswith(matplotlib.get_data_path())


@pytest.mark.skipif(len(style.FONTS) == 1, reason="no font with Japanese letters is installed")
def test_japanese_names_are_drawn(recwarn):
    with style.look():
        figure = style.new_figure(60, 30)
        figure.text(0.1, 0.5, "東京大学医学部附属病院")
        figure.add_axes((0.5, 0.5, 0.4, 0.4)).set_xticks([0.5], ["旭中央病院"])
        style.show_ticks(figure.axes[0])
        figure.savefig(io.BytesIO(), format="svg")
        figure.savefig(io.BytesIO(), format="png")
    assert not [str(w.message) for w in recwarn if "missing from font" in str(w.message)]


def test_millimetres():
    figure = style.new_figure(254, 127)
    assert tuple(figure.get_size_inches()) == (10, 5)
    box = style.axes_mm(figure, 25.4, 12.7, 127, 63.5).get_position()
    assert box.bounds == pytest.approx((0.1, 0.1, 0.5, 0.5))
