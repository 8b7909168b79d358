"""Forest plot: a statistic of every institution with its interval, a line a model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from experiments.evaluation.auroc import NOT_ESTIMABLE
from experiments.figures import style
from experiments.figures.study_text import between, estimate

# mm
_LINE = 4.6  # a model
_SPACE = 2.4  # between institutions
_HEADING = 6.2
_PLOT = 90.0
_NAMES = 34.0  # left of the plot, at least
_COUNTS = 23.0  # beside the plot, at least
_NUMBERS = 42.0  # right of it
_TOP = 22.0  # title, a legend of one row and column heads
_LEGEND_ROW = 4.6
_LEGEND_MARK = 14.0  # of an entry, beside its text
_BOTTOM = 11.0

_HOSPITALS = "Random effects over external institutions: mean, and prediction interval"
_MEAN, _NEW = "mean", "a new hospital"

_beside = partial(style.beside, _PLOT)
_rule = partial(style.rule, _PLOT)

_CEILING = "best possible (known in a simulation)"


@dataclass(frozen=True)
class Measure:
    """What is drawn: a column, with `column`_low and `column`_high, and how it is said.

    The axis ends at whole ones of `steps` in a unit (None: as fits), and has a line at
    `worth_nothing` where it gets that far.
    """

    column: str
    label: str
    digits: int = 3
    steps: int | None = None
    worth_nothing: float | None = None

    def text(self, row: pd.Series) -> str:
        return estimate(row, self.column, self.digits)


AUROC = Measure("auroc", "AUROC", steps=20, worth_nothing=0.5)


def forest_figure(
    summary: pd.DataFrame,
    measure: Measure = AUROC,
    *,
    confidence: float,
    title: str,
    ceilings: Mapping[str, Mapping[str, float]] | None = None,
    pooled: pd.DataFrame | None = None,
    names_of: str = "Institution",
) -> Figure:
    """Institutions x models from a table like that of `summarise`: points, intervals, counts and
    numbers of one `measure`.

    Development institutions stand first, then external ones, then the pooled rows, set off.
    `ceilings` (model -> institution -> best possible value, known in a simulation) are vertical
    ticks at the models' lines, one across all lines next to each other that share it. What is not
    estimable is said in words, and has no point. `pooled`, the table of `pooled_institutions`, is
    the last block: a diamond a model that spans the interval of the hospitals' mean, and a bar, the
    prediction interval for a new hospital. `names_of` heads the
    column institution.
    """
    ceilings = ceilings or {}
    best = [value for of_model in ceilings.values() for value in of_model.values()]
    styles = style.model_styles(summary["model"])
    names = max(style.widest(summary["institution"]) + 10, _NAMES)
    left = names + max(style.widest(_counts(row) for _, row in summary.iterrows()), _COUNTS) + 4
    head = f"{measure.label} ({100 * confidence:g} % interval)"
    numbers = style.widest(measure.text(row) for _, row in summary.iterrows())
    beside = max(numbers + 10, style.widest([head], 7) + 10, _NUMBERS)
    blocks = summary.groupby(["role", "institution"], sort=False)
    roles = [role for role in style.ROLES if role in set(summary["role"])]
    content = len(summary) * _LINE + blocks.ngroups * _SPACE + len(roles) * _HEADING
    bounds: list[float] = []
    if pooled is not None:
        content += 2 * (len(pooled) * _LINE + _SPACE) + _HEADING
        ends = [*_ends(measure), "predicted_low", "predicted_high"]
        bounds = [bound for bound in pooled[ends].to_numpy().ravel() if pd.notna(bound)]
    width = left + _PLOT + beside
    entries = [*styles, _CEILING] if ceilings else list(styles)
    legend_columns = style.legend_columns(entries, width - 4, _LEGEND_MARK)
    legend_rows = math.ceil(len(entries) / legend_columns)
    height = _TOP + (legend_rows - 1) * _LEGEND_ROW + content + _BOTTOM

    with style.look():
        figure = style.new_figure(width, height)
        axes = style.axes_mm(figure, left, _BOTTOM, _PLOT, content)
        axes.set(
            ylim=(content, 0),
            xlim=axis_limits(summary, measure, [*best, *bounds]),
            yticks=[],
            xlabel=measure.label,
        )
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=style.RULE, linewidth=0.5, clip_on=False)
        axes.set_axisbelow(True)
        style.show_ticks(axes)
        nothing = measure.worth_nothing
        if nothing is not None and axes.get_xlim()[0] < nothing < axes.get_xlim()[1]:
            axes.axvline(nothing, color=style.FAINT, linewidth=0.8)

        heads = {
            4 - left: (names_of, "left"),
            -4.0: ("Positive / exams" if "positives" in summary else "Exams", "right"),
            _PLOT + 6: (head, "left"),
        }
        for mm, (text, side) in heads.items():
            _beside(axes, mm, -2.2, text, ha=side, size=7, color=style.FAINT)
        y = 0.0
        for role in roles:
            _rule(axes, 3 - left, _PLOT + beside - 3, y)
            _beside(axes, 4 - left, y + 0.55 * _HEADING, style.ROLES[role], weight="bold")
            y += _HEADING
            for institution, rows in summary[summary["role"] == role].groupby(
                "institution", sort=False
            ):
                _block(axes, y, rows, measure, styles, ceilings)
                middle = y + len(rows) * _LINE / 2
                _beside(axes, 6 - left, middle, str(institution))
                y += len(rows) * _LINE + _SPACE
        if pooled is not None:
            _rule(axes, 3 - left, _PLOT + beside - 3, y)
            _beside(axes, 4 - left, y + 0.55 * _HEADING, _HOSPITALS, weight="bold")
            y += _HEADING
            for label in (_MEAN, _NEW):
                middle = y + len(pooled) * _LINE / 2
                _beside(axes, 6 - left, middle, label)
                counts = pooled["institutions"].unique()
                if len(counts) == 1:
                    _beside(axes, -4, middle, f"{counts[0]} institutions", ha="right")
                for number, (_, row) in enumerate(pooled.iterrows()):
                    at = y + (number + 0.5) * _LINE
                    _meta_analysis(axes, at, row, measure, styles, label)
                    if len(counts) > 1:
                        _beside(axes, -4, at, f"{row['institutions']} institutions", ha="right")
                y += len(pooled) * _LINE + _SPACE

        figure.text(4 / width, 1 - 5 / height, title, size=10, weight="bold", va="center")
        best_known = Line2D([], [], color=style.INK, linewidth=0, marker="|", markersize=9,
                            markeredgewidth=1.4, label=_CEILING)  # fmt: skip
        style.legend_of_models(figure, styles, legend_columns, *[best_known] * bool(ceilings))
    return figure


def _counts(row: pd.Series) -> str:
    return f"{row['positives']} / {row['n']}" if "positives" in row else f"{row['n']:,}"


def _ends(measure: Measure) -> list[str]:
    return [f"{measure.column}_low", f"{measure.column}_high"]


def _block(
    axes: Axes,
    top: float,
    rows: pd.DataFrame,
    measure: Measure,
    styles: Mapping[str, style.ModelStyle],
    ceilings: Mapping[str, Mapping[str, float]],
) -> None:
    """One institution's lines, the first at `top`."""
    counts = [_counts(row) for _, row in rows.iterrows()]
    same = len(set(counts)) == 1
    if same:
        _beside(axes, -4, top + len(rows) * _LINE / 2, counts[0], ha="right")
    lines = zip(rows["model"], rows["institution"], strict=True)
    best = [ceilings.get(model, {}).get(institution) for model, institution in lines]
    y = top
    for value, sharing in groupby(best):
        end = y + len(list(sharing)) * _LINE
        if value is not None:
            axes.plot([value] * 2, [y, end], color=style.INK, linewidth=1.4,
                      solid_capstyle="butt", gid="ceiling", zorder=2)  # fmt: skip
        y = end
    for number, (_, row) in enumerate(rows.iterrows()):
        y = top + (number + 0.5) * _LINE
        look = styles[row["model"]]
        text = measure.text(row)
        estimable = pd.notna(row[measure.column])
        if estimable:
            if row[_ends(measure)].notna().all():
                axes.plot(row[_ends(measure)].tolist(), [y, y], color=look.colour,
                          linewidth=1.3, gid="interval", zorder=3)  # fmt: skip
            axes.plot(row[measure.column], y, look.marker, color=look.colour, markersize=5.4,
                      markeredgecolor="white", markeredgewidth=0.5, gid="estimate",
                      zorder=4, clip_on=False)  # fmt: skip
        axes.plot(1 + 3.5 / _PLOT, y, look.marker, color=look.colour, markersize=3.6,
                  transform=axes.get_yaxis_transform(), clip_on=False)  # fmt: skip
        _beside(axes, _PLOT + 6, y, text, color=style.INK if estimable else style.FAINT)
        if not same:
            _beside(axes, -4, y, counts[number], ha="right")


