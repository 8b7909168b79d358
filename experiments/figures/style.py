"""One look for every figure: size in millimetres, fonts, and how a model is told from another."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, get_font_names
from matplotlib.lines import Line2D

from experiments.evaluation.predictions import DEVELOPMENT, EXTERNAL, POOLED

Line = str | tuple[float, tuple[float, ...]]  # one of matplotlib's line styles

MM = 1 / 25.4  # inches
DPI = 200
INK = "#1a1a1a"
FAINT = "#767676"
RULE = "#d0d0d0"

# DejaVu Sans comes with matplotlib, so figures look the same on every machine; for the scripts that
# it lacks, one of these where it is installed.
_ASIAN = (
    "Noto Sans CJK JP", "Noto Sans JP", "IPAexGothic", "Hiragino Sans", "Yu Gothic", "MS Gothic",
    "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK KR", "Malgun Gothic",
)  # fmt: skip
_INSTALLED = set(get_font_names())
FONTS = ["DejaVu Sans", *[name for name in _ASIAN if name in _INSTALLED]]
STYLE: dict[Any, Any] = {
    "font.family": FONTS,
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.0,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "text.parse_math": False,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
}

ROLES = {
    DEVELOPMENT: "Internal test",
    EXTERNAL: "External validation",
    POOLED: "All external exams together",
}

# Okabe and Ito's colours, safe for the colour-blind, in an order whose greys differ too.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LINES: tuple[Line, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1, 1)),
    (0, (5, 1, 1, 1)),
    (0, (3, 1)),
    (0, (2, 2)),
    (0, (7, 2)),
)


class ModelStyle(NamedTuple):
    """How one model is drawn; a marker and a line of its own, so that grey print tells it too."""

    colour: str
    marker: str
    line: Line


def model_styles(models: Iterable[str]) -> dict[str, ModelStyle]:
    """A style a model, by order of first appearance; no two of 49 models share two of its parts."""
    looks = {}
    for number, model in enumerate(dict.fromkeys(models)):
        again, place = divmod(number, len(_COLOURS))
        marker = _MARKERS[(place + again) % len(_MARKERS)]
        line = _LINES[(place + 2 * again) % len(_LINES)]
        looks[model] = ModelStyle(_COLOURS[place], marker, line)
    return looks


def shortened(text: str, most: int) -> str:
    """`text` in `most` characters, what lies between its beginning and its end left out."""
    if len(text) <= most:
        return text
    end = (most - 1) // 2
    return f"{text[: most - 1 - end]}…{text[len(text) - end :]}"


def text_width(text: str, size: float = 8.0, weight: str = "normal") -> float:
    """How wide a text is drawn, in millimetres."""
    figure = new_figure(10, 10)
    font = FontProperties(family=FONTS, size=size, weight=weight)
    drawn = figure.text(0, 0, text, fontproperties=font, parse_math=False)
    canvas: Any = FigureCanvasAgg(figure)  # matplotlib leaves its method without types
    return drawn.get_window_extent(canvas.get_renderer()).width / DPI / MM


def widest(texts: Iterable[str], size: float = 8.0) -> float:
    """The width of the widest text, in millimetres; 0 without texts."""
    return max((text_width(text, size) for text in set(texts)), default=0.0)


def fitted(text: str, width: float, size: float = 8.0, weight: str = "normal") -> str:
    """`text`, shortened where it is wider than `width` millimetres."""
    lengths = range(len(text), 1, -1)
    short = (shortened(text, most) for most in lengths)
    return next((s for s in short if text_width(s, size, weight) <= width), text[:1])


def legend_columns(labels: Sequence[str], width: float, mark: float) -> int:
    """How many columns of a legend fit in `width` millimetres, with `mark` beside each text."""
    widths = [text_width(label, STYLE["legend.fontsize"]) + mark for label in labels]
    for columns in range(len(labels), 1, -1):
        if sum(max(column) for column in np.array_split(widths, columns)) <= width:
            return columns
    return 1


def look() -> AbstractContextManager[None]:
    """The style as a context: what is made inside it has it, and nothing outside changes."""
    return matplotlib.rc_context(STYLE)


def new_figure(width_mm: float, height_mm: float, dpi: float = DPI) -> Figure:
    """An empty white figure, independent of pyplot."""
    return Figure(figsize=(width_mm * MM, height_mm * MM), dpi=dpi, facecolor="white")


def axes_mm(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes whose position and size are given in millimetres from the figure's lower left corner."""
    total_width, total_height = figure.get_size_inches() / MM
    return figure.add_axes(
        (left / total_width, bottom / total_height, width / total_width, height / total_height)
    )


def show_ticks(axes: Axes, size: float = 7.0) -> None:
    """Ticks in the style; matplotlib makes them when it draws, outside the style's context."""
    axes.tick_params(labelsize=size, labelfontfamily=FONTS, width=0.6, length=2.5, labelcolor=INK)


def beside(plot: float, axes: Axes, mm: float, y: float, text: str, **options: Any) -> None:
    """Text `mm` right of the left edge of axes `plot` mm wide, at the data's height `y`."""
    across = axes.get_yaxis_transform()
    axes.text(mm / plot, y, text, va="center", transform=across, **options)


def rule(plot: float, axes: Axes, start: float, end: float, y: float) -> None:
    """A line from `start` to `end` mm right of the left edge, as `beside`."""
    axes.plot([start / plot, end / plot], [y, y], color=INK, linewidth=0.6, clip_on=False,
              transform=axes.get_yaxis_transform())  # fmt: skip


def legend_of_models(
    figure: Figure, styles: Mapping[str, ModelStyle], columns: int, *others: Line2D
) -> None:
    """Below the title an entry a model, and then the others."""
    width, height = figure.get_size_inches() / MM
    models = [
        Line2D([], [], color=look.colour, marker=look.marker, markersize=5, label=model)
        for model, look in styles.items()
    ]
    figure.legend(handles=[*models, *others], loc="upper left", ncols=columns, columnspacing=1.6,
                  bbox_to_anchor=(2 / width, 1 - 8.5 / height), handlelength=1.8)  # fmt: skip
