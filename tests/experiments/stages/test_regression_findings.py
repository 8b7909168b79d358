"""What is left of a regression on a run: of one label, of several, and of a fusion's subsets."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from places import REPOSITORY

from datamodules.errors import InputError
from datamodules.simulation import ceiling, lvef_ceiling, with_common
from experiments.evaluation.analysis import Settings
from experiments.figures.study import Cohort, Study
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
    assert found.title == (
        "Mean absolute error of lvef_percent and pasp_mmhg, each in its own unit (95% interval)"
    )
    evidence = found.evidence(Study("two", "lvef_percent and pasp_mmhg"), [])
    assert {"forest_1_lvef_percent", "forest_2_pasp_mmhg"} <= set(evidence.figures)


def test_a_label_known_of_no_tested_exam_is_left_out_and_named():
    unknown = predictions(("cnn",), label="pasp_mmhg").assign(split="val", institution="home")
    unknown["exam_id"] = unknown["patient_id"] = [f"p{i}" for i in range(len(unknown))]
    both = pd.concat([predictions(("cnn",)), unknown])
    asked = Asked(("lvef_percent", "pasp_mmhg"), SETTINGS)
    found = Regression.of(asked, both, None, None)
    assert list(found.found) == ["lvef_percent"]
    html = found.evidence(Study("two", "lvef_percent and pasp_mmhg"), []).html
    assert "Nothing is told of pasp_mmhg: no tested exam" in html
    with pytest.raises(InputError, match="pasp_mmhg: no exam of split test or external"):
        Regression.of(Asked(("pasp_mmhg",), SETTINGS), unknown, None, None)


def test_thresholds_of_no_label_are_refused():
    settings = replace(SETTINGS, truth_thresholds={"lvef_percent": (40,), "pasp": (45,)})
    asked = Asked(("pasp_mmhg",), settings)
    with pytest.raises(InputError, match=r"pasp is no label here.*Did you mean pasp_mmhg\?"):
        Regression.of(asked, predictions(label="pasp_mmhg"), None, None)


def test_a_bias_that_rounds_to_nothing_has_no_sign():
    table = predictions(("cnn",))
    table["estimate"] -= (table["estimate"] - table["truth"]).groupby(
        table["institution"]
    ).transform("mean") + 1e-6
    asked = Asked(("lvef_percent",), SETTINGS)
    evidence = Regression.of(asked, table, None, None).evidence(Study("one", "lvef_percent"), [])
    told = re.sub(r"<svg.*?</svg>", "", evidence.html, flags=re.DOTALL)
    assert "0.00 (" in told
    assert not re.search(r"-0\.0+(?!\d)", told)


def test_table_1_of_many_labels_puts_no_units_together():
    labels = [f"number_{i}" for i in range(7)]
    table = pd.concat([predictions(("cnn",), label=label) for label in labels])
    exams = table[["institution", "patient_id", "exam_id", "split"]].drop_duplicates()
    exams = exams.assign(role="external", target=7.0)
    exams = exams.assign(**{f"target {label}": 10.0**i for i, label in enumerate(labels)})
    flow = pd.DataFrame(
        {"institution": ["north", "south"], "in manifest": 60, "packed": 60, "with target": 60}
    )
    left_out = pd.DataFrame(columns=["institution", "exam_id", "path", "reason"])
    targets = {label: f"target {label}" for label in labels}
    study = Study("many", "7 labels", cohort=Cohort(exams, flow, left_out, targets))
    found = Regression.of(Asked(tuple(labels), SETTINGS), table, None, None)
    table1 = found.evidence(study, []).tables["table1.csv"]
    assert "any of 7 labels: not known" in table1
    assert "mean" not in table1


def test_least_errors_are_of_lvef_alone():
    cohort = OmegaConf.to_container(OmegaConf.load(REPOSITORY / "configs/cohort/simulated.yaml"))
    every = with_common(cohort["every_institution"], cohort["institutions"])
    site = {"thistlemere": every["thistlemere"]}
    least = least_errors("lvef_percent", ["cnn"], site, [40], 0)
    assert least["lvef_percent"]["cnn"] == lvef_ceiling(site, seed=0)
    assert least["lvef_percent < 40"]["cnn"] == ceiling(site, seed=0, lvef_below_percent=40)
    assert least_errors("pasp_mmhg", ["cnn"], site, [40], 0) == {}
