"""ROC curves: a panel an external institution, all models in it."""

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.evaluation.auroc import NOT_ESTIMABLE, auroc, is_estimable, roc_curve
from experiments.figures import style

# mm
_PANEL = 50.0
_GAP = 13.0  # between panels beside each other, for tick labels
_STEP = 19.0  # between panels above each other, for tick labels and titles
_LEFT = 14.0
_RIGHT = 5.0
_BOTTOM = 12.0
_TOP = 22.0
_COLUMNS = 3


def roc_figure(predictions: pd.DataFrame, title: str) -> Figure:
    """ROC curves of all models from a checked predictions table, with the AUROC of each.

    A panel an external institution, in the table's order; where there is none, a panel a
    development institution's internal test. What is not estimable is said in words.
    """
    tested = predictions[predictions["split"] == "external"]
    note = ""
    if tested.empty:
        tested, note = predictions[predictions["split"] == "test"], " (internal test)"
    styles = style.model_styles(predictions["model"])
    institutions = list(tested.groupby("institution", sort=False))
    columns = min(_COLUMNS, max(len(institutions), 1))
    rows = math.ceil(len(institutions) / columns)
    width = max(_LEFT + columns * (_PANEL + _GAP) - _GAP + _RIGHT, 90.0)
    height = _TOP + rows * (_PANEL + _STEP) - _STEP + _BOTTOM
    with style.look():
        figure = style.new_figure(width, height)
        figure.text(4 / width, 1 - 6 / height, title, size=10, weight="bold", va="center")
        for number, (institution, exams) in enumerate(institutions):
            row, column = divmod(number, columns)
            axes = style.axes_mm(
                figure,
                _LEFT + column * (_PANEL + _GAP),
                height - _TOP - row * (_PANEL + _STEP) - _PANEL,
                _PANEL,
                _PANEL,
            )
            axes.set_title(f"{institution}{note}", pad=14)
            below = number + columns >= len(institutions)
            axes.set(
                xlabel="1 - specificity" if below else "",
                ylabel="sensitivity" if column == 0 else "",
            )
            _panel(axes, exams, styles)
    return figure


def _panel(axes: Axes, exams: pd.DataFrame, styles: dict[str, style.ModelStyle]) -> None:
    counts = {
        (int(of_model["target"].sum()), len(of_model)) for _, of_model in exams.groupby("model")
    }
    positives, n = max(counts, key=lambda count: count[1])
    axes.text(
        0, 1.025, f"{positives} positive of {n} exams", size=7, color=style.FAINT,
        transform=axes.transAxes, va="bottom",
    )  # fmt: skip
    axes.plot([0, 1], [0, 1], color=style.RULE, linewidth=0.8)
    for model, of_model in exams.groupby("model", sort=False):
        look = styles[str(model)]
        target, probability = of_model["target"], of_model["probability"]
        if not is_estimable(target, of_model["patient_id"]):
            axes.plot([], [], color=look.colour, linestyle=look.line,
                      label=f"{model}  {NOT_ESTIMABLE}")  # fmt: skip
            continue
        false_positive_rate, sensitivity, _ = roc_curve(target, probability)
        axes.plot(false_positive_rate, sensitivity, color=look.colour, linestyle=look.line,
                  linewidth=1.3, label=f"{model}  {auroc(target, probability):.3f}",
                  gid=f"roc-{model}")  # fmt: skip
    ticks = [0, 0.25, 0.5, 0.75, 1]
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=ticks, yticks=ticks)
    axes.set_xticklabels(["0", "", "0.5", "", "1"])
    axes.set_yticklabels(["0", "", "0.5", "", "1"])
    style.show_ticks(axes)
    axes.legend(
        title="AUROC", loc="lower right", handlelength=2.4, borderaxespad=0.3,
        fontsize=7, title_fontsize=7, alignment="left", frameon=True, framealpha=0.8,
        edgecolor="none",
    )  # fmt: skip
