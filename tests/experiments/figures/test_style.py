"""The shared look."""

import io
from itertools import pairwise

import matplotlib
import pytest
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
    many = style.model_styles(str(number) for number in range(40))
    assert len(many) == len(set(many.values())) == 40


def test_long_names_keep_beginning_and_end():
    assert style.shortened("asahi", 5) == "asahi"
    names = {style.shortened(f"Hospital of the Northern City {n}", 20) for n in (1, 10)}
    assert names == {"Hospital o…rn City 1", "Hospital o…n City 10"}


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
