"""The reader study's figure: every point where the tables have it, and marked where simulated."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from experiments.evaluation.auroc import NOT_ESTIMABLE
from experiments.evaluation.reader_study import analyse, check_readings
from experiments.figures.reader_study import SIMULATED, reader_study_figure


def study(prevalence=0.5, readers=5, cases=40):
    generator = np.random.default_rng(0)
    arm, reader, case = (index.ravel() for index in np.indices((2, readers, cases)))
    truth = (case < prevalence * cases).astype(int)
    score = (0.5 + 0.8 * arm) * (truth - 0.5) + generator.normal(size=arm.size)
    table = pd.DataFrame(
        {
            "reader": [f"r{number}" for number in reader],
            "case": case.astype(str),
            "arm": np.array(["without", "with"])[arm],
            "reading": 1 / (1 + np.exp(-score)),
            "truth": truth,
        }
    )
    return analyse(check_readings(table, "made"), confidence=0.95)


def draw(of, simulated=False):
    figure = reader_study_figure(of, confidence=0.95, title="PH", simulated=simulated)
    FigureCanvasAgg(figure).draw()
    return figure


def texts(figure):
    inside = [text for axes in figure.axes for text in axes.texts]
    return [text.get_text() for text in [*figure.texts, *inside]]


@pytest.fixture(scope="module")
def made():
    return study()


def test_lines_and_means_are_the_tables(made):
    accuracy, _ = draw(made).axes
    lines = {line.get_gid(): line for line in accuracy.get_lines()}
    table = made.readers.set_index(["reader", "arm"])["accuracy"]
    for reader in ("r0", "r4"):
        expected = [100 * table[reader, arm] for arm in ("without", "with")]
        assert lines[f"accuracy-{reader}"].get_ydata() == pytest.approx(expected)
    means = made.arms[made.arms["metric"] == "accuracy"].set_index("arm")
    for arm in ("without", "with"):
        assert lines[f"mean-{arm}"].get_ydata() == pytest.approx([100 * means.loc[arm, "mean"]])
        interval = 100 * means.loc[arm, ["low", "high"]].to_numpy(dtype=float)
        assert lines[f"interval-{arm}"].get_ydata() == pytest.approx(interval)


def test_arrows_lead_from_without_to_with(made):
    _, roc = draw(made).axes
    table = made.readers.set_index(["reader", "arm"])
    arrows = {text.get_gid(): text for text in roc.texts if text.get_gid()}
    assert len(arrows) == 5
    for arm, position in (("without", "get_position"), ("with", "xy")):
        row = table.loc[("r3", arm)]
        found = getattr(arrows["arrow-r3"], position)
        found = found() if callable(found) else found
        assert tuple(found) == pytest.approx((1 - row["specificity"], row["sensitivity"]))
        points = next(line for line in roc.get_lines() if line.get_gid() == f"points-{arm}")
        assert points.get_xydata()[3] == pytest.approx((1 - row["specificity"], row["sensitivity"]))


def test_simulated_readers_are_marked(made):
    marked = texts(draw(made, simulated=True))
    assert f"{SIMULATED} · PH" in marked
    assert "5 simulated readers, 40 cases, 20 positive" in marked
    real = texts(draw(made))
    assert "PH" in real
    assert not any("simulated" in text.lower() for text in real)


def test_what_is_not_estimable_is_said():
    _, roc = draw(study(prevalence=0)).axes
    assert NOT_ESTIMABLE in [text.get_text() for text in roc.texts]
    accuracy, _ = draw(study(readers=1)).axes
    told = [text.get_text() for text in accuracy.texts]
    assert f"Gain {NOT_ESTIMABLE}" in told
    assert told.count(NOT_ESTIMABLE) == 2
