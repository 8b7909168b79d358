"""A study's analysis: one label's tables, from predictions alone."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from datamodules.errors import InputError
from experiments.evaluation.analysis import (
    Settings,
    analyse,
    analyse_several,
    aurocs,
    macro_aurocs,
)
from experiments.evaluation.comparison import compare
from experiments.evaluation.operating import operating_points
from experiments.evaluation.predictions import check_predictions
from experiments.evaluation.summary import summarise

SETTINGS = Settings(
    confidence=0.95,
    resamples=20,
    auroc_resamples=30,
    seed=3,
    sensitivity=0.9,
    partial_auroc_from=0.9,
    age_edges=(50, 65),
    decision_thresholds=(0.1, 0.2),
    subgroups=("device",),
)


def predictions(**columns):
    generator = np.random.default_rng(0)
    parts = []
    for model in ("mae", "cnn"):
        for institution, split in (("home", "val"), ("home", "test"), ("north", "external"),
                                   ("south", "external")):  # fmt: skip
            ids = np.arange(60)
            target = (ids % 3 == 0).astype(int)
            logit = target - 0.5 + generator.normal(size=60)
            parts.append(
                pd.DataFrame(
                    {
                        "model": model,
                        "institution": institution,
                        "split": split,
                        "patient_id": [f"{split}{i // 2}" for i in ids],
                        "exam_id": [f"{split}{i}" for i in ids],
                        "target": target,
                        "logit": logit,
                        "probability": 1 / (1 + np.exp(-logit)),
                    }
                )
            )
    return check_predictions(pd.concat(parts).assign(**columns), "ours")


def test_it_needs_neither_torch_nor_matplotlib():
    code = (
        "import sys; import experiments.evaluation.analysis; "
        "print([name for name in ('torch', 'lightning', 'mlflow', 'matplotlib')"
        " if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_its_tables_are_those_of_the_statistics():
    table = predictions(label="lvsd")
    analysis = analyse(aurocs(table, SETTINGS, common=False), SETTINGS)
    assert analysis.label == "lvsd"
    assert analysis.models == ["mae", "cnn"]
    assert (analysis.development, analysis.external) == (["home"], ["north", "south"])
    pd.testing.assert_frame_equal(analysis.summary, summarise(table, **SETTINGS.of_aurocs))
    pd.testing.assert_frame_equal(analysis.comparisons, compare(table, **SETTINGS.of_aurocs))
    points = operating_points(table, sensitivity=0.9, **SETTINGS.bootstrap)
    pd.testing.assert_frame_equal(analysis.operating.drop(columns="label"), points)
    tables = [value for value in vars(analysis).values() if isinstance(value, pd.DataFrame)]
    assert len(tables) == 10
    assert all(set(table["label"]) == {"lvsd"} for table in tables)
    assert analysis.own_summary is analysis.subgroups is analysis.gaps is None


def test_resamples_of_aurocs_are_their_own():
    assert SETTINGS.of_aurocs == SETTINGS.bootstrap | {"resamples": 30}


def test_models_are_judged_on_exams_that_all_have():
    table = predictions()
    lost = (table["model"] == "cnn") & table["exam_id"].isin(["external7", "val3"])
    found = aurocs(table[~lost], SETTINGS, common=False)
    assert found.own_summary is not None
    of_external = found.summary[found.summary["institution"] == "north"]
    assert set(of_external["n"]) == {59}
    own = found.own_summary[found.own_summary["institution"] == "north"]
    assert set(own["n"]) == {59, 60}
    validation = found.predictions[found.predictions["split"] == "val"]
    assert set(validation["model"].value_counts()) == {59, 60}
    found = aurocs(table[~lost], SETTINGS, common=True)
    validation = found.predictions[found.predictions["split"] == "val"]
    assert set(validation["model"].value_counts()) == {59}
    assert set(found.comparisons["left_out"]) == {0}


def test_patients_are_grouped_by_what_is_known_of_them():
    table = predictions()
    exams = table.drop_duplicates(["institution", "exam_id"])[["institution", "exam_id"]]
    exams = exams.assign(device=np.where(np.arange(len(exams)) % 2, "a", "b"), sex=None)
    found = aurocs(table, SETTINGS, common=False)
    analysis = analyse(found, SETTINGS, exams=exams)
    assert analysis.subgroups is not None
    assert analysis.gaps is not None
    assert set(analysis.subgroups["variable"]) == set(analysis.gaps["variable"]) == {"device"}
    inside = found.predictions["split"] != "external"
    internal = aurocs(found.predictions[inside], SETTINGS, common=False)
    assert analyse(internal, SETTINGS, exams=exams).subgroups is None


def test_several_labels_are_each_their_own_and_one_macro_average():
    first = predictions(label="lvsd")
    second = first.assign(label="ph", target=1 - first["target"])[::2]
    both = pd.concat([first, second], ignore_index=True)
    found = {
        label: aurocs(rows, SETTINGS, common=False)
        for label, rows in both.groupby("label", sort=False)
    }
    macro = macro_aurocs(both, found, SETTINGS, common=False)
    several = analyse_several(macro, found, SETTINGS, folds=dict.fromkeys(found, ()))
    alone = analyse(found["ph"], SETTINGS)
    pd.testing.assert_frame_equal(several.labels["ph"].calibration, alone.calibration)
    overall = several.overall
    assert overall.own_summary is None
    assert list(overall.operating["label"].unique()) == ["lvsd", "ph"]
    mean = (found["lvsd"].summary["auroc"] + found["ph"].summary["auroc"]) / 2
    np.testing.assert_allclose(overall.summary["auroc"], mean, rtol=1e-12)
    assert set(overall.summary["label"]) == set(overall.pooled["label"]) == {"macro average"}
    assert (overall.development, overall.external) == (["home"], ["north", "south"])


def test_a_macro_average_is_of_exams_that_all_models_have_label_by_label():
    first = predictions(label="lvsd")
    both = pd.concat([first, first.assign(label="ph")], ignore_index=True)
    lost = (both["model"] == "cnn") & (both["label"] == "ph") & (both["exam_id"] == "external7")
    found = {
        label: aurocs(rows, SETTINGS, common=False)
        for label, rows in both[~lost].groupby("label", sort=False)
    }
    macro = macro_aurocs(both[~lost], found, SETTINGS, common=False)
    assert macro.own_summary is not None
    north = macro.own_summary["institution"] == "north"
    assert macro.own_summary[north]["auroc"].iloc[0] != macro.summary[north]["auroc"].iloc[0]
    of_north = macro.comparisons["institution"] == "north"
    assert set(macro.comparisons.loc[of_north, "left_out"]) == {1}


def test_a_given_threshold_is_used_and_none_is_chosen():
    table = predictions(label="lvsd")
    settings = replace(SETTINGS, thresholds={"lvsd": 0.3})
    analysis = analyse(aurocs(table, settings, common=False), settings)
    points = operating_points(
        table, thresholds={"mae": 0.3, "cnn": 0.3}, sensitivity=0.9, **SETTINGS.bootstrap
    )
    pd.testing.assert_frame_equal(analysis.operating.drop(columns="label"), points)
    with pytest.raises(InputError, match="no predictions of lvsd. The labels are ph, af"):
        settings.check(["ph", "af"])


def test_a_macro_average_is_over_labels_that_all_models_have():
    first = predictions(label="lvsd")
    both = pd.concat([first, first.assign(label="ph"), first.assign(label="af")])
    both = both[(both["label"] != "af") | (both["model"] != "cnn")].reset_index(drop=True)
    found = {
        label: aurocs(rows, SETTINGS, common=False)
        for label, rows in both.groupby("label", sort=False)
    }
    macro = macro_aurocs(both, found, SETTINGS, common=False)
    several = analyse_several(macro, found, SETTINGS, folds=dict.fromkeys(found, ()))
    assert set(macro.summary["labels"]) == set(several.measures["labels"]) == {2}
    assert set(macro.summary["left_out"]) == {""}
    assert macro.own_summary is not None
    assert macro.own_summary.groupby("model")["labels"].max().to_dict() == {"mae": 3, "cnn": 2}
    alone = {label: found[label] for label in ("af",)} | {"lvsd": found["lvsd"]}
    alone["lvsd"] = aurocs(first[first["model"] == "cnn"], SETTINGS, common=False)
    rows = pd.concat([of.predictions for of in alone.values()])
    assert set(macro_aurocs(rows, alone, SETTINGS, common=False).summary["labels"]) == {1}
