"""ROC curves: a panel an external institution, all models in it."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.evaluation.auroc import NOT_ESTIMABLE, auroc, is_estimable, roc_curve
from experiments.figures import style
from experiments.figures.panels import entry, note, panels, unit_axis

_FILL = 0.16  # how dense a band is
_CROWD = 4  # models; more have one legend for all panels


def roc_figure(
    predictions: pd.DataFrame, title: str, *, bands: pd.DataFrame | None = None
) -> Figure:
    """ROC curves of all models from a checked predictions table, with the AUROC of each where they
    are few.

    A panel an external institution, in the table's order; where there is none, a panel a
    development institution's internal test. What is not estimable is said in words. `bands` are
    rows of `roc_bands`, drawn behind the curves.
    """
    tested = predictions[predictions["split"] == "external"]
    note_of_role = ""
    if tested.empty:
        tested, note_of_role = predictions[predictions["split"] == "test"], " (internal test)"
    styles = style.model_styles(predictions["model"])
    crowded = len(styles) > _CROWD
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
            if not crowded:
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
    if not any(str(line.get_gid()).startswith("roc-") for line in axes.get_lines()):
        axes.text(0.5, 0.5, NOT_ESTIMABLE, ha="center", va="center", color=style.FAINT)
    unit_axis(axes)


def _legend(axes: Axes) -> None:
    axes.legend(
        title="AUROC", loc="lower right", handlelength=2.4, borderaxespad=0.3, fontsize=7,
        title_fontsize=7, alignment="left", frameon=True, framealpha=0.8, edgecolor="none",
    )  # fmt: skip
