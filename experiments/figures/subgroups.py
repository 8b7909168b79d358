"""Subgroup forest: AUROC and calibration by sex, age band and whatever else patients differ in."""

import pandas as pd
from matplotlib.figure import Figure

from experiments.figures.intervals import Statistic, intervals_figure

_STATISTICS = (
    Statistic("auroc", "AUROC"),
    Statistic("observed_expected", "positive exams: observed / expected", ideal=1.0, ratio=True),
)


def subgroups_figure(table: pd.DataFrame, *, confidence: float, title: str) -> Figure:
    """The AUROC and the observed over the expected positive exams, from a `subgroup_table`."""
    renamed = table.assign(block=table["variable"])
    return intervals_figure(renamed, _STATISTICS, confidence=confidence, title=title)
