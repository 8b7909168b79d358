"""A study's analysis: one label's tables, from predictions alone."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from datamodules.errors import InputError
from experiments.evaluation.analysis import Settings, analyse, aurocs
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
    pd.testing.assert_frame_equal(analysis.operating, points)
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


def test_several_labels_are_refused():
    both = pd.concat([predictions(label="lvsd"), predictions(label="ph")])
    with pytest.raises(InputError, match="lvsd, ph"):
        aurocs(both, SETTINGS, common=False)
