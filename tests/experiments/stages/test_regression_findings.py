"""What is left of a regression on a run: of one label, of several, and of a fusion's subsets."""

import json

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from places import REPOSITORY

from datamodules.simulation import ceiling, lvef_ceiling, with_common
from experiments.evaluation.analysis import Settings
from experiments.figures.study import Study
from experiments.stages.findings import Asked
from experiments.stages.regression import Regression, least_errors

SETTINGS = Settings(
    confidence=0.95,
    resamples=20,
    auroc_resamples=20,
    seed=0,
    sensitivity=0.9,
    partial_auroc_from=0.9,
    age_edges=(50,),
    decision_thresholds=(0.1, 0.2),
    truth_thresholds={"lvef_percent": (40,)},
)


def predictions(models=("ecg", "bnp", "fusion"), label="lvef_percent", n=60):
    rows = []
    for seed, model in enumerate(models):
        for number, institution in enumerate(("north", "south")):
            truth = np.random.default_rng(number).normal(50, 12, n)
            rows.append(
                pd.DataFrame(
                    {
                        "model": model, "label": label, "institution": institution,
                        "split": "external", "patient_id": np.arange(n).astype(str),
                        "exam_id": np.arange(n).astype(str), "truth": truth,
                        "estimate": truth + np.random.default_rng((seed, number)).normal(0, 5, n),
                    }
                )
            )  # fmt: skip
    return pd.concat(rows, ignore_index=True)


def test_a_fusion_is_judged_on_exams_that_all_models_have():
    table = predictions()
    table = table[(table["model"] != "bnp") | (table["exam_id"].astype(int) < 40)]
    subsets = predictions(("ecg", "ecg+bnp")).query("exam_id in @table.exam_id")
    asked = Asked(("lvef_percent",), SETTINGS, ("ecg", "bnp"), "fusion")
    best = {"lvef_percent": {"ecg": {"north": 2.5, "south": 2.25}}}
    found = Regression.of(asked, table, subsets, best)
    common = json.loads(found.files["common/summary.json"])
    assert {row["n"] for row in common} == {40, 80}
    own = json.loads(found.files["summary.json"])
    assert {row["n"] for row in own if row["model"] == "fusion"} == {60, 120}
    assert {row["label"] for row in own} == {"lvef_percent"}
    assert found.metrics["ceiling/mae/south/ecg"] == 2.25
    north = table[(table["institution"] == "north") & (table["model"] == "ecg")]
    mae = (north["estimate"] - north["truth"]).abs().mean()
    assert found.metrics["test/mae/north/ecg"] == pytest.approx(mae)
    assert found.of_models["ecg"]["test/exams/north"] == 60
    assert list(found.files["subsets/results.csv"].columns[3:]) == ["ecg", "ecg+bnp"]
    assert {row["label"] for row in json.loads(found.files["thresholds/summary.json"])} == {
        "lvef_percent < 40"
    }
    study = Study("ph", "lvef_percent", main="fusion")
    evidence = found.evidence(study, [])
    assert "Subsets of the inputs" in evidence.html
    assert "fusion estimated lvef_percent with a mean absolute error of" in evidence.html


def test_several_labels_are_told_apart():
    both = pd.concat([predictions(("cnn",)), predictions(("cnn",), label="pasp_mmhg")])
    asked = Asked(("lvef_percent", "pasp_mmhg"), SETTINGS)
    found = Regression.of(asked, both, None, None)
    assert set(found.metrics) == {
        f"test/{name}/{label}/{institution}/cnn"
        for name in ("mae", "bias")
        for label in ("lvef_percent", "pasp_mmhg")
        for institution in ("north", "south", "all-external")
    }
    assert list(found.shown["label"].unique()) == ["lvef_percent", "pasp_mmhg"]
    assert [name.split(" (")[0] for name in found.tables] == [
        "Mean absolute error of lvef_percent, %",
        "AUROC for lvef_percent < 40",
        "Mean absolute error of pasp_mmhg, mmHg",
    ]
    evidence = found.evidence(Study("two", "lvef_percent and pasp_mmhg"), [])
    assert {"forest_1_lvef_percent", "forest_2_pasp_mmhg"} <= set(evidence.figures)


def test_least_errors_are_of_lvef_alone():
    cohort = OmegaConf.to_container(OmegaConf.load(REPOSITORY / "configs/cohort/simulated.yaml"))
    every = with_common(cohort["every_institution"], cohort["institutions"])
    site = {"thistlemere": every["thistlemere"]}
    least = least_errors("lvef_percent", ["cnn"], site, [40], 0)
    assert least["lvef_percent"]["cnn"] == lvef_ceiling(site, seed=0)
    assert least["lvef_percent < 40"]["cnn"] == ceiling(site, seed=0, lvef_below_percent=40)
    assert least_errors("pasp_mmhg", ["cnn"], site, [40], 0) == {}
