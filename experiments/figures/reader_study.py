"""A reader study: every reader's accuracy and operating point, without and with the model."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.evaluation.auroc import NOT_ESTIMABLE
from experiments.evaluation.mrmc import BOTH_RANDOM
from experiments.evaluation.reader_study import ARMS, WITH, WITHOUT, ReaderStudy, gain_text
from experiments.evaluation.summary import p_text
from experiments.figures import style
from experiments.figures.panels import unit_axis

# mm
_LEFT = 16.0
_PANEL = 64.0
_GAP = 22.0  # between the panels, for tick labels
_RIGHT = 6.0
_TOP = 28.0  # title and the panels' heads
_BOTTOM = 13.0

_NAMES = {WITHOUT: "without the model", WITH: "with the model"}
_MEAN = 0.14  # how far the means stand outside the readers' lines
SIMULATED = "SIMULATED READERS"


def reader_study_figure(
    study: ReaderStudy, *, confidence: float, title: str, simulated: bool
) -> Figure:
    """A line a reader from accuracy without to with the model, beside both arms' means with their
    intervals over readers and cases; and an arrow a reader in the plane of the ROC curve.

    `simulated` marks the figure's title. A missing class leaves the second panel with a word.
    """
    width = _LEFT + 2 * _PANEL + _GAP + _RIGHT
    height = _TOP + _PANEL + _BOTTOM
    looks = dict(zip(ARMS, style.model_styles(ARMS).values(), strict=True))
    table = study.readers.pivot(index="reader", columns="arm")
    n, positives = study.readers[["n", "positives"]].iloc[0]
    with style.look():
        figure = style.new_figure(width, height)
        marked = f"{SIMULATED} · {title}" if simulated else title
        figure.text(4 / width, 1 - 6 / height, marked, size=10, weight="bold", va="center")
        figure.text(
            4 / width, 1 - 11.5 / height,
            f"{len(table)} {'simulated ' * simulated}readers, {n} cases, {positives} positive",
            size=7, color=style.FAINT, va="center",
        )  # fmt: skip
        axes = style.axes_mm(figure, _LEFT, _BOTTOM, _PANEL, _PANEL)
        _draw_accuracy(axes, study, looks, confidence)
        axes = style.axes_mm(figure, _LEFT + _PANEL + _GAP, _BOTTOM, _PANEL, _PANEL)
        _draw_operating_points(axes, table, looks)
    return figure


def _draw_accuracy(
    axes: Axes,
    study: ReaderStudy,
    looks: dict[str, style.ModelStyle],
    confidence: float,
) -> None:
    accuracy = study.readers.pivot(index="reader", columns="arm", values="accuracy")
    means = study.arms[study.arms["metric"] == "accuracy"].set_index("arm")
    for reader, row in accuracy.iterrows():
        axes.plot([0, 1], 100 * row[list(ARMS)].to_numpy(dtype=float), color=style.FAINT,
                  linewidth=0.8, gid=f"accuracy-{reader}")  # fmt: skip
    for x, arm, outside in ((0, WITHOUT, -_MEAN), (1, WITH, _MEAN)):
        look = looks[arm]
        axes.plot([x] * len(accuracy), 100 * accuracy[arm], look.marker, color=look.colour,
                  markersize=4, markeredgecolor="white", markeredgewidth=0.4, zorder=3)  # fmt: skip
        mean, low, high = 100 * means.loc[arm, ["mean", "low", "high"]].to_numpy(dtype=float)
        axes.plot([x + outside] * 2, [low, high], color=look.colour, linewidth=1.6,
                  solid_capstyle="butt", gid=f"interval-{arm}")  # fmt: skip
        axes.plot(x + outside, mean, look.marker, color=look.colour, markersize=7,
                  markeredgecolor="white", markeredgewidth=0.5, gid=f"mean-{arm}")  # fmt: skip
        shown = NOT_ESTIMABLE if np.isnan(mean) else f"{mean:.1f} %"
        axes.annotate(shown, (x + outside, mean if np.isfinite(mean) else 50), weight="bold",
                      xytext=(40 * outside, 0), textcoords="offset points", va="center",
                      ha="right" if outside < 0 else "left")  # fmt: skip
    rows = study.mrmc[study.mrmc["metric"] == "accuracy"]
    gain = rows[rows["analysis"] == BOTH_RANDOM].iloc[0]
    axes.set_title("Accuracy of each reader", pad=14)
    told = ", ".join(dict.fromkeys([gain_text(gain), p_text(gain["p"])]))
    axes.annotate(f"Gain {told}", (0, 1), (0, 3), size=7, color=style.FAINT, va="bottom",
                  xycoords="axes fraction", textcoords="offset points")  # fmt: skip
    axes.set(xlim=(-0.6, 1.6), ylabel=f"accuracy, % (means: {100 * confidence:g} % interval)")
    axes.set_xticks([0, 1], [_NAMES[arm] for arm in ARMS])
    axes.grid(axis="y", color=style.RULE, linewidth=0.5)
    axes.set_axisbelow(True)
    style.show_ticks(axes)


def _draw_operating_points(
    axes: Axes, table: pd.DataFrame, looks: dict[str, style.ModelStyle]
) -> None:
    axes.set(xlabel="1 - specificity", ylabel="sensitivity")
    axes.set_title("Sensitivity and specificity", pad=14)
    axes.annotate("An arrow a reader, from without to with the model", (0, 1), (0, 3), size=7,
                  color=style.FAINT, va="bottom", xycoords="axes fraction",
                  textcoords="offset points")  # fmt: skip
    axes.plot([0, 1], [0, 1], color=style.RULE, linewidth=0.8)
    unit_axis(axes)
    if table[["sensitivity", "specificity"]].isna().any(axis=None):
        axes.text(0.5, 0.5, NOT_ESTIMABLE, ha="center", va="center", color=style.FAINT)
        return
    points = {
        arm: np.column_stack([1 - table["specificity", arm], table["sensitivity", arm]])
        for arm in ARMS
    }
    for reader, start, end in zip(table.index, points[WITHOUT], points[WITH], strict=True):
        axes.annotate("", end, start, gid=f"arrow-{reader}", arrowprops={
            "arrowstyle": "-|>", "color": style.FAINT, "linewidth": 0.8, "mutation_scale": 6,
            "shrinkA": 0, "shrinkB": 2})  # fmt: skip
    for arm in ARMS:
        look = looks[arm]
        axes.plot(*points[arm].T, look.marker, color=look.colour, markersize=4.5,
                  markeredgecolor="white", markeredgewidth=0.4, zorder=3, label=_NAMES[arm],
                  gid=f"points-{arm}")  # fmt: skip
    axes.legend(loc="lower right", handletextpad=0.2, borderaxespad=0.3)
