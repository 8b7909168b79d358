"""Sensitivity and specificity at one operating point, institution by institution."""

import pandas as pd
from matplotlib.figure import Figure

from experiments.figures.intervals import Statistic, intervals_figure
from experiments.figures.style import ROLES

_STATISTICS = (
    Statistic("sensitivity", "sensitivity"),
    Statistic("specificity", "specificity"),
)


def operating_figure(table: pd.DataFrame, *, confidence: float, title: str) -> Figure:
    """From the rows of `operating_points` of one operating point."""
    rows = table.assign(block=table["role"].map(ROLES), group=table["institution"])
    rows = rows.sort_values("role", key=lambda role: role.map(list(ROLES).index), kind="stable")
    return intervals_figure(rows, _STATISTICS, confidence=confidence, title=title)
