"""How estimates agree with the truth, exam by exam: Bland-Altman plots, and calibration."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.evaluation.agreement import binned_means
from experiments.evaluation.auroc import NOT_ESTIMABLE
from experiments.figures import style
from experiments.figures.panels import entry, note, panels
from experiments.figures.study_text import estimate

_POINTS = 3_000  # a panel, at most: more hide each other
_LINES: dict[str, style.Line] = {
    "lower_limit": (0, (4, 2)),
    "bias": "-",
    "upper_limit": (0, (4, 2)),
}
_LIMITS, _BIAS, _IDENTITY, _MEANS, _FIT = (
    "95 % limits of agreement", "bias", "identity", "means of tenths by estimate", "fitted line"
)  # fmt: skip


def bland_altman_figure(
    predictions: pd.DataFrame,
    summary: pd.DataFrame,
    *,
    title: str,
    unit: str = "",
    digits: int = 2,
) -> Figure:
    """A panel a model of `summary`, whose rows are of one test set, the exams `predictions`: the
    error against the mean of estimate and truth, with bias, limits of agreement and their intervals
    as bands.

    All panels have the same axes, in `unit`. Of many exams some are drawn, picked evenly.
    """
    models = list(summary["model"])
    looks = style.model_styles(models)
    middle = (predictions["estimate"] + predictions["truth"]) / 2
    error = predictions["estimate"] - predictions["truth"]
    bounds = [f"{name}{end}" for name in _LINES for end in ("", "_low", "_high")]
    xlim = _around(middle.to_numpy())
    ylim = _around(np.append(error, summary[bounds].to_numpy(np.float64).ravel()))
    legend = [entry(_BIAS, style.INK), entry(_LIMITS, style.INK, _LINES["lower_limit"])]
    with style.look():
        figure, axes_of = panels(
            models,
            title,
            xlabel=_in("mean of estimate and truth", unit),
            ylabel=_in("estimate - truth", unit),
            legend=legend,
        )
        for axes, (_, row) in zip(axes_of, summary.iterrows(), strict=True):
            look = looks[row["model"]]
            of_model = (predictions["model"] == row["model"]).to_numpy()
            _points(axes, middle[of_model].to_numpy(), error[of_model].to_numpy(), look.colour)
            axes.axhline(0, color=style.RULE, linewidth=0.8, zorder=1)
            for name, line in _LINES.items():
                if pd.isna(row[name]):
                    continue
                if pd.notna(row[f"{name}_low"]):
                    axes.axhspan(row[f"{name}_low"], row[f"{name}_high"], color=style.INK,
                                 alpha=0.12, linewidth=0, gid=f"band-{name}", zorder=2)  # fmt: skip
                axes.axhline(row[name], color=style.INK, linewidth=1.0, linestyle=line, gid=name,
                             zorder=4)  # fmt: skip
            axes.set(xlim=xlim, ylim=ylim)
            style.show_ticks(axes)
            told = NOT_ESTIMABLE
            if pd.notna(row["lower_limit"]):
                low, high = row["lower_limit"], row["upper_limit"]
                told = f"{row['bias']:+z.{digits}f}, {low:+z.{digits}f} to {high:+z.{digits}f}"
            note(axes, f"bias and limits {told}")
    return figure


def estimates_figure(
    predictions: pd.DataFrame, summary: pd.DataFrame, *, title: str, unit: str = ""
) -> Figure:
    """A panel a model of `summary`, as of `bland_altman_figure`: the truth against the estimate,
    their means in tenths of the exams by estimate, the fitted line, and the identity.
    """
    models = list(summary["model"])
    looks = style.model_styles(models)
    ends = _around(predictions[["truth", "estimate"]].to_numpy().ravel())
    legend = [
        entry(_IDENTITY, style.FAINT),
        entry(_FIT, style.INK, (0, (5, 1.5))),
        entry(_MEANS, style.INK, "", "o"),
    ]
    with style.look():
        figure, axes_of = panels(
            models, title, xlabel=_in("estimate", unit), ylabel=_in("truth", unit), legend=legend
        )
        for axes, (_, row) in zip(axes_of, summary.iterrows(), strict=True):
            of_model = predictions[predictions["model"] == row["model"]]
            truth, said = (of_model[name].to_numpy() for name in ("truth", "estimate"))
            _points(axes, said, truth, looks[row["model"]].colour)
            axes.plot(ends, ends, color=style.FAINT, linewidth=0.9, zorder=2)
            means = binned_means(truth, said)
            axes.plot(means["estimate"], means["truth"], "o", color=style.INK, markersize=4,
                      markeredgecolor="white", markeredgewidth=0.5, gid="means",
                      zorder=5)  # fmt: skip
            told = f"slope {NOT_ESTIMABLE}"
            if pd.notna(row["slope"]):
                x = np.array([said.min(), said.max()])
                axes.plot(x, row["intercept"] + row["slope"] * x, color=style.INK, linewidth=1.0,
                          linestyle=(0, (5, 1.5)), gid="line", zorder=4)  # fmt: skip
                told = f"slope {estimate(row, 'slope', 2)}"
            axes.set(xlim=ends, ylim=ends)
            style.show_ticks(axes)
            axes.set_aspect("equal")
            note(axes, told)
    return figure


def _points(axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], colour: str) -> None:
    every = math.ceil(x.size / _POINTS)
    order = np.argsort(x, kind="stable")[::every]
    alpha = min(0.7, max(0.15, 60 / math.sqrt(order.size * 40)))
    axes.plot(x[order], y[order], ".", color=colour, markersize=3.4, alpha=alpha,
              markeredgewidth=0, gid="exams", rasterized=True, zorder=3)  # fmt: skip


def _around(values: NDArray[np.float64]) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    low, high = float(known.min()), float(known.max())
    margin = 0.04 * (high - low) or 1.0
    return low - margin, high + margin


def _in(text: str, unit: str) -> str:
    return f"{text} ({unit})" if unit else text
