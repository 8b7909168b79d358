"""Decision curves: the net benefit of acting on a model, on everybody and on nobody."""

from collections.abc import Collection

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.evaluation.auroc import NOT_ESTIMABLE
from experiments.evaluation.predictions import DEVELOPMENT, POOLED
from experiments.figures import style
from experiments.figures.panels import entry, note, panels

_FILL = 0.14  # how dense a band is
_ALL, _NONE = "all treated", "none treated"
_DOTTED: style.Line = (0, (1, 1.5))


def decision_figure(curves: pd.DataFrame, *, banded: Collection[str], title: str) -> Figure:
    """A panel a test set from the table of `decision_curves`; models `banded` have their bands.

    All external exams together come first, then each external institution; without any the
    development institutions' internal tests are shown. What lies far below 0 is cut off.
    """
    shown = curves[curves["role"] != DEVELOPMENT]
    shown = curves if shown.empty else shown
    styles = style.model_styles(curves["model"])
    handles = [entry(model, look.colour, look.line) for model, look in styles.items()]
    handles += [entry(_ALL, style.FAINT), entry(_NONE, style.FAINT, _DOTTED)]
    institutions = {
        str(name): rows
        for _, of_role in shown.groupby(shown["role"] != POOLED, sort=True)
        for name, rows in of_role.groupby("institution", sort=False)
    }
    with style.look():
        figure, drawn = panels(
            list(institutions),
            title,
            xlabel="threshold probability",
            ylabel="net benefit",
            legend=handles,
        )
        for axes, rows in zip(drawn, institutions.values(), strict=True):
            _panel(axes, rows, styles, banded)
    return figure


def _panel(
    axes: Axes,
    rows: pd.DataFrame,
    styles: dict[str, style.ModelStyle],
    banded: Collection[str],
) -> None:
    n, positives = max(zip(rows["n"], rows["positives"], strict=True))
    note(axes, f"{positives} positive of {n} exams")
    known = rows.dropna(subset="net_benefit")
    style.show_ticks(axes)
    if known.empty:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, NOT_ESTIMABLE, ha="center", va="center", color=style.FAINT)
        return
    one = known[known["model"] == known["model"].iloc[0]]
    axes.plot(one["threshold"], one["treat_all"], color=style.FAINT, linewidth=0.9)
    axes.axhline(0, color=style.FAINT, linewidth=0.9, linestyle=_DOTTED)
    for model, of_model in known.groupby("model", sort=False):
        look = styles[str(model)]
        x = of_model["threshold"]
        if model in banded:
            axes.fill_between(x, of_model["net_benefit_low"], of_model["net_benefit_high"],
                              color=look.colour, alpha=_FILL, linewidth=0,
                              gid=f"band-{model}")  # fmt: skip
        axes.plot(x, of_model["net_benefit"], color=look.colour, linestyle=look.line,
                  linewidth=1.3, gid=f"net-benefit-{model}")  # fmt: skip
    top = float(np.nanmax(known["net_benefit_high"]))
    axes.locator_params(axis="y", nbins=5)
    axes.set(xlim=(0, float(known["threshold"].max())), ylim=(-0.25 * top, 1.05 * top))
