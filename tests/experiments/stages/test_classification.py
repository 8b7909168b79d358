"""What is left on a run of one label, and of several."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from datamodules.errors import InputError
from experiments.evaluation.analysis import Settings
from experiments.figures.study import Study
from experiments.stages.classification import Classification
from experiments.stages.findings import Asked

SETTINGS = Settings(
    confidence=0.95,
    resamples=20,
    auroc_resamples=30,
    seed=3,
    sensitivity=0.9,
    partial_auroc_from=0.9,
    age_edges=(50, 65),
    decision_thresholds=(0.1, 0.2),
)


def predictions(labels=("lvsd", "ph"), models=("mae", "cnn")):
    generator = np.random.default_rng(0)
    tables = []
    for model in models:
        for label in labels:
            for institution, split in (("home", "test"), ("north", "external")):
                target = np.arange(40) % 3 == 0
                logit = target - 0.5 + generator.normal(size=40)
                table = pd.DataFrame({"model": model, "label": label, "target": target.astype(int)})
                tables.append(
                    table.assign(
                        institution=institution,
                        split=split,
                        patient_id=np.arange(40).astype(str),
                        exam_id=np.arange(40).astype(str),
                        logit=logit,
                        probability=1 / (1 + np.exp(-logit)),
                    )
                )
    return pd.concat(tables, ignore_index=True)


@pytest.fixture(scope="module")
def several():
    best = {model: {"home": 0.9, "north": 0.8} for model in ("mae", "cnn")}
    other = {"mae": {"home": 0.7, "north": 0.6}}
    ceilings = {"lvsd": best, "ph": other}
    return Classification.of(Asked(("lvsd", "ph"), SETTINGS), predictions(), None, ceilings)


def test_one_labels_metrics_have_no_label():
    asked = Asked(("lvsd",), SETTINGS, by_fold=False)
    one = Classification.of(asked, predictions(("lvsd",)), None, {"lvsd": {"mae": {"north": 0.9}}})
    aurocs = {f"test/auroc/{at}/{of}" for of in ("mae", "cnn") for at in ("home", "north")}
    assert set(one.metrics) == {*aurocs, "ceiling/auroc/north/mae"}
    assert list(one.of_models) == ["mae", "cnn"]
    assert {"test/auroc/north", "test/auroc_low/north", "test/exams/north"} < set(
        one.of_models["mae"]
    )
    assert next(iter(one.tables)) == "AUROC for lvsd (95% interval)"
    assert {row["label"] for row in json.loads(one.files["summary.json"])} == {"lvsd"}
    for name in ("results.csv", "comparisons.csv"):
        assert set(one.files[name]["label"]) == {"lvsd"}


def test_metrics_of_several_are_of_the_macro_average_and_each(several):
    macro = {f"test/macro_auroc/{at}/{of}" for of in ("mae", "cnn") for at in ("home", "north")}
    assert macro < set(several.metrics)
    assert not any(name.startswith("test/auroc") for name in several.metrics)
    of_model = several.of_models["cnn"]
    mean = (of_model["test/auroc/lvsd/north"] + of_model["test/auroc/ph/north"]) / 2
    assert of_model["test/macro_auroc/north"] == pytest.approx(mean)
    assert several.metrics["test/macro_auroc/north/cnn"] == pytest.approx(mean)
    assert several.metrics["ceiling/auroc/ph/north/mae"] == 0.6


def test_the_macro_averages_ceiling_is_the_mean_where_all_labels_have_one(several):
    (table,) = several.tables.values()
    table = table.set_index("institution")
    assert table["ceiling (mae)"].to_dict() == {"home": "0.800", "north": "0.700"}
    assert not any("cnn" in column and "ceiling" in column for column in table)
    assert "ideal observer" in several.ceiling


def test_files_of_several_begin_with_the_macro_average(several):
    assert next(iter(several.tables)) == "Macro average AUROC of lvsd and ph (95% interval)"
    rows = json.loads(several.files["summary.json"])
    assert [row["label"] for row in rows[::4]] == ["macro average", "lvsd", "ph"]
    compared = json.loads(several.files["comparisons.json"])
    assert [row["label"] for row in compared[::2]] == ["macro average", "lvsd", "ph"]
    assert list(several.files["results.csv"]["label"].unique()) == ["macro average", "lvsd", "ph"]


def test_subsets_of_a_fusions_inputs_are_told_by_label_too():
    asked = Asked(("lvsd", "ph"), SETTINGS, models=("mae", "cnn"), fusion="cnn")
    subsets = predictions(models=("ecg + bnp", "ecg"))
    of_all = predictions()
    lost = (of_all["model"] == "mae") & (of_all["label"] == "ph") & (of_all["exam_id"] == "3")
    found = Classification.of(asked, of_all[~lost], subsets, None)
    tables = list(found.tables)
    assert len(tables) == 3
    assert tables[0].endswith("exams that all models have")
    assert list(found.files["subsets/results.csv"]["label"].unique()) == [
        "macro average", "lvsd", "ph",
    ]  # fmt: skip
    common = json.loads(found.files["common/summary.json"])
    counts = {(row["label"], row["model"]): row["n"] for row in common}
    assert counts["ph", "cnn"] == 39
    assert counts["lvsd", "cnn"] == 40
    of_own = found.files["results_own_exams.csv"]
    assert list(of_own["label"].unique()) == ["macro average", "lvsd", "ph"]


def test_a_given_threshold_needs_its_label():
    asked = Asked(("lvsd",), replace(SETTINGS, thresholds={"af": 0.2}))
    with pytest.raises(InputError, match="no predictions of af. The labels are lvsd"):
        Classification.of(asked, predictions(("lvsd",)), None, None)


@pytest.mark.parametrize("labels", [("lvsd", "ph", "af"), ("lvsd", "af")])
def test_a_label_without_a_tested_exam_is_said_and_no_more(labels):
    table = predictions(labels)
    table.loc[table["label"] == "af", ["institution", "split"]] = "home", "val"
    table = table.drop_duplicates(["model", "label", "institution", "exam_id"])
    for column in ("patient_id", "exam_id"):
        table.loc[table["label"] == "af", column] = "v" + table[column]
    best = {"mae": {"north": 0.9}}
    found = Classification.of(Asked(labels, SETTINGS), table, None, dict.fromkeys(labels, best))
    assert list(found.labels) == list(labels[:-1])
    assert "af" in set(found.files["predictions.parquet"]["label"])
    assert not any("/af/" in name for name in found.metrics)
    html = found.evidence(Study("ours", "these labels"), ()).html
    assert html.count("No exam was tested for af: nothing here is on how well") == 2
    with pytest.raises(InputError, match="no exam of af is tested"):
        Classification.of(Asked(("af",), SETTINGS), table[table["label"] == "af"], None, None)


def test_a_macro_average_is_called_by_the_labels_that_all_models_have():
    table = predictions(("lvsd", "ph", "as"))
    lacking = (table["model"] == "cnn") & (table["label"] == "as")
    found = Classification.of(Asked(("lvsd", "ph", "as"), SETTINGS), table[~lacking], None, None)
    assert found.title.startswith("Macro average AUROC of lvsd and ph (95% interval)")
