"""The report on several labels: the macro average first, then all labels, then each."""

from dataclasses import replace
from io import StringIO

import numpy as np
import pandas as pd
import pytest
from test_study_report import SETTINGS, STUDY, Page, cohort_and_predictions

from experiments.evaluation.analysis import analyse_several, aurocs, macro_aurocs
from experiments.evaluation.macro import macro_summary
from experiments.evaluation.predictions import check_predictions
from experiments.figures.report import build_several
from experiments.figures.study import titled

NAMES = ("mi", "sttc", "<cd>")


def built(predictions, study=STUDY, settings=SETTINGS, folds=(), cohort=None):
    checked = check_predictions(predictions, "ours")
    found = {
        label: aurocs(rows, settings, common=False)
        for label, rows in checked.groupby("label", sort=False)
    }
    macro = macro_aurocs(checked, found, settings, common=False)
    of_folds = {label: [fold[fold["label"] == label] for fold in folds] for label in found}
    exams = None if cohort is None else cohort.exams
    several = analyse_several(macro, found, settings, exams=exams, folds=of_folds)
    return build_several(several, replace(study, target=titled(tuple(found)), cohort=cohort))


def several_labels(names=NAMES, institutions=("home", "north", "south", "west"), seed=0):
    """The last institution has no positive exam of any label but the first."""
    tables = []
    for number, name in enumerate(names):
        cohort, predictions = cohort_and_predictions(institutions, seed=seed + number)
        tables.append(predictions.assign(label=name))
    first = tables[0]
    first.loc[first["institution"] == institutions[-1], "target"] = (
        first.loc[first["institution"] == institutions[-1], "exam_id"].astype(int) % 4 == 0
    ).astype(int)
    exams = cohort.exams.rename(columns={"target": "target a"})
    targets = {name: f"target {number}" for number, name in enumerate(names)}
    for column in targets.values():
        exams[column] = exams["target a"]
    return replace(cohort, exams=exams, targets=targets), pd.concat(tables, ignore_index=True)


@pytest.fixture(scope="module")
def made():
    cohort, predictions = several_labels()
    return built(predictions, cohort=cohort), predictions


@pytest.fixture(scope="module")
def page(made):
    return Page(made[0].html)


def test_the_macro_average_answers_first(made, page):
    summary = macro_summary(check_predictions(made[1], "ours"), confidence=0.95)
    row = summary[(summary["model"] == "mae") & (summary["role"] == "pooled")].iloc[0]
    told = f"the macro average AUROC of mae over 3 labels is {row['auroc']:.3f} (95 % interval"
    assert told in page.text
    assert page.text.index(told) < page.text.index("By label its AUROC was from")
    assert "its macro average AUROC differs from that of cnn" in page.text
    assert "mi, sttc and <cd>" in page.text


def test_averages_over_different_labels_are_said(page):
    assert "At west it is over other labels than in all" in page.text
    assert "Left out: at west sttc, <cd>." in page.text
    assert "Averages over different labels must not be compared." in page.text
    assert "has north for 3 labels, south for 3 labels, west for 3 labels (2 not" in page.text
    assert "counts each of 3 labels alike" in page.text


def test_every_label_has_a_section_and_one_checklist(made, page):
    assert [f"label-{n}" for n in (1, 2, 3)] == [
        attributes["id"]
        for tag, attributes in page.tags
        if tag == "section" and attributes["id"].startswith("label-")
    ]
    figures = set(made[0].figures)
    assert {"forest", "labels", "flow"} < figures
    assert {f"{name}_3_cd" for name in ("roc", "reliability")} < figures
    status = pd.read_csv(StringIO(made[0].tables["tripod_ai.csv"])).set_index("item")
    assert "left to the author" not in set(status.loc[["12f", "15", "24"], "status"])
    assert set(status.loc[["12f", "15", "24"], "where"]) == {"Labels"}


def test_csv_tables_hold_every_label_at_every_institution(made):
    tables = {
        name: pd.read_csv(StringIO(made[0].tables[f"{name}.csv"]))
        for name in ("results", "comparisons", "heterogeneity", "operating_points", "calibration",
                     "ranking", "decision_curves", "reliability", "subgroups", "gaps")
    }  # fmt: skip
    for name in ("results", "comparisons", "heterogeneity"):
        assert list(tables[name]["label"].unique()) == ["macro average", *NAMES]
    for name in list(tables)[3:]:
        assert list(tables[name]["label"].unique()) == list(NAMES)
    assert set(tables["operating_points"]["institution"]) == {
        "home", "north", "south", "west", "all-external",
    }  # fmt: skip


def test_table_1_counts_each_label(made):
    table = pd.read_csv(StringIO(made[0].tables["table1.csv"])).set_index("characteristic")
    for name in NAMES:
        assert table.loc[f"{name}: positive, n (%)", "north (external)"] == "29 (25.4)"


