"""The real command line on a tiny launch's models: what it says is what the launch's test said."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
from command import Launch, launch
from places import REPOSITORY

from datamodules.manifest import read_manifest
from experiments import load_model
from experiments.predict import main

TINY_PH = (
    "cohort.every_institution.exams=24",
    "cohort.institutions={quillhaven: {exams: 120}, ambervault: {exams: 24}}",
    "cohort.development=[quillhaven]",
    "cohort.external=[brindlefen]",
    "network@baseline=resnet1d_small",
    "network.settings.widths=[8]",
    "cxr_network.settings.model=test_resnet",
    "cxr.size=32",
    *("finetune.max_steps=8", "finetune.validate_every_steps=4"),
    *("cxr_finetune.max_steps=8", "cxr_finetune.validate_every_steps=4"),
    *("fusion.folds=2", "fusion.max_epochs=3"),
    "statistics.resamples=50",
)
MODELS = ("ph_fusion", "ph_ecg", "ph_cxr", "ph_bnp")


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Launch, Path]:
    """The launch, and the folder of its cohort's manifests."""
    folder = tmp_path_factory.mktemp("predict_run")
    done = launch(folder, "experiment=ph", f"cohort.root={folder}/cohort", *TINY_PH)
    assert done.status == 0, done.output + done.errors
    (cohort,) = (folder / "cohort").iterdir()
    return done, cohort


def test_api_and_mlflow_agree_with_the_launchs_test(
    launched: tuple[Launch, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    done, cohort = launched
    monkeypatch.chdir(cohort)
    tags = done.client.get_run(done.run).data.tags
    exams = read_manifest(cohort / "brindlefen.csv").set_index("exam_id")
    columns = ["ecg_path", "cxr_path", "bnp_pg_ml"]
    mlflow.set_tracking_uri(done.uri)
    try:
        for model in MODELS:
            tested = done.predictions.query(
                "model == @model and institution == 'brindlefen'"
            ).set_index("exam_id")["probability"]
            given = exams.loc[tested.index, columns]
            served = mlflow.pyfunc.load_model(f"runs:/{tags[f'model.{model}']}/checkpoint")
            said = served.predict(given)
            np.testing.assert_allclose(said["probability"], tested, atol=1e-5)
            assert list(said.index) == list(tested.index)
            loaded = load_model(tags[f"model.{model}"], tracking_uri=done.uri)
            row = given.dropna().iloc[0]
            inputs = {
                name: row[column] for name, column in loaded.arguments.items() if column in columns
            }
            found = loaded.predict(**inputs).probability
            assert found == pytest.approx(tested[row.name], abs=1e-5)
            if model != "ph_bnp":
                embedded = served.predict(row.to_frame().T, params={"embeddings": True})
                np.testing.assert_allclose(
                    embedded.to_numpy()[0], loaded.embed(**inputs), atol=1e-6
                )
    finally:
        mlflow.set_tracking_uri(None)
    fusion = load_model(done.run, tracking_uri=done.uri)  # of the launch: its fusion
    assert fusion.name == "ph_fusion"


@pytest.mark.parametrize("institution", ["quillhaven", "brindlefen"])
def test_predict_agrees_with_the_launchs_test(
    launched: tuple[Launch, Path], capsys: pytest.CaptureFixture[str], institution: str
) -> None:
    done, cohort = launched
    predictions = done.predictions.set_index(["model", "institution", "exam_id"])["probability"]
    tags = done.client.get_run(done.run).data.tags
    for model in MODELS:
        capsys.readouterr()
        main(
            [
                f"model={tags[f'model.{model}']}",
                f"tracking.uri={done.uri}",
                f"manifest={cohort / institution}.csv",
                "format=json",
            ]
        )
        rows = json.loads(capsys.readouterr().out)
        given = pd.Series({row["exam_id"]: row["probability"] for row in rows}, dtype=float)
        tested = predictions[model][institution]
        assert len(tested) >= 5
        assert (given[tested.index] - tested).abs().max() < 1e-5


def test_one_patient_on_the_command_line(launched: tuple[Launch, Path]) -> None:
    done, cohort = launched
    exams = read_manifest(cohort / "brindlefen.csv").set_index("exam_id")
    tested = done.predictions.query("model == 'ph_fusion' and institution == 'brindlefen'")
    complete = exams.loc[tested["exam_id"], ["ecg_path", "cxr_path", "bnp_pg_ml"]].dropna()
    exam = complete.iloc[0]
    answer = subprocess.run(
        [
            *(sys.executable, "-m", "experiments.predict", "format=json"),
            f"model={done.run}",
            f"tracking.uri={done.uri}",
            f"ecg={cohort / exam['ecg_path']}",
            f"cxr={cohort / exam['cxr_path']}",
            f"bnp={exam['bnp_pg_ml']}",
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    found = json.loads(answer.stdout)
    expected = tested.set_index("exam_id").at[exam.name, "probability"]
    assert found["probability"] == pytest.approx(expected, abs=1e-5)
    assert found["inputs"] == ["ecg", "cxr", "bnp"]
    assert found["model"]["name"] == "ph_fusion"
    assert "ECG sampling rate 250 Hz is not the training data's 500 Hz" in found["warnings"]
