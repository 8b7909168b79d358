"""A fusion with every subset of its modalities: what each of them adds, and whether it travels."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.evaluation.auroc import NOT_ESTIMABLE
from experiments.evaluation.predictions import ALL_EXTERNAL, DEVELOPMENT, POOLED
from experiments.evaluation.summary import estimate_text
from experiments.figures import style
from experiments.figures.forest import axis_limits

# mm
_LINE = 6.0  # a subset in the large panel
_SMALL_LINE = 3.8  # and in a small one
_DOTS = 10.0  # a modality's column
_LEFT = 6.0
_GAP = 7.0  # between what stands beside each other
_PLOT = 84.0
_NUMBERS = 40.0
_TOP = 30.0  # title, key, and heads of the large panel
_AXIS = 12.0  # tick labels and the axis's name
_TICKS = 5.0  # tick labels alone
_HEAD = 14.0  # a small panel's
_COLUMNS = 3

_SPACE = 0.6  # lines between subsets of different size
_ABSENT = "#dddddd"
_ON_WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
_KEY = "Filled: what the fusion was given. Dashed: its AUROC with all of them."


def subsets_figure(
    summary: pd.DataFrame,
    modalities: Mapping[str, Sequence[str]],
    *,
    confidence: float,
    title: str,
) -> Figure:
    """AUROC of a fusion that is given only some of its modalities: a line a subset of them.

    `summary` is the table of `summarise`; `modalities` says what each model to be drawn was given,
    its filled dots. The large panel shows all external exams together, a small one each external
    institution; where there is one only, it has the large panel. The dashed line is the AUROC with
    the most modalities. ValueError where none of the models has external exams.
    """
    external = summary[summary["model"].isin(modalities) & (summary["role"] != DEVELOPMENT)]
    if external.empty:
        raise ValueError("none of these models has external exams, which the figure shows")
    panels = {str(name): rows for name, rows in external.groupby("institution", sort=False)}
    large = ALL_EXTERNAL if ALL_EXTERNAL in panels else next(iter(panels))
    small = [institution for institution in panels if institution != large]
    lines = _lines(modalities)
    content = max(lines.values()) + 0.5
    names = list(dict.fromkeys(name for model in lines for name in modalities[model]))
    dots_width = len(names) * max(_DOTS, style.widest(names) + 2)

    panel_rows = math.ceil(len(small) / _COLUMNS)
    plots = _LEFT + dots_width + _GAP
    width = plots + _PLOT + _NUMBERS
    small_width = (width - plots - (_COLUMNS - 1) * _GAP - _LEFT) / _COLUMNS
    tall = content * _SMALL_LINE
    step = _HEAD + tall + _TICKS
    height = _TOP + content * _LINE + _AXIS + panel_rows * step + (_AXIS - _TICKS)
    with style.look():
        figure = style.new_figure(width, height)
        figure.text(4 / width, 1 - 6 / height, title, size=10, weight="bold", va="center")
        figure.text(4 / width, 1 - 11.5 / height, _KEY, size=7, color=style.FAINT, va="center")

        bottom = height - _TOP - content * _LINE
        dots = style.axes_mm(figure, _LEFT, bottom, dots_width, content * _LINE)
        _draw_dots(dots, lines, modalities, names, 5.6)
        for column, name in enumerate(names):
            dots.text(column, -0.3, name, ha="center", va="bottom", weight="bold")
        axes = style.axes_mm(figure, plots, bottom, _PLOT, content * _LINE)
        heading = style.ROLES[POOLED] if large == ALL_EXTERNAL else large
        _draw_panel(axes, panels[large], lines, heading, axis_limits(panels[large]), 6.0)
        axes.set_xlabel("AUROC")
        axes.text(1 + 6 / _PLOT, -0.3, f"AUROC ({100 * confidence:g} % interval)", size=7,
                  color=style.FAINT, va="bottom", transform=axes.get_yaxis_transform())  # fmt: skip
        for _, estimate in panels[large].dropna(subset="auroc").iterrows():
            axes.text(1 + 6 / _PLOT, lines[estimate["model"]], estimate_text(estimate),
                      va="center", transform=axes.get_yaxis_transform())  # fmt: skip

        limits = axis_limits(external[external["institution"].isin(small)])
        for number, institution in enumerate(small):
            row, column = divmod(number, _COLUMNS)
            bottom = _AXIS + (panel_rows - 1 - row) * step
            if column == 0:
                dots = style.axes_mm(figure, _LEFT, bottom, dots_width, tall)
                _draw_dots(dots, lines, modalities, names, 3.6)
            left = plots + column * (small_width + _GAP)
            axes = style.axes_mm(figure, left, bottom, small_width, tall)
            _draw_panel(axes, panels[institution], lines, institution, limits, 4.0)
            if number + _COLUMNS >= len(small):
                axes.set_xlabel("AUROC")
    return figure


def _lines(modalities: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Each model's height in lines from the top, those with the fewest modalities first."""
    lines: dict[str, float] = {}
    y, size = 0.5, 0
    for model in sorted(modalities, key=lambda model: len(modalities[model])):
        if lines:
            y += 1 + (_SPACE if len(modalities[model]) > size else 0)
        lines[model], size = y, len(modalities[model])
    return lines