def _meta_analysis(
    axes: Axes,
    y: float,
    row: pd.Series,
    measure: Measure,
    styles: Mapping[str, style.ModelStyle],
    label: str,
) -> None:
    """A model's diamond, or its prediction interval, at the height `y`."""
    look = styles[row["model"]]
    axes.plot(1 + 3.5 / _PLOT, y, look.marker, color=look.colour, markersize=3.6,
              transform=axes.get_yaxis_transform(), clip_on=False)  # fmt: skip
    value = row[measure.column]
    low, high = row[_ends(measure) if label == _MEAN else ["predicted_low", "predicted_high"]]
    if pd.isna(low):
        _beside(axes, _PLOT + 6, y, NOT_ESTIMABLE, color=style.FAINT)
        return
    if label == _MEAN:
        half = 0.38 * _LINE
        axes.fill([low, value, high, value], [y, y - half, y, y + half],
                  color=look.colour, linewidth=0, gid="diamond", zorder=3)  # fmt: skip
        _beside(axes, _PLOT + 6, y, measure.text(row))
    else:
        axes.plot([low, high], [y, y], color=look.colour, linewidth=1.3, marker="|",
                  markersize=6, gid="prediction", zorder=3)  # fmt: skip
        _beside(axes, _PLOT + 6, y, between(low, high, measure.digits))


def axis_limits(
    summary: pd.DataFrame, measure: Measure = AUROC, others: Sequence[float] = ()
) -> tuple[float, float]:
    """Whole steps around the intervals of a summary's rows, and around `others`."""
    drawn = [*(summary[name] for name in (measure.column, *_ends(measure))), pd.Series(others)]
    values = pd.concat([values.astype("float64") for values in drawn]).dropna()
    if values.empty:
        return 0.0, 1.0
    steps = measure.steps
    if steps is None:
        ticks = MaxNLocator(10, steps=[1, 2, 5, 10]).tick_values(values.min(), values.max())
        return float(ticks[0]), float(ticks[-1])
    return math.floor(values.min() * steps) / steps, math.ceil(values.max() * steps) / steps