def test_many_labels_have_a_forest_and_a_table_but_no_sections():
    names = [f"label {number}" for number in range(30)]
    cohort, predictions = several_labels(names, ("home", "north"))
    evidence = built(predictions, cohort=cohort)
    page = Page(evidence.html)
    assert "30 labels: quickstart" in page.text
    assert not any(a.get("id", "").startswith("label-") for _, a in page.tags)
    assert len(pd.read_csv(StringIO(evidence.tables["table1_labels.csv"]))) == 60
    assert "any of 30 labels: positive, n (%)" in evidence.tables["table1.csv"]
    labels = pd.read_csv(StringIO(evidence.tables["labels.csv"]))
    assert list(labels["label"].unique()) == names
    told = built(predictions[predictions["label"].isin(names[:2])]).html
    assert 'id="label-2"' in told
    few = replace(SETTINGS, label_sections=1)
    told = built(predictions[predictions["label"].isin(names[:2])], settings=few).html
    assert 'id="label-2"' not in told


def test_folds_have_thresholds_of_their_own_by_label():
    folds = [
        several_labels(NAMES[:2], ("home", "north"))[1],
        several_labels(NAMES[:2], ("north", "home"), seed=5)[1],
    ]
    external = pd.concat(folds)
    external = external[external["split"] == "external"]
    order = external["model"].map({"mae": 0, "cnn": 1})
    external = external.iloc[np.argsort(order, kind="stable")].reset_index(drop=True)
    study = replace(STUDY, protocol="leave_site_out")
    evidence = built(external, study, folds=folds)
    points = pd.read_csv(StringIO(evidence.tables["operating_points.csv"]))
    thresholds = points.groupby(["label", "role"])["threshold"]
    assert thresholds.count().to_dict() == {
        ("mi", "external"): 8, ("mi", "pooled"): 0, ("sttc", "external"): 8, ("sttc", "pooled"): 0,
    }  # fmt: skip
    assert points["sensitivity"].notna().all()
    assert points.groupby("label")["threshold"].first().nunique() == 2


def test_a_label_of_one_hospital_alone_is_shown_there():
    cohort, predictions = several_labels(NAMES[:2], ("home", "north", "south"))
    south = predictions["institution"] == "south"
    predictions.loc[south, "target"] = (predictions.loc[south, "exam_id"].astype(int) % 3 == 0) * 1
    rows = predictions[(predictions["label"] == "mi") | (predictions["institution"] == "south")]
    evidence = built(rows, cohort=cohort)
    shown = pd.read_csv(StringIO(evidence.tables["labels.csv"]))
    assert shown.groupby("label")["institution"].unique().str[0].to_dict() == {
        "mi": "all-external", "sttc": "south",
    }  # fmt: skip
    text = Page(evidence.html).text
    assert "sttc (south)" in text[text.index("By label its AUROC") :][:120]
    assert "there, which is named): AUROC by label" in text
    assert "has north for 2 labels (1 not estimable), south for 2 labels." in text
    pooled = pd.read_csv(StringIO(evidence.tables["heterogeneity.csv"]))
    assert set(pooled.loc[pooled["label"] == "macro average", "left_out"]) == {"north"}
    assert "At north it is over other labels than in all, for few patients of a class or none" in (
        text
    )
    assert "Across institutions it was" not in text


def test_a_label_without_an_exam_at_the_reference_is_there_and_said():
    predictions = several_labels(NAMES[:2], ("home", "north"))[1]
    evidence = built(predictions[(predictions["label"] == "mi") | (predictions["split"] == "test")])
    text = Page(evidence.html).text
    assert "It has no exam of sttc there." in text
    assert "sttc 0 / 0 no exam there no exam there" in text
    shown = pd.read_csv(StringIO(evidence.tables["labels.csv"])).set_index("label")
    assert set(shown.loc["sttc", "n"]) == {0}


def test_labels_of_some_models_are_told_from_labels_of_one_class():
    predictions = several_labels(("mi", "c, d", "af"), ("home", "north", "south", "west"))[1]
    text = Page(
        built(
            predictions[(predictions["label"] != "af") | (predictions["model"] != "cnn")],
            replace(STUDY, main="mae"),
        ).html
    ).text
    assert "There are no predictions of af by cnn. Averages are over the labels that all" in text
    assert "macro average AUROC of mae over 2 labels" in text
    assert "Left out: at west c, d." in text
    assert "counts each of 2 labels alike" in text
    none = predictions[(predictions["label"] == "mi") == (predictions["model"] == "mae")]
    text = Page(built(none).html).text
    assert "There are no predictions of c, d, af by mae; of mi by cnn. No label has pred" in text
    assert "Averages over different labels must not be compared." in text


def test_intervals_of_patients_with_several_exams_are_said_as_they_are(page):
    predictions = several_labels(NAMES[:2], ("home", "north"))[1]
    patients = (predictions["exam_id"].astype(int) // 2).astype(str)
    text = Page(built(predictions.assign(patient_id=patients)).html).text
    assert "intervals are by patients (of the macro average AUROC in closed form" in text
    assert "several exams: intervals resample" not in text
