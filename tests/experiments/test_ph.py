"""`experiment=ph` by the real command line: three submodels, their fusion, and what a reviewer
finds."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
from command import TINY_PH, TINY_PH_COHORT, Launch, check_needs_nothing_else, launch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from lightning_modules.checkpoint import load_classifier

SUBMODELS = {"ph_ecg": "ecg", "ph_cxr": "cxr", "ph_bnp": "bnp"}
FUSED = ["ph_fusion", "mean_of_logits", "logistic_stacking", "best_submodel"]
DEVELOPMENT = ["quillhaven", "ambervault"]
EXAM = ["institution", "split", "patient_id", "exam_id", "target"]


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ph")


@pytest.fixture(scope="session")
def ph(place: Path) -> Launch:
    done = launch(place, "experiment=ph", f"cohort.root={place}/cohort", *TINY_PH_COHORT, *TINY_PH)
    assert done.status == 0, done.output + done.errors
    return done


@pytest.fixture(scope="session")
def manifests(ph: Launch, place: Path) -> pd.DataFrame:
    (root,) = (place / "cohort").glob("*/")
    return pd.concat([pd.read_csv(path) for path in sorted(root.glob("*.csv"))]).set_index(
        "exam_id"
    )


def logits(ph: Launch) -> pd.DataFrame:
    table = ph.predictions.pivot(index=EXAM, columns="model", values="logit")
    return table.reset_index()


def test_each_submodel_is_tested_wherever_its_input_is(ph: Launch, manifests: pd.DataFrame) -> None:
    table = logits(ph).set_index("exam_id")
    columns = {"ph_ecg": "ecg_path", "ph_cxr": "cxr_path", "ph_bnp": "bnp_pg_ml"}
    external = manifests[
        ~manifests["institution"].isin(DEVELOPMENT) & manifests["pasp_mmhg"].notna()
    ]
    assert set(external.index) <= set(table.index)
    for model, column in columns.items():
        expected = manifests.loc[table.index, column].notna()
        assert (table[model].notna() == expected).all(), model
        assert not expected.all() or model == "ph_ecg"
    for model in FUSED:
        assert table[model].notna().all()


def test_the_table_is_of_exams_that_have_all_three(ph: Launch) -> None:
    table = logits(ph)
    complete = table[table[list(SUBMODELS)].notna().all(axis=1) & (table["split"] != "val")]
    results = pd.read_csv(ph.artifact("results.csv")).set_index("institution")
    for name, exams in complete.groupby("institution"):
        assert results.loc[name, "exams"] == len(exams)
        for model in [*SUBMODELS, *FUSED]:
            shown = results.loc[name, model]
            if exams["target"].nunique() == 2 and not shown.startswith("not"):
                auroc = roc_auc_score(exams["target"], exams[model])
                assert float(shown.split()[0]) == pytest.approx(auroc, abs=5e-4)
    assert {f"ceiling ({model})" for model in SUBMODELS} < set(results.columns)
    own = pd.DataFrame(ph.summary).set_index(["model", "institution"])
    for model in [*SUBMODELS, *FUSED]:
        exams = table[table[model].notna() & (table["split"] == "external")]
        row = own.loc[(model, "all-external")]
        assert row["n"] == len(exams)
        assert row["auroc"] == pytest.approx(roc_auc_score(exams["target"], exams[model]))


def test_each_pair_is_compared_on_the_exams_that_have_all_three(ph: Launch) -> None:
    comparisons = pd.read_json(ph.artifact("comparisons.json"))
    table = logits(ph)
    complete = table[table[list(SUBMODELS)].notna().all(axis=1) & (table["split"] == "external")]
    models = [*SUBMODELS, *FUSED]
    pooled = comparisons[comparisons["institution"] == "all-external"]
    assert len(pooled) == len(models) * (len(models) - 1) / 2
    for row in pooled.itertuples():
        aurocs = [
            roc_auc_score(complete["target"], complete[m]) for m in (row.model_a, row.model_b)
        ]
        assert row.n == len(complete)
        assert row.difference == pytest.approx(aurocs[0] - aurocs[1], abs=1e-9)
        assert pd.isna(row.p) or 0 <= row.p <= 1


def test_every_subset_of_the_inputs(ph: Launch) -> None:
    subsets = pd.read_parquet(ph.artifact("subsets/predictions.parquet"))
    wide = subsets.pivot(index="exam_id", columns="model", values="logit")
    assert list(subsets["model"].unique()) == [
        "ecg", "cxr", "bnp", "ecg + cxr", "ecg + bnp", "cxr + bnp", "ecg + cxr + bnp",
    ]  # fmt: skip
    assert wide.notna().all(axis=None)
    table = logits(ph).set_index("exam_id")
    np.testing.assert_allclose(
        wide["ecg + cxr + bnp"], table.loc[wide.index, "ph_fusion"], atol=1e-6
    )
    assert wide.T.drop_duplicates().shape[0] == 7


def test_the_baselines_are_what_they_say(ph: Launch) -> None:
    table = logits(ph)
    outputs = table[list(SUBMODELS)]
    np.testing.assert_allclose(table["mean_of_logits"], outputs.mean(axis=1), atol=1e-9)
    learned = pd.read_parquet(fusion_artifact(ph, "cross_fitted.parquet"))
    features = [
        np.hstack([np.nan_to_num(t), np.isnan(t)])
        for t in (learned[[f"{m}: ph" for m in SUBMODELS]].to_numpy(), outputs.to_numpy())
    ]
    model = LogisticRegression(max_iter=1000).fit(features[0], learned["target ph"])
    np.testing.assert_allclose(
        table["logistic_stacking"], model.decision_function(features[1]), atol=1e-4
    )
    validation = table[table["split"] == "val"]
    aurocs = {
        m: roc_auc_score(*validation[validation[m].notna()][["target", m]].to_numpy().T)
        for m in SUBMODELS
    }
    best = max(aurocs, key=lambda m: aurocs[m])
    has = table[best].notna()
    np.testing.assert_allclose(table.loc[has, "best_submodel"], table.loc[has, best])


def fusion_artifact(ph: Launch, path: str) -> Path:
    run = ph.client.get_run(ph.run).data.tags["model.ph_fusion"]
    return Path(ph.client.download_artifacts(run, path))


def test_the_fusion_learned_from_outputs_for_unseen_patients(
    ph: Launch, manifests: pd.DataFrame
) -> None:
    learned = pd.read_parquet(fusion_artifact(ph, "cross_fitted.parquet"))
    tested = logits(ph)
    assert not set(learned["patient_id"]) & set(tested["patient_id"])
    assert set(learned["institution"]) == set(DEVELOPMENT)
    assert (learned.groupby("patient_id")["fold"].nunique() == 1).all()
    assert set(learned["fold"]) == {1, 2}
    # Scored by the fold's models, not by those that are kept.
    run = ph.client.get_run(ph.run).data.tags["model.ph_bnp"]
    (checkpoint,) = Path(ph.client.download_artifacts(run, "checkpoint")).glob("*.ckpt")
    kept = load_classifier(checkpoint)
    has = learned[learned["ph_bnp: ph"].notna()]
    bnp = np.log(np.maximum(manifests.loc[has["exam_id"], "bnp_pg_ml"], 1)).to_numpy()
    fitted = kept.hparams["input"]
    standardised = (bnp - fitted["mean"][0]) / fitted["deviation"][0]
    with torch.inference_mode():
        by_kept = kept({"bnp": torch.tensor(standardised[:, None])})[:, 0].numpy()
    for fold in (1, 2):
        mine = (has["fold"] == fold).to_numpy()
        slope, intercept = np.polyfit(bnp[mine], has["ph_bnp: ph"][mine], 1)
        np.testing.assert_allclose(
            has["ph_bnp: ph"][mine], slope * bnp[mine] + intercept, atol=1e-4
        )
        assert not np.allclose(has["ph_bnp: ph"][mine], by_kept[mine], atol=1e-3)


def test_the_runs_name_each_other(ph: Launch) -> None:
    parent = ph.client.get_run(ph.run).data.tags
    fusion = ph.client.get_run(parent["model.ph_fusion"])
    assert fusion.data.tags["mlflow.parentRunId"] == ph.run
    for model in SUBMODELS:
        assert fusion.data.tags[f"submodel.{model}"] == parent[f"model.{model}"]
        child = ph.client.get_run(parent[f"model.{model}"])
        assert child.data.tags["mlflow.parentRunId"] == ph.run
        assert child.data.tags["model"] == model
    names = [run.info.run_name for run in ph.children]
    assert len([name for name in names if name.startswith("test ")]) == 7
    folds = ph.client.search_runs(
        [fusion.info.experiment_id], f"tags.`mlflow.parentRunId` = '{fusion.info.run_id}'"
    )
    assert {run.info.run_name for run in folds} == {"cross-fit 1 of 2", "cross-fit 2 of 2"}
    for path in ("figures/forest.png", "figures/roc.png", "figures/flow.png", "figures/subsets.png",
                 "figures/reliability.png", "figures/decision.png", "results.csv",
                 "comparisons.csv", "common/summary.json"):  # fmt: skip
        assert ph.artifact(path).stat().st_size > 0


def test_the_report_is_one_safe_file_that_says_what_is_simulated(ph: Launch) -> None:
    report = ph.artifact("report.html").read_text()
    assert len(report) < 5e6
    assert "SIMULATED" in report
    assert "<script" not in report
    for said in ("ph_fusion", "TRIPOD+AI", "cross-fitted by patient in 2 folds", "thistlemere"):
        assert said in report
    for name in ("table1", "results", "results_own_exams", "operating_points", "tripod_ai"):
        for ending in ("csv", "tex"):
            assert ph.artifact(f"tables/{name}.{ending}").stat().st_size > 0


def test_a_second_launch_reuses_everything(ph: Launch, place: Path) -> None:
    again = launch(place, "experiment=ph", f"cohort.root={place}/cohort", *TINY_PH_COHORT, *TINY_PH)
    assert again.status == 0, again.errors
    assert not re.search("^ph_.*: \\d+ labelled exams", again.output, re.M)
    pd.testing.assert_frame_equal(again.predictions, ph.predictions)


@pytest.mark.slow
def test_a_pretrained_vit_reads_the_ecg(ph: Launch, place: Path) -> None:
    tiny = [o for o in TINY_PH if not o.startswith("network.")]
    done = launch(
        place, "experiment=ph", f"cohort.root={place}/cohort", *TINY_PH_COHORT, *tiny,
        "network=vit_micro", "network.settings={width: 16, depth: 1, heads: 2}",
        "models.ph_ecg.pretrained=true",
        "pretrain.decoder={width: 16, depth: 1, heads: 2}", "pretrain.max_steps=4",
        "pretrain.validate_every_steps=2",
    )  # fmt: skip
    assert done.status == 0, done.output + done.errors
    names = [run.info.run_name for run in done.children]
    assert any(name.startswith("pretrain vit_micro") for name in names)
    assert "finetune vit_micro from mae · ph_ecg" in names
    assert set(done.predictions["model"]) == {*SUBMODELS, *FUSED}


def test_simulated_readers_say_so_everywhere(ph: Launch, place: Path) -> None:
    done = launch(
        place, "experiment=reader_study", f"cohort.root={place}/cohort",
        *TINY_PH_COHORT, *TINY_PH, "readers.simulated.readers=4", "readers.simulated.cases=30",
        "readers.simulated.accuracy_with=0.66", "readers.planned=[5]",
    )  # fmt: skip
    assert done.status == 0, done.output + done.errors
    assert "SIMULATED READERS" in done.output
    (run,) = [run for run in done.children if run.data.tags["stage"] == "readers"]
    assert "simulated" in run.info.run_name
    assert run.data.tags["simulated_readers"] == "true"
    assert run.data.tags["mlflow.note.content"].startswith("**SIMULATED READERS")
    folder = Path(done.client.download_artifacts(run.info.run_id, "readers_simulated"))
    readings = pd.read_csv(folder / "readings.csv")
    assert readings["reader"].str.startswith("simulated reader").all()
    assert len(readings) == 4 * 30 * 2
    recovery = pd.read_csv(folder / "recovery.csv").set_index("metric")
    assert recovery.loc["accuracy", "true_with"] == pytest.approx(0.66, abs=0.01)
    assert (recovery["recovered"].notna()).any()
    # The launch's report shows them, and says what they are.
    html = done.artifact("report.html").read_text()
    check_needs_nothing_else(html)
    section = html.partition(">Reader study</a>")[2].partition(". Reader study</h2>")[2]
    assert "SIMULATED READERS" in html.partition("</header>")[0]
    assert section.lstrip().startswith('<p class="strong">SIMULATED READERS: no doctor read these')
    truth = (recovery["recovered"].dropna()).astype(bool)
    assert f"over readers and cases, for {truth.sum()} of {len(truth)} measure" in section
    assert 'id="figure-readers_simulated"' in section
    names = {path.name for path in done.artifact("tables").iterdir()}
    assert {"results.tex", "readers_simulated_results.tex", "readers_simulated_mrmc.csv"} <= names
    assert not any(re.match("readers_(?!simulated)", name) for name in names)
    assert (done.artifact("figures") / "readers_simulated.png").is_file()
    # The study's own results stand on the launch as ever.
    assert {row["model"] for row in done.summary} >= {"ph_fusion", "ph_ecg"}


@pytest.mark.slow
def test_two_processes_share_one_run_and_every_exam(ph: Launch, place: Path) -> None:
    done = launch(
        place, "experiment=ph", f"cohort.root={place}/cohort", *TINY_PH_COHORT, *TINY_PH,
        "trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp",
        cache=place / "two",
    )  # fmt: skip
    assert done.status == 0, done.output + done.errors
    stages = [run.data.tags["stage"] for run in done.children]
    assert sorted(stages) == ["finetune", "finetune", "fit", "fuse", *["test"] * 7]
    mine, alone = (
        table.set_index(["model", "exam_id"]).sort_index()["target"]
        for table in (done.predictions, ph.predictions)
    )
    pd.testing.assert_series_equal(mine, alone)


@pytest.mark.slow
def test_every_institution_external_once(ph: Launch, place: Path) -> None:
    """Leave-site-out of a fusion; the second fold's institution has no blood tests at all."""
    done = launch(
        place, "experiment=ph", "protocol=leave_site_out", "cohort.development=null",
        "folds=[larkspire,nettlewick]",
        f"cohort.root={place}/cohort", *TINY_PH_COHORT, *TINY_PH,
        "cohort.institutions.nettlewick.bnp_missing_fraction=1.0",
    )  # fmt: skip
    assert done.status == 0, done.output + done.errors
    external = {row["institution"] for row in done.summary if row["role"] == "external"}
    assert external == {"larkspire", "nettlewick"}
    results = pd.read_csv(done.artifact("results.csv")).set_index("institution")
    assert results.loc["nettlewick", "exams"] == 0
    assert results.loc["nettlewick", "ph_fusion"] == "not estimable"


def test_planted_names_reach_no_artefact(ph: Launch, place: Path) -> None:
    """Identifying elements of a film stay in the film: nowhere in runs, cache or output."""
    (simulated,) = (place / "cohort").glob("*/")
    films = sorted(simulated.glob("*/cxr/**/*.dcm"))
    planted = [str(pydicom.dcmread(path, stop_before_pixels=True).PatientName) for path in films]
    assert len(set(planted)) == len(films) > 50
    secrets = [name.encode() for name in planted[:3]]
    searched = 0
    for folder in (place / "artifacts", place / "cache"):
        for path in folder.rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                searched += 1
                assert not any(secret in content for secret in secrets), path
    database = (place / "mlflow.db").read_bytes()
    assert not any(secret in database for secret in secrets)
    assert not any(secret.decode() in ph.output + ph.errors for secret in secrets)
    assert searched > 50
