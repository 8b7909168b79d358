import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from command import TINY, TINY_COHORT, Launch, launch
from places import REPOSITORY
from public_folder import write_public_folder
from sklearn.metrics import roc_auc_score

from datamodules.recordings import read_recording
from experiments.config import compose_config
from experiments.plan import plan_of
from experiments.processes import Processes
from experiments.stages.cohort import prepare
from experiments.stages.evaluate import evaluate, input_of
from experiments.tracking import Tracking
from lightning_modules.lvsd import LVSDClassifier

MODELS = ["pretrained", "scratch", "cnn"]
STUDIES = sorted(path.stem for path in (REPOSITORY / "configs" / "experiment").glob("*.yaml"))
EXTERNAL = ["ambervault", "brindlefen", "copperloch", "larkspire", "nettlewick", "thistlemere"]


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for the launches here, so that they share the simulated cohort and its stores."""
    return tmp_path_factory.mktemp("launches")


@pytest.fixture(scope="session")
def quickstart(place: Path) -> Launch:
    return launch(place, f"cohort.root={place}/cohort", *TINY_COHORT, *TINY, forked=False)


def test_the_main_job_ends_with_the_table_the_browser_command_and_its_run(
    quickstart: Launch,
) -> None:
    assert quickstart.status == 0, quickstart.errors
    for name in ["quillhaven", *EXTERNAL, "all-external", *MODELS, "ceiling"]:
        assert name in quickstart.output
    assert "mlflow ui --backend-store-uri sqlite:///" in quickstart.output
    assert "says nothing about hospitals" in quickstart.output
    assert re.fullmatch("[0-9a-f]{32}", quickstart.run)


def test_it_is_quiet_but_for_progress(quickstart: Launch) -> None:
    lines = re.split("[\r\n]+", quickstart.errors)
    assert [line for line in lines if line.strip() and "%|" not in line] == []
    assert "PRETRAINING ENDED ON ITS PLATEAU" in quickstart.output  # after four steps it has


def test_the_report_shows_what_pretraining_learned(quickstart: Launch) -> None:
    report = quickstart.artifact("report.html").read_text()
    assert "The pretraining ended on its plateau" in report
    assert "the autoencoder has not learned more than that" in report
    (row,) = pd.read_csv(quickstart.artifact("tables/pretraining.csv")).to_dict("records")
    assert row["exams"] > 0
    assert quickstart.artifact("figures/pretraining.png").stat().st_size > 10_000
    assert len(report) < 5e6


def test_predictions_are_contract_3(quickstart: Launch) -> None:
    table = quickstart.predictions
    keys = ["model", "label", "institution", "split", "patient_id", "exam_id"]
    assert list(table.columns) == [*keys, "target", "logit", "probability"]
    assert set(table["label"]) == {"lvsd"}
    assert not table.duplicated(["model", "exam_id"]).any()
    assert set(table["split"]) == {"val", "test", "external"}
    np.testing.assert_allclose(table["probability"], 1 / (1 + np.exp(-table["logit"])))
    assert set(table.loc[table["split"] == "external", "institution"]) == set(EXTERNAL)
    by_model = table.groupby("model")["exam_id"].apply(set)
    assert set(by_model.index) == set(MODELS)
    assert by_model["cnn"] == by_model["pretrained"] == by_model["scratch"]


def test_every_labelled_external_exam_is_predicted(quickstart: Launch, place: Path) -> None:
    (root,) = (place / "cohort").glob("*/")
    cnn = quickstart.predictions.query("model == 'cnn'").set_index("exam_id")
    for name in EXTERNAL:
        manifest = pd.read_csv(root / f"{name}.csv").set_index("exam_id")
        labelled = manifest[manifest["lvef_percent"].notna()]
        mine = cnn[cnn["institution"] == name]
        assert set(mine.index) == set(labelled.index)
        expected = (labelled["lvef_percent"] < 40).astype(int)
        assert (mine["target"].astype(int) == expected.loc[mine.index]).all()


def test_no_patient_is_trained_on_and_tested(quickstart: Launch, place: Path) -> None:
    (root,) = (place / "cohort").glob("*/")
    manifest = pd.read_csv(root / "quillhaven.csv")
    table = quickstart.predictions.query("model == 'cnn' and institution == 'quillhaven'")
    splits = table.groupby("patient_id")["split"].nunique()
    assert (splits == 1).all()
    labelled = manifest[manifest["lvef_percent"].notna()]
    trained = labelled[~labelled["exam_id"].isin(table["exam_id"])]
    assert not set(trained["patient_id"]) & set(table["patient_id"])
    assert 0.4 < len(trained) / len(labelled) < 0.8


def test_the_summary_is_scikit_learns_auroc_of_the_predictions(quickstart: Launch) -> None:
    table = quickstart.predictions
    rows = quickstart.summary
    assert {tuple(row) for row in rows} == {
        (
            "model",
            "label",
            "institution",
            "role",
            "n",
            "positives",
            "auroc",
            "auroc_low",
            "auroc_high",
        )
    }
    assert len(rows) == len(MODELS) * (1 + len(EXTERNAL) + 1)
    for row in rows:
        tested = table[(table["model"] == row["model"]) & (table["split"] != "val")]
        if row["institution"] == "all-external":
            tested = tested[tested["split"] == "external"]
        else:
            tested = tested[tested["institution"] == row["institution"]]
        assert (row["n"], row["positives"]) == (len(tested), tested["target"].sum())
        if row["auroc"] is not None:
            assert row["auroc"] == pytest.approx(
                roc_auc_score(tested["target"], tested["probability"])
            )
            assert row["auroc_low"] <= row["auroc"] <= row["auroc_high"]


def test_a_reviewer_finds_everything_on_the_runs(quickstart: Launch) -> None:
    parent = quickstart.client.get_run(quickstart.run)
    assert parent.info.status == "FINISHED"
    tags = parent.data.tags
    assert tags["development"] == "quillhaven"
    assert set(tags["external"].split(", ")) == set(EXTERNAL)
    assert re.match("[0-9a-f]{40}|unknown", tags["mlflow.source.git.commit"])
    assert all(len(tags[f"store_digest.{name}"]) == 64 for name in [*EXTERNAL, "quillhaven"])
    assert "| brindlefen | external |" in tags["mlflow.note.content"]
    assert parent.data.metrics["test/auroc/brindlefen/cnn"] == pytest.approx(
        next(
            row["auroc"]
            for row in quickstart.summary
            if (row["model"], row["institution"]) == ("cnn", "brindlefen")
        )
    )
    assert {d.dataset.name for d in parent.inputs.dataset_inputs} == {*EXTERNAL, "quillhaven"}
    files = {f.path for f in quickstart.client.list_artifacts(quickstart.run)}
    assert {"predictions.parquet", "summary.json", "config.yaml", "figures", "cohort"} <= files
    resolved = yaml.safe_load(quickstart.artifact("config.yaml").read_text())
    assert resolved["pretrain"]["max_steps"] == 4
    names = {run.info.run_name for run in quickstart.children}
    assert "pretrain vit_micro · quillhaven" in names
    assert {f"test {model}" for model in MODELS} <= names
    assert all(run.info.status == "FINISHED" for run in quickstart.children)


def test_the_pretraining_run_shows_its_pair_and_its_reconstructions(quickstart: Launch) -> None:
    (run,) = [r for r in quickstart.children if r.data.tags["stage"] == "pretrain"]
    assert {"val/explained_variance", "val/explained_variance_least_squares"} <= set(
        run.data.metrics
    )
    assert run.data.tags["plateau"] == "true"
    figures = quickstart.client.list_artifacts(run.info.run_id, "reconstruction")
    assert [Path(f.path).name for f in figures] == ["step-0000002.png", "step-0000004.png"]


def test_a_checkpoint_is_enough_to_repeat_a_probability(quickstart: Launch, place: Path) -> None:
    (run,) = [r for r in quickstart.children if r.data.tags.get("model") == "pretrained"
              and r.data.tags["stage"] == "finetune"]  # fmt: skip
    file = quickstart.client.download_artifacts(run.info.run_id, "checkpoint/model.ckpt")
    module = LVSDClassifier.load_from_checkpoint(file, map_location="cpu", weights_only=True)
    module.eval()
    input = input_of(module)
    assert 0 < module.threshold < 1
    (root,) = (place / "cohort").glob("*/")
    predicted = quickstart.predictions.query("model == 'pretrained'").set_index("exam_id")
    manifest = pd.read_csv(root / "thistlemere.csv").set_index("exam_id")
    for exam in predicted.query("institution == 'thistlemere'").index[:5]:
        recording = read_recording(root / manifest.loc[exam, "ecg_path"])
        ecg = torch.tensor(recording.signal_mv[None], dtype=torch.float32)
        with torch.no_grad():
            ecg = input.filter_and_resample(ecg, recording.sampling_rate_hz)
            logit = module({"ecg": input.normalise(ecg)})
        expected = predicted.loc[exam, "probability"]
        assert logit.sigmoid().item() == pytest.approx(expected, abs=1e-5)


def test_a_second_launch_reuses_every_stage_and_gives_the_same(
    quickstart: Launch, place: Path
) -> None:
    again = launch(place, f"cohort.root={place}/cohort", *TINY_COHORT, *TINY)
    assert again.status == 0, again.errors
    for stage in ["pretrain", *MODELS]:
        assert re.search(f"^{stage}: reused from run [0-9a-f]{{32}}", again.output, re.M), stage
    assert again.run != quickstart.run
    assert again.summary == quickstart.summary
    pd.testing.assert_frame_equal(again.predictions, quickstart.predictions)
    assert {run.data.tags["stage"] for run in again.children} == {"test"}
    changed = launch(
        place, f"cohort.root={place}/cohort", *TINY_COHORT, *TINY, "finetune.max_steps=4"
    )
    assert "pretrain: reused" in changed.output
    assert "cnn: reused" not in changed.output


# Tested by themselves: quickstart above, the others in files of their own.
OTHERS = {"quickstart", "ph", "real_cxr", "compare", "reader_study", "ptbxl"}


@pytest.mark.parametrize("study", [study for study in STUDIES if study not in OTHERS])
def test_every_study_runs(study: str, place: Path, quickstart: Launch) -> None:
    if study in ("real_ecg", "real_transfer"):
        cohort = [f"cohort.root={write_public_folder(place / 'public')}"]
    else:
        cohort = [f"cohort.root={place}/cohort", *TINY_COHORT]
    folds = ["folds=[copperloch,larkspire]"] if study == "leave_site_out" else []
    done = launch(place, f"experiment={study}", *cohort, *TINY, *folds)
    assert done.status == 0, done.output + done.errors
    roles = {(row["institution"], row["role"]) for row in done.summary}
    external = {institution for institution, role in roles if role == "external"}
    if study == "leave_site_out":
        assert external == {"copperloch", "larkspire"}
        assert {role for _, role in roles} == {"external", "pooled"}
        folds_run = {run.info.run_name: run for run in done.children}
        fold = folds_run["fold · held out: copperloch"]
        assert "copperloch" not in fold.data.tags["development"]
        nested = done.client.search_runs(
            [fold.info.experiment_id], f"tags.`mlflow.parentRunId` = '{fold.info.run_id}'"
        )
        (pretraining,) = [r for r in nested if r.data.tags["stage"] == "pretrain"]
        assert "copperloch" not in pretraining.data.tags["development"]
        assert "larkspire" in pretraining.data.tags["development"]
    elif study in ("real_ecg", "real_transfer"):
        assert external == {"georgia", "chapman", "ningbo"}
    else:
        assert external == set(EXTERNAL)
        assert "linear_probe" in {row["model"] for row in done.summary}


def test_a_persons_own_manifests_and_target(quickstart: Launch, place: Path) -> None:
    (simulated,) = (place / "cohort").glob("*/")
    root = place / "own"
    for name in ("quillhaven", "copperloch"):
        shutil.copytree(simulated / name, root / name)
    manifest = pd.read_csv(simulated / "quillhaven.csv")
    manifest.assign(wide=(manifest["age_years"] > 66).astype(int)).to_csv(
        root / "quillhaven.csv", index=False
    )
    other = pd.read_csv(simulated / "copperloch.csv")
    other.assign(wide=(other["age_years"] > 66).astype(int)).to_parquet(root / "copperloch.parquet")
    (root / "unrelated.csv").write_text("not,a\nmanifest,at all\n")
    done = launch(
        place,
        "cohort=manifests",
        f"cohort.root={root}",
        "cohort.development=[quillhaven]",
        "cohort.external=[copperloch]",
        "target=wide",
        *TINY,
    )
    assert done.status == 0, done.errors
    predictions = done.predictions.query("model == 'cnn' and institution == 'copperloch'")
    assert predictions["target"].sum() == (other["age_years"] > 66).sum()
    alone = launch(
        place,
        "cohort=manifests",
        f"cohort.root={root}",
        "cohort.development=[quillhaven]",
        "cohort.external=[]",
        *TINY,
    )
    assert alone.status == 0, alone.errors
    assert {row["role"] for row in alone.summary} == {"development"}


def test_two_processes_give_one_run_and_each_exam_once(quickstart: Launch, place: Path) -> None:
    done = launch(
        place,
        f"cohort.root={place}/cohort",
        *TINY_COHORT,
        *TINY,
        "trainer.devices=2",
        "trainer.strategy=ddp",
        "trainer.accelerator=cpu",
    )
    assert done.status == 0, done.errors
    parents = done.client.search_runs(
        [done.client.get_run(done.run).info.experiment_id], "tags.stage = 'launch'"
    )
    assert sum(run.data.tags["command"].find("devices=2") >= 0 for run in parents) == 1
    stages = [run.data.tags["stage"] for run in done.children]
    assert sorted(stages) == ["finetune"] * 3 + ["pretrain"] + ["test"] * 3
    keys = ["model", "institution", "split", "exam_id", "target"]
    assert not done.predictions.duplicated(["model", "exam_id"]).any()
    pd.testing.assert_frame_equal(done.predictions[keys], quickstart.predictions[keys])
    # The same checkpoints, evaluated by this one process.
    own = [f"cache={place}/cache-of-one", f"cohort.root={place}/cohort"]
    config = compose_config([*own, *TINY_COHORT, *TINY])
    plan = plan_of(config)
    untracked = Tracking("", "", "", enabled=False)
    lab = plan.lab(config, untracked, Processes())
    sites = list(prepare(config, plan.question).values())
    for run in done.children:
        if run.data.tags["stage"] == "finetune":
            model = run.data.tags["model"]
            file = done.client.download_artifacts(run.info.run_id, "checkpoint/model.ckpt")
            alone = evaluate(model, Path(file), "here", "ecg", sites[:1], sites[1:], ["lvsd"], lab)
            together = done.predictions.query("model == @model").reset_index(drop=True)
            alone = alone[list(together)]
            pd.testing.assert_frame_equal(alone, together, check_dtype=False, rtol=0, atol=1e-6)


def test_help_and_config_are_answered_at_once(place: Path) -> None:
    shown = launch(place, "--help")
    assert (shown.status, shown.errors) == (0, "")
    assert "cohort=manifests cohort.root=DIR" in shown.output
    config = launch(place, "--config", "pretrain.max_steps=9")
    assert yaml.safe_load(config.output)["pretrain"]["max_steps"] == 9


def test_summary_json_is_json_without_nan(quickstart: Launch) -> None:
    text = quickstart.artifact("summary.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
