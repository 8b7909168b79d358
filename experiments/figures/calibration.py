"""Reliability curves: what was observed where a model said 10 %, 20 % ..."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.evaluation.auroc import NOT_ESTIMABLE
from experiments.figures import style
from experiments.figures.panels import entry, note, panels
from lightning_modules.tasks.decision import PLATT, UNCHANGED

_LABELS = {UNCHANGED: "as predicted", PLATT: "recalibrated (Platt, on development data)"}
_IDEAL = "ideal"


def reliability_figure(
    curves: pd.DataFrame, calibration: pd.DataFrame, *, confidence: float, title: str
) -> Figure:
    """A panel a model from the rows of `reliability_curves` and `calibration_table` of one test
    set: before and after Platt's recalibration, with the intervals of the observed shares.

    Both axes end where the data do, in tenths. Each panel names the slopes and intercepts.
    """
    models = list(dict.fromkeys(calibration["model"]))
    looks = dict(zip(_LABELS, style.model_styles(_LABELS).values(), strict=True))
    methods = [method for method in _LABELS if (curves["recalibration"] == method).any()]
    drawn = curves[curves["recalibration"].isin(methods)]
    end = _end(drawn)
    handles = [
        entry(_LABELS[method], looks[method].colour, looks[method].line, looks[method].marker)
        for method in methods
    ]
    handles.append(entry(_IDEAL, style.FAINT))
    with style.look():
        figure, axes_of = panels(
            models,
            title,
            xlabel="predicted probability",
            ylabel=f"observed share ({100 * confidence:g} % interval)",
            legend=handles,
        )
        for axes, model in zip(axes_of, models, strict=True):
            axes.plot([0, 1], [0, 1], color=style.FAINT, linewidth=0.8)
            for method in methods:
                rows = drawn[(drawn["model"] == model) & (drawn["recalibration"] == method)]
                _draw(axes, rows, looks[method], method)
            axes.set(xlim=(-0.01 * end, end), ylim=(-0.01 * end, end))
            style.show_ticks(axes)
            axes.set_aspect("equal")
            note(axes, _note(calibration[calibration["model"] == model], methods))
    return figure


def _draw(axes: Axes, rows: pd.DataFrame, look: style.ModelStyle, method: str) -> None:
    x, y = rows["predicted"].to_numpy(), rows["observed"].to_numpy()
    low, high = rows["observed_low"].to_numpy(), rows["observed_high"].to_numpy()
    axes.vlines(x, low, high, color=look.colour, linewidth=1.0, alpha=0.7)
    axes.plot(x, y, look.marker, color=look.colour, linestyle=look.line, linewidth=0.9,
              markersize=4, markeredgecolor="white", markeredgewidth=0.4,
              gid=f"reliability-{method}")  # fmt: skip


def _note(calibration: pd.DataFrame, methods: list[str]) -> str:
    told = []
    for method in methods:
        row = calibration[calibration["recalibration"] == method].iloc[0]
        slope = NOT_ESTIMABLE if pd.isna(row["slope"]) else f"{row['slope']:.2f}"
        told.append(slope)
    return f"slope {' to '.join(told)}"


def _end(curves: pd.DataFrame) -> float:
    """The next tenth above everything drawn; intervals may be cut off."""
    values = curves[["predicted", "observed"]].to_numpy(dtype=float)
    top = np.nanmax(values) if np.isfinite(values).any() else 1.0
    return min(1.0, math.ceil((top + 0.03) * 10) / 10)
