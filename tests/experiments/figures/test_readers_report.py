"""A reader study's report: its words and tables are the analysis', and say what it cannot."""

import io
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_rel

from experiments.evaluation.auroc import NOT_ESTIMABLE
from experiments.evaluation.mrmc import BOTH_RANDOM, METRICS, sample_size
from experiments.evaluation.reader_study import analyse, check_readings
from experiments.figures.html import Facts, Listing, Paragraph, Picture, Report, Section, render
from experiments.figures.readers_report import (
    SIMULATED_READERS,
    Plan,
    reader_blocks,
    reader_limits,
    size_of,
)
from experiments.figures.tables import Table

# Right answers out of 10 positive and 10 negative cases: reader -> arm -> (positive, negative).
RIGHT = {
    "<b>&_%": {"without": (5, 7), "with": (8, 8)},
    "r2": {"without": (6, 6), "with": (7, 9)},
    "r3": {"without": (4, 8), "with": (9, 6)},
    "r4": {"without": (7, 7), "with": (6, 7)},
}
ACCURACY = {"without": [12 / 20, 12 / 20, 12 / 20, 14 / 20],
            "with": [16 / 20, 16 / 20, 15 / 20, 13 / 20]}  # fmt: skip


def yes_no(right=RIGHT, classes=(1, 0)):
    rows = [
        {"reader": reader, "case": f"{truth}-{case}", "arm": arm, "truth": truth,
         "reading": float((case < of_class[1 - truth]) == bool(truth))}
        for reader, arms in right.items()
        for arm, of_class in arms.items()
        for truth in classes
        for case in range(10)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def analysed(readings, **options):
    return analyse(check_readings(readings, "made"), confidence=0.95, **options)


def blocks_of(study, *, plan=None, recovery=None, confidence=0.95):
    return reader_blocks(
        study, target="PH", threshold=0.5, confidence=confidence, plan=plan, recovery=recovery
    )


def plan_of(study, readers=(4, 8), gain=0.05, max_cases=500):
    components = study.components["accuracy"]
    table = sample_size(
        gain, components, readers=readers, wanted_power=0.8, alpha=0.05, max_cases=max_cases
    )
    return Plan(gain, 0.8, max_cases, table)


def paragraphs(blocks):
    return [block.text for block in blocks if isinstance(block, Paragraph)]


def tables(blocks):
    return {block.name: block for block in blocks if isinstance(block, Table)}


def cells(table, **where):
    """The one shown row in which columns are as given."""
    shown = table.shown
    for column, value in where.items():
        shown = shown[shown[column.replace("_", " ")] == value]
    (row,) = shown.to_dict(orient="records")
    return row


@pytest.fixture(scope="module")
def made():
    study = analysed(yes_no())
    return study, blocks_of(study, plan=plan_of(study))


@pytest.fixture(scope="module")
def van_dyke(real_data):
    """Treatment 1 as without and 2 as with the model; ratings 1 to 5 as 0 to 1."""
    table = pd.read_csv(real_data / "statistics" / "vandyke.csv").astype({"case": str})
    readings = table.assign(
        reader="r" + table["reader"].astype(str),
        arm=table["treatment"].map({1: "without", 2: "with"}),
        reading=(table["rating"] - 1) / 4,
    )
    study = analysed(readings)
    return readings, study, blocks_of(study, plan=plan_of(study))


def test_the_answer_is_what_was_published_of_van_dyke(van_dyke):
    """MRMCaov's figures: see tests/experiments/evaluation/test_mrmc.py."""
    _, _, blocks = van_dyke
    told = "AUROC 0.897 without and 0.941 with the model, +0.044 (-0.000 to +0.088), p = 0.052"
    assert told in paragraphs(blocks)[1]
    row = cells(
        tables(blocks)["readers_mrmc"], measure="AUROC", claim_for="other readers, other cases"
    )
    assert (row["F"], row["df"], row["standard error"]) == ("4.46", "1, 15.3", "0.0207")
    row = cells(
        tables(blocks)["readers_mrmc"], measure="AUROC", claim_for="these readers, other cases"
    )
    assert (row["F"], row["df"], row["p"]) == ("5.48", "1, infinite", "p = 0.019")


def test_the_answer_is_the_analysis_of_van_dyke(van_dyke):
    readings, study, blocks = van_dyke
    first = paragraphs(blocks)[0]
    assert first.startswith("5 readers judged 114 cases (45 positive) without and with the model.")
    right = (readings["reading"] >= 0.5) == (readings["truth"] == 1)
    accuracy = right.groupby([readings["reader"], readings["arm"]]).mean().unstack()
    means = 100 * accuracy.mean()
    assert f"was {means['without']:.1f} % without and {means['with']:.1f} % with" in first
    assert "it rose in 4 and fell in 1 of 5 readers" in first
    row = study.mrmc[study.mrmc["analysis"] == BOTH_RANDOM].set_index("metric").loc["accuracy"]
    gain, low, high = 100 * row[["gain", "low", "high"]].to_numpy(dtype=float)
    assert gain == pytest.approx(means["with"] - means["without"])
    assert f"is {gain:+.1f} points ({low:+.1f} to {high:+.1f}), p = {row['p']:.3f}." in first
    assert low < 0 < high
    assert f"A gain is not shown for other readers and other cases: anything from {low:+.1f}" in (
        first
    )
    paired = ttest_rel(accuracy["with"], accuracy["without"])
    bounds = [100 * bound for bound in paired.confidence_interval()]
    assert f"({bounds[0]:+.1f} to {bounds[1]:+.1f}), p = {paired.pvalue:.3f}. Wilc" in first
    of_gee = study.gee[study.gee["clusters"] == "readers and cases"].set_index("metric")["p"]
    shown = tables(blocks)["readers_results"]
    assert cells(shown, measure="specificity")["p, GEE"] == f"p = {of_gee['specificity']:.3f}"
    raw = pd.read_csv(io.StringIO(tables(blocks)["readers_mrmc"].files()["readers_mrmc.csv"]))
    pd.testing.assert_frame_equal(raw, study.mrmc)


def test_figures_of_a_small_table(made):
    study, blocks = made
    assert size_of(study) == "4 readers, 20 cases (10 positive)"
    first = paragraphs(blocks)[0]
    paired = ttest_rel(ACCURACY["with"], ACCURACY["without"])
    low, high = (100 * bound for bound in paired.confidence_interval())
    assert "Mean accuracy was 62.5 % without and 75.0 % with the model; it rose in 3" in first
    assert f"gives +12.5 points ({low:+.1f} to {high:+.1f}), p = {paired.pvalue:.3f}" in first
    shown = tables(blocks)
    row = cells(shown["readers_results"], measure="accuracy")
    assert row["without the model"].startswith("62.5 (")
    assert row["p, paired t-test"] == f"p = {paired.pvalue:.3f}"
    row = cells(shown["readers_each"], reader="<b>&_%")
    assert [row[f"{name}, without"] for name in METRICS[:3]] == ["60.0 %", "50.0 %", "70.0 %"]
    assert [row[f"{name}, with"] for name in METRICS[:3]] == ["80.0 %", "80.0 %", "80.0 %"]
    spread = 100 * np.std(ACCURACY["with"], ddof=1)
    row = cells(shown["readers_paired"], measure="accuracy")
    assert row["with the model"] == f"75.0 ± {spread:.1f} %"
    assert (row["t"], row["df"]) == (f"{paired.statistic:.2f}", "3")
    row = cells(shown["readers_gee"], measure="sensitivity", claim_for="other readers, these cases")
    # 22 and 30 right of 40; the model is saturated in the arm
    assert row["odds ratio (95 % interval)"].startswith(f"{(30 / 10) / (22 / 18):.2f} (")
    assert (row["readers"], row["cases"], row["df"]) == (4, 10, "3")


def test_yes_or_no_has_no_auroc(made):
    study, blocks = made
    assert "AUROC not estimable, as the answers are yes or no." in paragraphs(blocks)[1]
    shown = tables(blocks)
    for name in ("readers_results", "readers_paired", "readers_mrmc"):
        row = cells(shown[name], measure="AUROC")
        row = {key: cell for key, cell in row.items() if key not in ("measure", "claim for")}
        assert set(row.values()) <= {NOT_ESTIMABLE, ""}
    each = shown["readers_each"].shown
    assert (each[["AUROC, without", "AUROC, with"]] == NOT_ESTIMABLE).all(axis=None)
    limits = reader_limits(study, confidence=0.95, simulated=False)
    assert any("The AUROC is not estimable over readers and cases" in text for text in limits)


@pytest.mark.parametrize(
    ("classes", "lost", "reason"),
    [((0,), "sensitivity", "no case is positive"), ((1,), "specificity", "no case is negative")],
)
def test_a_class_that_is_missing_is_said(classes, lost, reason):
    study = analysed(yes_no(classes=classes))
    blocks = blocks_of(study)
    assert f"{lost} not estimable, as {reason}" in paragraphs(blocks)[1]
    assert f"AUROC not estimable, as {reason}" in paragraphs(blocks)[1]
    row = cells(tables(blocks)["readers_results"], measure=lost)
    assert {row[key] for key in row if key != "measure"} == {NOT_ESTIMABLE}
    limits = " ".join(reader_limits(study, confidence=0.95, simulated=False))
    assert f"The {lost} is not estimable over readers and cases, as {reason}." in limits
    html = render(Report("t", "s", {}, [Section("a", "A", blocks)]))
    assert "nan" not in re.sub(r"<img[^>]*>|<style>.*?</style>", "", html, flags=re.DOTALL).lower()


def test_one_reader():
    study = analysed(yes_no({"r1": RIGHT["r2"]}))
    blocks = blocks_of(study)
    first, others, *_, asked, _ = paragraphs(blocks)
    assert first.startswith("1 reader judged 20 cases (10 positive)")
    assert "it rose in 1 of 1 reader." in first
    assert "random the gain is not estimable, as there is one reader." in first
    assert "paired t-test over readers is not estimable, as there is one reader." in first
    assert "sensitivity 60.0 % without and 70.0 % with the model, +10.0 points, its" in others
    assert asked == "Cases for a next study: not estimable, as there is one reader."
    assert "readers_sample_size" not in tables(blocks)
    limits = reader_limits(study, confidence=0.95, simulated=False)
    assert limits[0].startswith("1 reader: nothing tells how readers vary")


def test_what_rounds_to_nothing_has_no_sign(made):
    lost = with_accuracy(made[0], "paired", gain=-1e-17, low=np.nan, t=-1e-16)
    row = cells(tables(blocks_of(lost))["readers_paired"], measure="accuracy")
    assert (row["gain (95 % interval)"], row["t"]) == ("+0.0 points", "0.00")


def test_readers_who_gain_the_same():
    study = analysed(yes_no(dict.fromkeys("abc", RIGHT["r2"])))
    first = paragraphs(blocks_of(study))[0]
    assert "The paired t-test over readers is not estimable, as all readers gain the same." in first
    assert "Wilcoxon's signed-rank test: p = 0.250." in first


def with_accuracy(study, name, **values):
    """The study with other figures of the accuracy, over readers and cases or over readers."""
    table = getattr(study, name).copy()
    rows = table["metric"] == "accuracy"
    if name == "mrmc":
        rows &= table["analysis"] == BOTH_RANDOM
    table.loc[rows, list(values)] = list(values.values())
    return replace(study, **{name: table})


@pytest.mark.parametrize(
    ("low", "high", "told", "agree"),
    [
        (0.02, 0.2, "A gain is shown for other readers and other cases like these.", True),
        (-0.2, -0.02, "A loss is shown for other readers and other cases like these.", False),
        (-0.02, 0.2, "anything from -2.0 to +20.0 points fits these readings.", False),
    ],
)
def test_the_interval_decides_what_is_said(made, low, high, told, agree):
    study = with_accuracy(made[0], "paired", low=0.01, high=0.2)
    first = paragraphs(blocks_of(with_accuracy(study, "mrmc", low=low, high=high)))[0]
    assert told in first
    assert ("At the 5 % level the multi-reader multi-case analysis and the paired" in first) != (
        agree
    )


def test_the_next_study_says_what_was_asked(made):
    study, _ = made
    plan = plan_of(study, readers=(3, 60), max_cases=60)
    blocks = blocks_of(study, plan=plan)
    (asked,) = [text for text in paragraphs(blocks) if text.startswith("For the next study")]
    assert "a gain in accuracy of 5 points with a power of 80 % at the 5 % level" in asked
    few = cells(tables(blocks)["readers_sample_size"], readers=3)
    assert few["cases"] == "more than 60"
    assert few["power"] == f"{100 * plan.table['power'][0]:.1f} % with 60"
    wide = tables(blocks_of(study, plan=plan_of(study, readers=(60,), gain=0.3)))
    (row,) = wide["readers_sample_size"].shown.to_dict(orient="records")
    assert int(row["cases"]) <= 500
    assert float(row["power"].removesuffix(" %")) >= 80
    lost = plan.table.assign(power=np.nan)
    blocks = blocks_of(study, plan=replace(plan, table=lost))
    assert (tables(blocks)["readers_sample_size"].shown["power"] == NOT_ESTIMABLE).all()


def recovery(*recovered):
    return pd.DataFrame(
        {
            "metric": METRICS[: len(recovered)],
            "true_without": 0.6,
            "true_with": 0.7,
            "true_gain": 0.1,
            "gain": 0.12,
            "low": [np.nan if inside is pd.NA else 0.01 for inside in recovered],
            "high": [np.nan if inside is pd.NA else 0.2 for inside in recovered],
            "recovered": pd.array(recovered, dtype="boolean"),
        }
    )


@pytest.mark.parametrize(
    ("recovered", "told"),
    [
        ((True, True, True), "for 3 of 3 measures. A right analysis"),
        ((True, False, True), "for 2 of 3 measures; outside: sensitivity. A right"),
        (
            (True, False, True, pd.NA),
            "for 2 of 3 measures; outside: sensitivity; not estimable: AUROC. A right",
        ),
        ((pd.NA,), "Whether the simulated truth is recovered is not estimable."),
    ],
)
def test_simulated_readers_are_marked_and_their_truth_is_counted(made, recovered, told):
    study, _ = made
    blocks = blocks_of(study, plan=plan_of(study), recovery=recovery(*recovered))
    texts = paragraphs(blocks)
    assert texts[0].startswith(f"{SIMULATED_READERS} 4 simulated readers judged")
    assert any(told in text for text in texts)
    captioned = [block for block in blocks if isinstance(block, Table | Picture)]
    assert {block.caption.partition(".")[0] for block in captioned} == {"SIMULATED READERS"}
    assert {block.name for block in captioned if isinstance(block, Picture)} == {
        "readers_simulated"
    }
    shown = tables(blocks)
    assert all(name.startswith("readers_simulated_") for name in shown)
    inside = {True: "yes", False: "no"}
    found = shown["readers_simulated_recovery"].shown
    assert found["truth inside"].tolist() == [
        NOT_ESTIMABLE if value is pd.NA else inside[value] for value in recovered
    ]
    assert (found["true gain"].iloc[0], found["true, with"].iloc[0]) == ("+10.0 points", "70.0 %")
    limits = reader_limits(study, confidence=0.95, simulated=True)
    assert limits[0] == SIMULATED_READERS
    assert "wash-out" not in " ".join(limits)


def test_real_readers_are_not_called_simulated(made):
    study, blocks = made
    limits = reader_limits(study, confidence=0.95, simulated=False)
    html = render(Report("t", "s", {}, [Section("a", "A", [*blocks, Listing(limits)])]))
    assert "simulated" not in html.lower()
    assert [block.name for block in blocks if isinstance(block, Picture)] == ["readers"]
    assert all(re.match("readers_(?!simulated)", name) for name in tables(blocks))


def test_limits_are_those_of_few_readers(made):
    told = " ".join(reader_limits(made[0], confidence=0.95, simulated=False))
    df2 = made[0].mrmc.set_index(["metric", "analysis"]).loc[("accuracy", BOTH_RANDOM), "df2"]
    assert "4 readers: the paired t-test has 3 degrees of freedom" in told
    assert f"analysis of accuracy {df2:.1f} in its denominator" in told
    assert "Wilcoxon's signed-rank test cannot be below 0.125" in told
    assert "unless a wash-out lay between the readings" in told
    assert "10 of 20 cases (50.0 %) are positive" in told
    assert "All 160 readings are there" in told
    assert "Wilcoxon" not in " ".join(reader_limits(made[0], confidence=0.8, simulated=False))


def test_names_are_escaped_and_the_page_loads_nothing(made):
    _, blocks = made
    html = render(Report("t", "s", {}, [Section("a", "A", blocks)]))
    assert "&lt;b&gt;&amp;_%" in html
    assert "<b>&" not in html
    assert "<script" not in html
    assert not re.search(r"url\(|@import|https?:", html)
    sources = re.findall(r'src="([^"]*)"', html)
    assert len(sources) == 1
    assert sources[0].startswith("data:image/svg+xml;base64,")
    latex = tables(blocks)["readers_each"].latex()
    assert r"\textless{}b\textgreater{}\&\_\% &" in latex
    assert "<b>" not in latex


def test_every_test_has_its_source(made):
    (methods,) = [block for block in made[1] if isinstance(block, Facts)]
    told = " ".join(methods.facts.values())
    for source in ("1995;24:285", "2007;26:596", "1986;73:13", "2007;165:453", "2001;57:126"):
        assert source in told
