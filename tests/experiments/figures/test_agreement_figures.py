"""Bland-Altman plots, calibration of estimates, and forests of errors: they draw the tables."""

import numpy as np
import pandas as pd
import pytest

from experiments.evaluation.agreement import binned_means, pooled_errors, summarise_estimates
from experiments.figures.agreement import bland_altman_figure, estimates_figure
from experiments.figures.forest import Measure, axis_limits, forest_figure

SETTINGS = {"confidence": 0.95, "resamples": 50, "seed": 0}


def predictions(models=("cnn", "vit"), n=120):
    rows = []
    for seed, model in enumerate(models):
        for number, institution in enumerate(("north", "south", "west")):
            truth = np.random.default_rng(number).normal(55, 12, n)
            error = np.random.default_rng((seed, number)).normal(2, 5, n)
            rows.append(
                pd.DataFrame(
                    {
                        "model": model, "label": "lvef_percent", "institution": institution,
                        "split": "external", "patient_id": np.arange(n).astype(str),
                        "exam_id": np.arange(n).astype(str), "truth": truth,
                        "estimate": 10 + 0.8 * truth + error,
                    }
                )
            )  # fmt: skip
    return pd.concat(rows, ignore_index=True)


@pytest.fixture(scope="module")
def table():
    return predictions()


@pytest.fixture(scope="module")
def summary(table):
    return summarise_estimates(table, **SETTINGS)


@pytest.fixture(scope="module")
def pooled_rows(summary):
    return summary[summary["role"] == "pooled"]


def drawn(axes, gid):
    return [line for line in axes.get_lines() if line.get_gid() == gid]


def words(figure):
    return [text.get_text() for text in figure.findobj(match=lambda a: hasattr(a, "get_text"))]


def test_bland_altman_lines_are_the_tables(table, pooled_rows):
    figure = bland_altman_figure(table, pooled_rows, title="LVEF", unit="%")
    assert len(figure.axes) == 2
    for axes, (_, row) in zip(figure.axes, pooled_rows.iterrows(), strict=True):
        for name in ("bias", "lower_limit", "upper_limit"):
            (line,) = drawn(axes, name)
            assert line.get_ydata()[0] == row[name]
            (band,) = [p for p in axes.patches if p.get_gid() == f"band-{name}"]
            assert band.get_y() == pytest.approx(row[f"{name}_low"])
            assert band.get_y() + band.get_height() == pytest.approx(row[f"{name}_high"])
        (points,) = drawn(axes, "exams")
        of_model = table[table["model"] == row["model"]]
        middle = (of_model["truth"] + of_model["estimate"]) / 2
        assert sorted(points.get_xdata()) == pytest.approx(sorted(middle))
        low, high = axes.get_ylim()
        assert low < row["lower_limit_low"]
        assert high > row["upper_limit_high"]
    assert "estimate - truth (%)" in words(figure)


def test_calibration_has_means_and_the_fitted_line(table, pooled_rows):
    figure = estimates_figure(table, pooled_rows, title="LVEF")
    axes, row = figure.axes[1], pooled_rows.iloc[1]
    of_model = table[table["model"] == "vit"]
    means = binned_means(of_model["truth"], of_model["estimate"])
    (points,) = drawn(axes, "means")
    assert list(points.get_ydata()) == pytest.approx(list(means["truth"]))
    (line,) = drawn(axes, "line")
    x, y = line.get_xdata(), line.get_ydata()
    assert y == pytest.approx(row["intercept"] + row["slope"] * x)
    assert "estimate" in words(figure)


def test_what_is_not_estimable_is_said(table):
    constant = table.assign(estimate=50.0)
    summary = summarise_estimates(constant, **SETTINGS)
    figure = estimates_figure(constant, summary[summary["role"] == "pooled"], title="LVEF")
    assert words(figure).count("slope not estimable") == 2
    few = constant.groupby(["model", "institution"]).head(1).query("institution == 'north'")
    figure = bland_altman_figure(few, summarise_estimates(few, **SETTINGS), title="LVEF")
    assert words(figure).count("bias and limits not estimable") == 2


def test_of_many_exams_some_are_drawn():
    many = predictions(("cnn",), n=2_500)
    summary = summarise_estimates(many, **SETTINGS)
    figure = bland_altman_figure(many, summary[summary["role"] == "pooled"], title="LVEF")
    assert len(drawn(figure.axes[0], "exams")[0].get_xdata()) == 2_500


def test_a_forest_is_of_any_measure(summary):
    pooled = pooled_errors(summary, "bias", confidence=0.95)
    figure = forest_figure(
        summary,
        Measure("bias", "bias, %", digits=1, worth_nothing=0.0),
        confidence=0.95,
        title="LVEF",
        pooled=pooled,
    )
    (axes,) = figure.axes
    points = sorted(float(line.get_xdata()[0]) for line in drawn(axes, "estimate"))
    assert points == pytest.approx(sorted(summary["bias"]))
    assert {"Exams", "bias, % (95 % interval)", "120"} <= set(words(figure))
    row = summary.iloc[0]
    told = f"{row['bias']:.1f} ({row['bias_low']:.1f}-{row['bias_high']:.1f})"
    assert told in words(figure) or told.replace("-", " to ", 1) in words(figure)


def test_axis_limits_are_round_and_hold_everything():
    table = pd.DataFrame({"mae": [5.3, 6.1], "mae_low": [4.7, 5.2], "mae_high": [6.2, 7.3]})
    low, high = axis_limits(table, Measure("mae", "mean absolute error"), [3.4])
    assert low <= 3.4
    assert high >= 7.3
    assert (2 * low, 2 * high) == (round(2 * low), round(2 * high))
