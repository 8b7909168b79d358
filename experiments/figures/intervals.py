"""Statistics with their intervals as lines of a table: blocks of groups, a line a model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.evaluation.auroc import NOT_ESTIMABLE
from experiments.figures import style

# mm
_LINE = 4.4
_SPACE = 2.2  # between groups
_HEADING = 6.2  # of a block
_PLOT = 50.0
_NUMBERS = 36.0  # right of each plot
_NAMES = 34.0  # left of the plots, at least
_COUNTS = 23.0  # beside the first plot, at least
_TOP = 24.0
_BOTTOM = 11.0
_LEGEND_ROW = 4.6
_LEGEND_MARK = 14.0

_beside = partial(style.beside, _PLOT)
_rule = partial(style.rule, _PLOT)


@dataclass(frozen=True)
class Statistic:
    """A column to draw, with `column`_low and `column`_high; `ideal` is a vertical line.

    A ratio is drawn on a logarithmic axis. Numbers have so many `digits`.
    """

    column: str
    label: str
    ideal: float | None = None
    ratio: bool = False
    digits: int = 2


def intervals_figure(
    table: pd.DataFrame, statistics: Sequence[Statistic], *, confidence: float, title: str
) -> Figure:
    """A line a row of `table` (block, group, model, n, positives if there are classes,
    and the statistics' columns).

    Rows of one block and group stand together, groups of one block under its name. What is not
    estimable is said in words, and has no point. An interval that leaves the axis ends in an arrow.
    """
    styles = style.model_styles(table["model"])
    blocks = list(table.groupby("block", sort=False))
    groups = table.groupby(["block", "group"], sort=False).ngroups
    names = max(style.widest(table["group"].astype(str)) + 10, _NAMES)
    left = names + max(style.widest(_counts(row) for _, row in table.iterrows()), _COUNTS) + 4
    content = len(table) * _LINE + groups * _SPACE + len(blocks) * _HEADING
    width = left + len(statistics) * (_PLOT + _NUMBERS)
    legend_columns = style.legend_columns(list(styles), width - 4, _LEGEND_MARK)
    rows = math.ceil(len(styles) / legend_columns)
    height = _TOP + (rows - 1) * _LEGEND_ROW + content + _BOTTOM
    with style.look():
        figure = style.new_figure(width, height)
        drawn = []
        for number, statistic in enumerate(statistics):
            start = left + number * (_PLOT + _NUMBERS)
            axes = style.axes_mm(figure, start, _BOTTOM, _PLOT, content)
            _prepare(axes, table, statistic, content)
            _beside(axes, _PLOT + 4, -2.2, f"{100 * confidence:g} % interval", size=7,
                    color=style.FAINT)  # fmt: skip
            drawn.append(axes)
        first = drawn[0]
        y = 0.0
        for block, of_block in blocks:
            _rule(first, 3 - left, width - left - 3, y)
            _beside(first, 4 - left, y + 0.55 * _HEADING, str(block), weight="bold")
            if y == 0:
                head = "Positive / exams" if "positives" in table else "Exams"
                _beside(first, -4, -2.2, head, ha="right", size=7, color=style.FAINT)
            y += _HEADING
            for group, of_group in of_block.groupby("group", sort=False):
                middle = y + len(of_group) * _LINE / 2
                _beside(first, 6 - left, middle, str(group))
                counts = {_counts(row) for _, row in of_group.iterrows()}
                if len(counts) == 1:
                    _beside(first, -4, middle, counts.pop(), ha="right")
                for number, (_, row) in enumerate(of_group.iterrows()):
                    at = y + (number + 0.5) * _LINE
                    if counts:
                        _beside(first, -4, at, _counts(row), ha="right")
                    for axes, statistic in zip(drawn, statistics, strict=True):
                        _draw(axes, row, statistic, styles[row["model"]], at)
                y += len(of_group) * _LINE + _SPACE
        figure.text(4 / width, 1 - 5 / height, title, size=10, weight="bold", va="center")
        style.legend_of_models(figure, styles, legend_columns)
    return figure


def _counts(row: pd.Series) -> str:
    return f"{row['positives']:,} / {row['n']:,}" if "positives" in row else f"{row['n']:,}"


def _prepare(axes: Axes, table: pd.DataFrame, statistic: Statistic, content: float) -> None:
    if statistic.ratio:
        axes.set_xscale("log")
    axes.set(ylim=(content, 0), yticks=[], xlabel=statistic.label)
    axes.set_xlim(_limits(table, statistic))
    if statistic.ratio:
        low, high = axes.get_xlim()
        ticks = [t for t in (0.1, 0.25, 0.5, 1, 2, 4, 10) if low <= t <= high]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=style.RULE, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.patch.set_visible(False)  # rules of the first plot go on behind the others
    style.show_ticks(axes)
    if statistic.ideal is not None:
        axes.axvline(statistic.ideal, color=style.FAINT, linewidth=0.9, linestyle=(0, (4, 2)))


def _limits(table: pd.DataFrame, statistic: Statistic) -> tuple[float, float]:
    """Around all intervals; of ratios no further than to a fifth and to five."""
    names = [statistic.column, f"{statistic.column}_low", f"{statistic.column}_high"]
    values = table[names].to_numpy(dtype=float)
    values = values[np.isfinite(values).all(axis=1)]
    if not len(values):
        return (0.5, 2.0) if statistic.ratio else (0.0, 1.0)
    low, high = float(values.min()), float(values.max())
    if statistic.ideal is not None:
        low, high = min(low, statistic.ideal), max(high, statistic.ideal)
    if statistic.ratio:
        return max(low, 0.2) * 0.9, min(high, 5.0) * 1.1
    return math.floor(low * 20) / 20, math.ceil(high * 20) / 20


def _draw(
    axes: Axes, row: pd.Series, statistic: Statistic, look: style.ModelStyle, y: float
) -> None:
    value, low, high = (row[statistic.column + end] for end in ("", "_low", "_high"))
    text, colour = NOT_ESTIMABLE, style.FAINT
    if np.isfinite(value):
        digits = statistic.digits
        text, colour = f"{value:z.{digits}f}", style.INK
        left, right = axes.get_xlim()
        if np.isfinite([low, high]).all():
            text += f" ({low:z.{digits}f} to {high:z.{digits}f})"
            axes.plot([max(low, left), min(high, right)], [y, y], color=look.colour,
                      linewidth=1.3, gid="interval", zorder=3)  # fmt: skip
            for beyond, end, mark in ((low < left, left, "<"), (high > right, right, ">")):
                if beyond:
                    axes.plot(end, y, mark, color=look.colour, markersize=3.5, clip_on=False)
        if left <= value <= right:
            axes.plot(value, y, look.marker, color=look.colour, markersize=4.6,
                      markeredgecolor="white", markeredgewidth=0.5, gid="estimate", zorder=4,
                      clip_on=False)  # fmt: skip
    _beside(axes, _PLOT + 4, y, text, size=7, color=colour)
