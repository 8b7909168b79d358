"""Forest plot: every institution's AUROC with its interval, a line a model."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.evaluation.summary import estimate_text
from experiments.figures import style

# mm
_LINE = 4.6  # a model
_SPACE = 2.4  # between institutions
_HEADING = 6.2
_PLOT = 90.0
_COUNTS = 27.0  # left of the plot
_NUMBERS = 42.0  # right of it
_LETTER = 1.6  # of an institution's name, at most
_TOP = 22.0  # title, legend and column heads
_BOTTOM = 11.0

_HEADINGS = {
    "development": "Internal test",
    "external": "External validation",
    "pooled": "All external exams together",
}


def forest_figure(
    summary: pd.DataFrame,
    *,
    confidence: float,
    title: str,
    ceiling: Mapping[str, float] | None = None,
) -> Figure:
    """Institutions x models from the table of `summarise`: points, intervals, counts and numbers.

    Development institutions stand first, then external ones, then the pooled rows, set off.
    `ceiling` (institution -> best possible AUROC, known in a simulation) is a vertical tick across
    an institution's lines. What is not estimable is said in words, and has no point.
    """
    ceiling = ceiling or {}
    styles = style.model_styles(summary["model"])
    longest = max((len(name) for name in summary["institution"]), default=0)
    left = max(longest * _LETTER, 30.0) + _COUNTS + 4
    blocks = summary.groupby(["role", "institution"], sort=False)
    roles = [role for role in _HEADINGS if role in set(summary["role"])]
    content = len(summary) * _LINE + blocks.ngroups * _SPACE + len(roles) * _HEADING
    width, height = left + _PLOT + _NUMBERS, _TOP + content + _BOTTOM

    with style.look():
        figure = style.new_figure(width, height)
        axes = style.axes_mm(figure, left, _BOTTOM, _PLOT, content)
        axes.set(ylim=(content, 0), xlim=_limits(summary, ceiling), yticks=[], xlabel="AUROC")
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=style.RULE, linewidth=0.5, clip_on=False)
        axes.set_axisbelow(True)
        style.show_ticks(axes)
        if axes.get_xlim()[0] < 0.5:
            axes.axvline(0.5, color=style.FAINT, linewidth=0.8)

        heads = {
            4 - left: ("Institution", "left"),
            -4.0: ("Positive / exams", "right"),
            _PLOT + 6: (f"AUROC ({100 * confidence:g} % interval)", "left"),
        }
        for mm, (text, side) in heads.items():
            _beside(axes, mm, -2.2, text, ha=side, size=7, color=style.FAINT)
        y = 0.0
        for role in roles:
            _rule(axes, left, y)
            _beside(axes, 4 - left, y + 0.55 * _HEADING, _HEADINGS[role], ha="left", weight="bold")
            y += _HEADING
            for institution, rows in summary[summary["role"] == role].groupby(
                "institution", sort=False
            ):
                _block(axes, y, rows, styles, ceiling.get(str(institution)))
                middle = y + len(rows) * _LINE / 2
                _beside(axes, 6 - left, middle, str(institution), ha="left")
                y += len(rows) * _LINE + _SPACE

        figure.text(4 / width, 1 - 5 / height, title, size=10, weight="bold", va="center")
        handles = [
            Line2D(
                [], [], color=s.colour, marker=s.marker, linestyle="-", markersize=5, label=model
            )
            for model, s in styles.items()
        ]
        if ceiling:
            handles.append(
                Line2D([], [], color=style.INK, linewidth=0, marker="|", markersize=9,
                       markeredgewidth=1.4, label="best possible (known in a simulation)")
            )  # fmt: skip
        figure.legend(
            handles=handles,
            loc="center left",
            bbox_to_anchor=(2 / width, 1 - 11.5 / height),
            ncols=len(handles),
            columnspacing=1.6,
            handlelength=1.8,
        )
    return figure


def _block(
    axes: Axes,
    top: float,
    rows: pd.DataFrame,
    styles: Mapping[str, style.ModelStyle],
    ceiling: float | None,
) -> None:
    """One institution's lines, the first at `top`."""
    counts = [f"{row.positives} / {row.n}" for row in rows.itertuples()]
    same = len(set(counts)) == 1
    if same:
        _beside(axes, -4, top + len(rows) * _LINE / 2, counts[0], ha="right")
    if ceiling is not None:
        axes.plot([ceiling] * 2, [top, top + len(rows) * _LINE], color=style.INK, linewidth=1.4,
                  solid_capstyle="butt", gid="ceiling", zorder=2)  # fmt: skip
    for number, (_, row) in enumerate(rows.iterrows()):
        y = top + (number + 0.5) * _LINE
        look = styles[row["model"]]
        text = estimate_text(row)
        estimable = pd.notna(row["auroc"])
        if estimable:
            axes.plot([row["auroc_low"], row["auroc_high"]], [y, y], color=look.colour,
                      linewidth=1.3, gid="interval", zorder=3)  # fmt: skip
            axes.plot(row["auroc"], y, look.marker, color=look.colour, markersize=5.4,
                      markeredgecolor="white", markeredgewidth=0.5, gid="estimate",
                      zorder=4, clip_on=False)  # fmt: skip
        axes.plot(1 + 3.5 / _PLOT, y, look.marker, color=look.colour, markersize=3.6,
                  transform=axes.get_yaxis_transform(), clip_on=False)  # fmt: skip
        _beside(axes, _PLOT + 6, y, text, ha="left", color=style.INK if estimable else style.FAINT)
        if not same:
            _beside(axes, -4, y, counts[number], ha="right")


def _beside(axes: Axes, mm: float, y: float, text: str, **options: Any) -> None:
    """Text `mm` to the right of the plot's left edge, at the data's height `y`."""
    axes.text(mm / _PLOT, y, text, va="center", transform=axes.get_yaxis_transform(), **options)


def _rule(axes: Axes, left: float, y: float) -> None:
    axes.plot(
        [(3 - left) / _PLOT, 1 + (_NUMBERS - 3) / _PLOT], [y, y], color=style.INK, linewidth=0.6,
        transform=axes.get_yaxis_transform(), clip_on=False,
    )  # fmt: skip


def _limits(summary: pd.DataFrame, ceiling: Mapping[str, float]) -> tuple[float, float]:
    """Whole steps of 0.05 around everything drawn."""
    values = pd.concat([summary["auroc_low"], summary["auroc_high"], pd.Series(dict(ceiling))])
    if values.isna().all():
        return 0.0, 1.0
    return math.floor(values.min() * 20) / 20, math.ceil(values.max() * 20) / 20