def _draw_dots(
    axes: Axes,
    lines: Mapping[str, float],
    modalities: Mapping[str, Sequence[str]],
    names: Sequence[str],
    size: float,
) -> None:
    """Which modalities each line was given."""
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(max(lines.values()) + 0.5, 0))
    axes.axis("off")
    for model, y in lines.items():
        given = [column for column, name in enumerate(names) if name in modalities[model]]
        absent = [column for column in range(len(names)) if column not in given]
        axes.plot(absent, [y] * len(absent), "o", color=_ABSENT, markersize=size, clip_on=False,
                  zorder=3)  # fmt: skip
        axes.plot(given, [y] * len(given), "o-", color=style.INK, markersize=size, clip_on=False,
                  linewidth=size / 4, gid=f"given-{model}")  # fmt: skip


def _draw_panel(
    axes: Axes,
    rows: pd.DataFrame,
    lines: Mapping[str, float],
    heading: str,
    limits: tuple[float, float],
    size: float,
) -> None:
    """One institution's estimates, and how many exams they are from."""
    axes.set(xlim=limits, ylim=(max(lines.values()) + 0.5, 0), yticks=[])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=style.RULE, linewidth=0.5)
    axes.set_axisbelow(True)
    style.show_ticks(axes)
    for one, other in pairwise(lines.values()):
        if other - one > 1:
            axes.axhline((one + other) / 2, color=style.RULE, linewidth=0.5)
    n, positives = max(zip(rows["n"], rows["positives"], strict=True))
    axes.set_title(heading, pad=14)
    axes.annotate(f"{positives} positive of {n} exams", (0, 1), (0, 3), size=7, color=style.FAINT,
                  va="bottom", xycoords="axes fraction", textcoords="offset points")  # fmt: skip
    reference = rows.set_index("model")["auroc"].get(list(lines)[-1])
    if pd.notna(reference):
        axes.axvline(reference, color=style.FAINT, linewidth=0.8, linestyle=(0, (4, 2)))
    (look,) = style.model_styles(["fusion"]).values()
    for _, row in rows.iterrows():
        y = lines[row["model"]]
        if pd.isna(row["auroc"]):
            axes.text(0.03, y, NOT_ESTIMABLE, size=7, color=style.FAINT, va="center",
                      transform=axes.get_yaxis_transform(), bbox=_ON_WHITE)  # fmt: skip
            continue
        axes.plot([row["auroc_low"], row["auroc_high"]], [y, y], color=look.colour,
                  linewidth=size / 4, gid="interval")  # fmt: skip
        axes.plot(row["auroc"], y, "o", color=look.colour, markersize=size, markeredgecolor="white",
                  markeredgewidth=0.5, clip_on=False, gid=f"estimate-{row['model']}")  # fmt: skip
