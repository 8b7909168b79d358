"""Square panels of one size, beside and above each other."""

import math
from collections.abc import Sequence
from typing import Any, cast

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.figures import style

# mm
PANEL = 50.0
_GAP = 15.0  # between panels beside each other, for tick labels
_STEP = 19.0  # between panels above each other, for tick labels and titles
_LEFT = 17.0
_RIGHT = 5.0
_BOTTOM = 12.0
_TOP = 22.0
_LEGEND = 4.2  # a row of it, below the title
_LEGEND_GAP = 2.0  # between it and the panels
_COLUMNS = 3
_MARK = 14.0  # of an entry of the legend, beside its text
_MARGIN = 4.0  # of the title and the legend
_TITLE_SIZE = 10.0  # points


def panels(
    titles: Sequence[str],
    title: str,
    *,
    xlabel: str,
    ylabel: str,
    legend: Sequence[Line2D] = (),
) -> tuple[Figure, list[Axes]]:
    """A figure with a panel a title, three in a row, under `title` and a common `legend`.

    Only the lowest panels of each column say what x is, and only the first of each row what y is.
    """
    columns = min(_COLUMNS, max(len(titles), 1))
    rows = math.ceil(len(titles) / columns)
    labels = [str(line.get_label()) for line in legend]
    width = max(
        _LEFT + columns * (PANEL + _GAP) - _GAP + _RIGHT,
        style.text_width(title, _TITLE_SIZE, "bold") + 2 * _MARGIN,
        style.widest(labels, style.STYLE["legend.fontsize"]) + _MARK + _MARGIN,
        90.0,
    )
    legend_columns = style.legend_columns(labels, width - _MARGIN, _MARK)
    top = _TOP
    if legend:
        top += math.ceil(len(legend) / legend_columns) * _LEGEND + _LEGEND_GAP
    height = top + rows * (PANEL + _STEP) - _STEP + _BOTTOM
    figure = style.new_figure(width, height)
    figure.text(
        _MARGIN / width, 1 - 6 / height, title, size=_TITLE_SIZE, weight="bold", va="center"
    )
    if legend:
        figure.legend(
            handles=legend, loc="upper left", bbox_to_anchor=(2 / width, 1 - 9.5 / height),
            ncols=legend_columns, columnspacing=1.6, handlelength=2.6,
        )  # fmt: skip
    room = (width - _LEFT if columns == 1 else PANEL + _RIGHT) - 1
    size, weight = style.STYLE["axes.titlesize"], style.STYLE["axes.titleweight"]
    drawn = []
    for number, name in enumerate(titles):
        row, column = divmod(number, columns)
        bottom = height - top - row * (PANEL + _STEP) - PANEL
        axes = style.axes_mm(figure, _LEFT + column * (PANEL + _GAP), bottom, PANEL, PANEL)
        axes.set_title(style.fitted(name, room, size, weight), pad=14)
        below = number + columns >= len(titles)
        axes.set(xlabel=xlabel if below else "", ylabel=ylabel if column == 0 else "")
        drawn.append(axes)
    return figure, drawn


def entry(label: str, colour: str, line: style.Line = "-", marker: str = "") -> Line2D:
    """An entry of the common legend."""
    drawn = Line2D([], [], color=colour, marker=marker, markersize=4.5, linewidth=1.2, label=label)
    drawn.set_linestyle(cast(Any, line))  # its annotation lacks some of the styles
    return drawn


def note(axes: Axes, text: str) -> None:
    """A line between a panel and its title."""
    axes.text(0, 1.025, text, size=7, color=style.FAINT, transform=axes.transAxes, va="bottom")


def unit_axis(axes: Axes) -> None:
    """Both axes from 0 to 1."""
    ticks = [0, 0.25, 0.5, 0.75, 1]
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=ticks, yticks=ticks)
    axes.set_xticklabels(["0", "", "0.5", "", "1"])
    axes.set_yticklabels(["0", "", "0.5", "", "1"])
    style.show_ticks(axes)
