"""ROC curves: a panel an external institution, all models in it."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.evaluation.auroc import NOT_ESTIMABLE, auroc, is_estimable, roc_curve
from experiments.evaluation.predictions import EXTERNAL, TEST
from experiments.figures import style
from experiments.figures.panels import PANEL, entry, note, panels, unit_axis

_FILL = 0.16  # how dense a band is
_CROWD = 4  # models; more have one legend for all panels
_LEGEND_SIZE = 7.0  # points, of a panel's own legend
_LEGEND_MARK = 13.0  # mm of it beside its text


def roc_figure(
    predictions: pd.DataFrame, title: str, *, bands: pd.DataFrame | None = None
) -> Figure:
    """ROC curves of all models from a checked predictions table, with the AUROC of each where they
    are few and their names short.

    A panel an external institution, in the table's order; where there is none, a panel a
    development institution's internal test. What is not estimable is said in words. `bands` are
    rows of `roc_bands`, drawn behind the curves.
    """
    tested = predictions[predictions["split"] == EXTERNAL]
    note_of_role = ""
    if tested.empty:
        tested, note_of_role = predictions[predictions["split"] == TEST], " (internal test)"
    styles = style.model_styles(predictions["model"])
    widest = style.widest((f"{model}  0.000" for model in styles), _LEGEND_SIZE)
    crowded = len(styles) > _CROWD or widest + _LEGEND_MARK > PANEL
    institutions = list(tested.groupby("institution", sort=False))
    with style.look():
        figure, drawn = panels(
            [f"{institution}{note_of_role}" for institution, _ in institutions],
            title,
            xlabel="1 - specificity",
            ylabel="sensitivity",
            legend=[entry(m, look.colour, look.line) for m, look in styles.items()]
            if crowded
            else (),
        )
        for axes, (institution, exams) in zip(drawn, institutions, strict=True):
            of_panel = None
            if bands is not None:
                of_panel = bands[bands["institution"] == institution]
            _panel(axes, exams, styles, of_panel)
            if crowded:
                _absences(axes)
            else:
                _legend(axes)
    return figure


def _panel(
    axes: Axes,
    exams: pd.DataFrame,
    styles: dict[str, style.ModelStyle],
    bands: pd.DataFrame | None,
) -> None:
    counts = {
        (int(of_model["target"].sum()), len(of_model)) for _, of_model in exams.groupby("model")
    }
    positives, n = max(counts, key=lambda count: count[1])
    note(axes, f"{positives} positive of {n} exams")
    axes.plot([0, 1], [0, 1], color=style.RULE, linewidth=0.8)
    for model, of_model in exams.groupby("model", sort=False):
        look = styles[str(model)]
        target, probability = of_model["target"], of_model["probability"]
        if not is_estimable(target, of_model["patient_id"]):
            axes.plot([], [], color=look.colour, linestyle=look.line,
                      label=f"{model}  {NOT_ESTIMABLE}")  # fmt: skip
            continue
        band = None if bands is None else bands[bands["model"] == model]
        if band is not None and len(band):
            axes.fill_between(
                band["false_positive_rate"], band["sensitivity_low"], band["sensitivity_high"],
                color=look.colour, alpha=_FILL, linewidth=0, gid=f"band-{model}",
            )  # fmt: skip
        false_positive_rate, sensitivity, _ = roc_curve(target, probability)
        axes.plot(false_positive_rate, sensitivity, color=look.colour, linestyle=look.line,
                  linewidth=1.3, label=f"{model}  {auroc(target, probability):.3f}",
                  gid=f"roc-{model}")  # fmt: skip
    unit_axis(axes)


def _absences(axes: Axes) -> None:
    """How many models have no curve, in place of the words in a panel's legend."""
    models = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
    absent = sum(str(line.get_label()).endswith(NOT_ESTIMABLE) for line in models)
    if absent:
        told = "" if absent == len(models) else f"{absent} of {len(models)} models "
        axes.text(0.97, 0.05, told + NOT_ESTIMABLE, ha="right", size=7, color=style.FAINT)


def _legend(axes: Axes) -> None:
    axes.legend(
        title="AUROC", loc="lower right", handlelength=2.4, borderaxespad=0.3,
        fontsize=_LEGEND_SIZE, title_fontsize=_LEGEND_SIZE, alignment="left", frameon=True,
        framealpha=0.8, edgecolor="none",
    )  # fmt: skip
