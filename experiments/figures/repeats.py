"""What a study that was run over seeds and settings found: one report, its figure and tables."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter

from experiments.evaluation.repeats import SEED, differences, over_seeds
from experiments.figures import style
from experiments.figures.html import Block, Paragraph, Picture, Report, Section, render
from experiments.figures.panels import entry, panels
from experiments.figures.tables import Table

_LOG_FROM = 5  # largest over smallest value of a setting, from where its axis is logarithmic
# mm of the figure of named settings
_LINE, _PLOT, _NAME, _TOP, _BOTTOM = 5.2, 90.0, 4.0, 14.0, 12.0

OVER_SEEDS = (
    "Every seed is a study of its own: another draw of the splits and labels, other initial"
    " weights, other batches, tested at the same institutions. What is told over seeds is how far"
    " chance in the training moves a result; it says nothing about other hospitals or patients."
)


def repeats_report(
    results: pd.DataFrame,
    settings: Sequence[str],
    costs: pd.DataFrame,
    *,
    title: str,
    subtitle: str,
    banners: Mapping[str, str],
    confidence: float,
) -> tuple[str, Report]:
    """The report's HTML, and the report with its tables and figures.

    `results` has the columns `settings`, seed, label, measure, model and auroc; `costs` those
    `settings`, seed and, of the pretraining, exams_seen and seconds (may be empty).
    """
    blocks: list[Block] = [Paragraph(OVER_SEEDS)]
    first = results["label"].iloc[0]
    for number, (measure, of) in enumerate(results[results["label"] == first].groupby("measure")):
        figure, caption = repeats_figure(of, settings, f"{first}: {measure}")
        name = f"aurocs_{number + 1}" if number else "aurocs"
        blocks.append(Picture(name, f"{str(measure).capitalize()}. {caption}", figure))
    table = over_seeds(results, settings)
    blocks.append(
        Table("over_seeds", "AUROC over seeds: mean (standard deviation).", _shown(table), table)
    )
    paired = differences(results, settings, confidence=confidence)
    if len(paired):
        percent = f"{100 * confidence:g} %"
        caption = (
            f"Differences in AUROC, paired over seeds: mean with a {percent} interval (t), and in "
            "how many seeds the first is higher."
        )
        blocks.append(Table("differences", caption, _shown_differences(paired), paired))
    if len(costs):
        caption = (
            "The pretrainings: exams seen (steps x exams a step), and seconds on this machine."
        )
        blocks.append(Table("costs", caption, _shown_costs(costs, settings), costs))
    report = Report(title, subtitle, banners, [Section("repeats", "Over seeds", blocks)])
    return render(report), report


def repeats_figure(
    results: pd.DataFrame, settings: Sequence[str], title: str
) -> tuple[Figure, str]:
    """AUROC (mean, and a standard deviation either way) of one label and measure, with a caption.

    Over the first setting whose values are all numbers, a line a model and a panel for what is
    otherwise set; where none is such, a row a setting and model.
    """
    along = next((name for name in settings if _is_scale(results[name])), None)
    table = over_seeds(results, settings)
    spread = "Bars: a standard deviation over seeds either way."
    if along is None:
        return _rows(table, settings, title), spread
    others = [name for name in settings if name != along]
    return _lines(table, along, others, title), f"By {along}. {spread}"


def _is_scale(values: pd.Series) -> bool:
    numbers = pd.to_numeric(values, errors="coerce")
    return bool(numbers.notna().all() and numbers.nunique() > 1)


def _lines(table: pd.DataFrame, along: str, others: Sequence[str], title: str) -> Figure:
    keys = table[list(others)].agg(", ".join, axis=1) if others else pd.Series("", table.index)
    looks = style.model_styles(table["model"])
    x = pd.to_numeric(table[along])
    logarithmic = x.min() > 0 and x.max() / x.min() >= _LOG_FROM
    with style.look():
        figure, drawn = panels(
            list(dict.fromkeys(keys)),
            title,
            xlabel=along,
            ylabel="AUROC",
            legend=[entry(model, look.colour, look.line) for model, look in looks.items()],
        )
        low, high = _limits(table)
        for axes, (_, panel) in zip(drawn, table.groupby(keys, sort=False), strict=True):
            for model, rows in panel.groupby("model", sort=False):
                look = looks[str(model)]
                rows = rows.sort_values(along, key=pd.to_numeric)
                axes.errorbar(
                    pd.to_numeric(rows[along]), rows["mean"], rows["sd"].fillna(0),
                    color=look.colour, linestyle=look.line, marker=look.marker, markersize=4,
                    linewidth=1.2, elinewidth=0.9, capsize=2,
                )  # fmt: skip
            if logarithmic:
                axes.set_xscale("log")
            axes.set_xlim(x.min() / 1.15, x.max() * 1.15)
            axes.set_xticks(sorted(set(x)))
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_ylim(low, high)
            style.show_ticks(axes)
    return figure


def _rows(table: pd.DataFrame, settings: Sequence[str], title: str) -> Figure:
    names = [" · ".join(map(str, row)) for row in table[[*settings, "model"]].to_numpy()]
    looks = style.model_styles(table["model"])
    left = style.widest(names) + 2 * _NAME
    height = _TOP + len(table) * _LINE + _BOTTOM
    with style.look():
        figure = style.new_figure(left + _PLOT + 6, height)
        width = figure.get_size_inches()[0] / style.MM
        figure.text(_NAME / width, 1 - 6 / height, title, size=10, weight="bold", va="center")
        axes = style.axes_mm(figure, left, _BOTTOM, _PLOT, len(table) * _LINE)
        for place, row in enumerate(table.to_dict(orient="records")):
            look = looks[str(row["model"])]
            axes.errorbar(
                row["mean"], place, xerr=0 if np.isnan(row["sd"]) else row["sd"],
                color=look.colour, marker=look.marker, markersize=5, elinewidth=1, capsize=2,
            )  # fmt: skip
        axes.set_xlim(*_limits(table))
        axes.set_ylim(len(table) - 0.4, -0.6)
        axes.set_yticks(range(len(table)), names)
        axes.set_xlabel("AUROC")
        style.show_ticks(axes)
    return figure


def _limits(table: pd.DataFrame) -> tuple[float, float]:
    sd = table["sd"].fillna(0)
    low, high = float((table["mean"] - sd).min()), float((table["mean"] + sd).max())
    return max(0.0, low - 0.02), min(1.005, high + 0.02)


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """A row a setting, label and model, a column a measure."""
    cells = [
        f"{row['mean']:.3f}" + ("" if np.isnan(row["sd"]) else f" ({row['sd']:.3f})")
        for row in table.to_dict(orient="records")
    ]
    keys = [c for c in table if c not in ("measure", "seeds", "mean", "sd", "lowest", "highest")]
    if table["label"].nunique() == 1:
        keys.remove("label")
    rows: dict[tuple[object, ...], dict[str, str]] = {}
    for row, cell in zip(table.to_dict(orient="records"), cells, strict=True):
        of = rows.setdefault(tuple(row[key] for key in keys), {"seeds": str(row["seeds"])})
        of[row["measure"]] = cell
    return pd.DataFrame(
        [{**dict(zip(keys, key, strict=True)), **cells} for key, cells in rows.items()]
    ).fillna("")


def _shown_differences(paired: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for row in paired.to_dict(orient="records"):
        interval = "" if np.isnan(row["low"]) else f" ({row['low']:+.3f} to {row['high']:+.3f})"
        rows.append(
            {
                "among": row["among"],
                "compared": f"{row['of']} - {row['over']}",
                "measure": row["measure"],
                **({"label": row["label"]} if paired["label"].nunique() > 1 else {}),
                "difference": f"{row['difference']:+.3f}{interval}",
                "wins": f"{row['wins']} of {row['seeds']}",
            }
        )
    return pd.DataFrame(rows)


def _shown_costs(costs: pd.DataFrame, settings: Sequence[str]) -> pd.DataFrame:
    groups = costs.groupby(list(settings), sort=False) if settings else [((), costs)]
    return pd.DataFrame(
        [
            {
                **dict(zip(settings, key if isinstance(key, tuple) else (key,), strict=True)),
                "pretrainings": str(of["run"].nunique()),
                "exams seen": f"{of['exams_seen'].mean():,.0f}",
                "seconds": f"{of['seconds'].mean():.0f}",
            }
            for key, of in groups
        ]
    )


def summary_tables(
    results: pd.DataFrame, settings: Sequence[str], *, confidence: float
) -> dict[str, pd.DataFrame]:
    """Title -> table as people read it, for the terminal and a run's note."""
    seeds = results[SEED].nunique()
    tables = {f"AUROC over {seeds} seeds: mean (sd)": _shown(over_seeds(results, settings))}
    paired = differences(results, settings, confidence=confidence)
    if len(paired):
        tables["Differences, paired over seeds"] = _shown_differences(paired)
    return tables
