"""The summary's rows, and its tables for people and for machines."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from experiments.evaluation.auroc import ADJUSTED_DELONG, CLUSTERED, NOT_ESTIMABLE
from experiments.evaluation.predictions import check_predictions
from experiments.evaluation.summary import (
    JSON_KEYS,
    markdown_table,
    results_table,
    summarise,
    summary_json,
)

SETTINGS = {"confidence": 0.95, "resamples": 200, "seed": 0}


@pytest.fixture(scope="module")
def predictions():
    """Two models; `home` developed on, `north` (patients come twice), `south`, `east` (no case)."""
    generator = np.random.default_rng(0)
    parts = []
    for model in ("mae", "cnn"):
        for institution, split, exams, prevalence in (
            ("home", "val", 60, 0.3),
            ("home", "test", 80, 0.3),
            ("north", "external", 100, 0.2),
            ("south", "external", 120, 0.25),
            ("east", "external", 40, 0.0),
        ):
            target = (np.arange(exams) < prevalence * exams).astype(int)
            logit = generator.normal(size=exams) + target
            patient = np.arange(exams) // (2 if institution == "north" else 1)
            patient += 1000 * (split == "val")
            parts.append(
                pd.DataFrame(
                    {
                        "model": model,
                        "institution": institution,
                        "split": split,
                        "patient_id": patient.astype(str),
                        "exam_id": [f"{split}{number}" for number in range(exams)],
                        "target": target,
                        "logit": logit,
                        "probability": 1 / (1 + np.exp(-logit)),
                    }
                )
            )
    return check_predictions(pd.concat(parts), "made here")


@pytest.fixture(scope="module")
def summary(predictions):
    return summarise(predictions, **SETTINGS)


def test_rows_and_roles(summary):
    of_cnn = summary[summary["model"] == "cnn"].set_index("institution")
    assert list(of_cnn.index) == ["home", "north", "south", "east", "all-external"]
    assert list(of_cnn["role"]) == ["development", *["external"] * 3, "pooled"]
    assert list(of_cnn["n"]) == [80, 100, 120, 40, 260]  # of `home` the internal test only
    assert list(of_cnn["positives"]) == [24, 20, 30, 0, 50]
    assert list(of_cnn["method"]) == [
        ADJUSTED_DELONG,
        CLUSTERED,
        ADJUSTED_DELONG,
        NOT_ESTIMABLE,
        CLUSTERED,
    ]


def test_values_are_scikit_learns(predictions, summary):
    for row in summary.itertuples():
        exams = predictions[(predictions["model"] == row.model) & (predictions["split"] != "val")]
        if row.role == "pooled":
            exams = exams[exams["split"] == "external"]
        else:
            exams = exams[exams["institution"] == row.institution]
        if row.institution == "east":
            assert np.isnan([row.auroc, row.auroc_low, row.auroc_high]).all()
        else:
            expected = roc_auc_score(exams["target"], exams["probability"])
            assert row.auroc == pytest.approx(expected)
            assert row.auroc_low < expected < row.auroc_high


def test_one_external_institution_is_not_pooled(predictions):
    one = predictions[predictions["institution"].isin(["home", "south"])]
    assert set(summarise(one, **SETTINGS)["role"]) == {"development", "external"}
    none = predictions[predictions["institution"] == "home"]
    assert list(summarise(none, **SETTINGS)["institution"]) == ["home", "home"]
    assert summarise(none[none["split"] == "val"], **SETTINGS).empty


def test_json_has_the_promised_keys_and_null(summary):
    rows = json.loads(json.dumps(summary_json(summary), allow_nan=False))
    assert len(rows) == 10
    assert all(tuple(row) == JSON_KEYS for row in rows)
    east = next(row for row in rows if row["institution"] == "east")
    assert (east["n"], east["positives"]) == (40, 0)
    assert east["auroc"] is east["auroc_low"] is east["auroc_high"] is None
    assert all(type(row["n"]) is int for row in rows)


def test_table_for_people(summary):
    best = {"north": 0.9}
    table = results_table(summary, {"mae": best, "cnn": best})
    assert list(table.columns) == [
        "institution", "role", "exams", "prevalence", "mae", "cnn", "ceiling",
    ]  # fmt: skip
    table = table.set_index("institution")
    assert list(table.index) == ["home", "north", "south", "east", "all-external"]
    assert table.at["north", "prevalence"] == "20.0 %"
    assert table.at["north", "exams"] == 100
    assert list(table["ceiling"]) == ["", "0.900", "", "", ""]
    assert table.at["east", "cnn"] == "not estimable"
    row = summary[(summary["model"] == "cnn") & (summary["institution"] == "south")].iloc[0]
    assert table.at["south", "cnn"] == (
        f"{row['auroc']:.3f} ({row['auroc_low']:.3f}-{row['auroc_high']:.3f})"
    )
    assert "ceiling" not in results_table(summary, None).columns


def test_models_with_ceilings_of_their_own(summary):
    fusion = {"north": 0.95, "all-external": 0.93}
    three = pd.concat([summary, summary[summary["model"] == "cnn"].assign(model="ecg")])
    table = results_table(three, {"mae": fusion, "cnn": fusion, "ecg": {"north": 0.9}})
    assert list(table.columns[-3:]) == ["ecg", "ceiling (mae, cnn)", "ceiling (ecg)"]
    table = table.set_index("institution")
    assert list(table["ceiling (mae, cnn)"]) == ["", "0.950", "", "", "0.930"]
    assert table.at["north", "ceiling (ecg)"] == "0.900"
    only = results_table(three, {"ecg": {"north": 0.9}})
    assert list(only.columns[-2:]) == ["ecg", "ceiling (ecg)"]


def test_a_model_tested_on_fewer_exams_says_so(predictions):
    short = predictions[(predictions["model"] == "mae") | (predictions["exam_id"] != "external99")]
    table = results_table(summarise(short, **SETTINGS), None).set_index("institution")
    assert table.at["north", "exams"] == 100
    assert table.at["north", "cnn"].endswith(", 99 exams")
    assert table.at["north", "mae"].endswith(")")


def test_markdown(summary):
    lines = markdown_table(results_table(summary, None)).splitlines()
    assert lines[0] == "| institution | role | exams | prevalence | mae | cnn |"
    assert lines[1] == "| --- | --- | --- | --- | --- | --- |"
    assert len(lines) == 2 + 5
    assert markdown_table(pd.DataFrame({"a|b": [1]})).startswith("| a\\|b |")
