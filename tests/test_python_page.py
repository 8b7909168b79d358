"""What docs/python.md shows is what happens, on a tiny launch; and its three ways agree."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
from command import TINY, TINY_COHORT, Launch, launch
from places import REPOSITORY

from datamodules.manifest import read_manifest
from experiments import load_model
from experiments.predict import main

PAGE = (REPOSITORY / "docs" / "python.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Launch, Path]:
    """The launch, and the folder that it was started in, as far as the page can tell."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "mlruns").mkdir()
    finished = launch(
        folder,
        f"tracking.uri=sqlite:///{folder}/mlruns/mlflow.db",
        f"cohort.root={folder}/.cache/simulated",
        *TINY_COHORT,
        *TINY,
        "~models.scratch",
    )
    assert finished.status == 0, finished.output + finished.errors
    uri = f"sqlite:///{folder}/mlruns/mlflow.db"
    return Launch(finished.status, finished.output, finished.errors, uri), folder


def test_the_page_runs_as_it_stands(
    done: tuple[Launch, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    finished, folder = done
    monkeypatch.chdir(folder)
    known: dict[str, Any] = {}
    uri = mlflow.get_tracking_uri()
    try:
        for block in BLOCKS:
            exec(
                compile(block.replace("PARENT_RUN", finished.run), "docs/python.md", "exec"), known
            )
    finally:
        mlflow.set_tracking_uri(uri)
    assert len(BLOCKS) == 8
    assert known["model"].about["labels"] == ["lvsd"]
    assert known["embeddings"].shape[1] == 16
    assert known["probe"].coef_.shape == (1, 16)
    assert (folder / "embeddings.png").is_file()
    assert 0.8 < known["found"].low < known["found"].value < known["found"].high < 1
    assert set(known["pooled"]["model"]) == {"pretrained", "cnn"}


def test_api_command_mlflow_and_the_study_agree(
    done: tuple[Launch, Path], capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished, folder = done
    tags = finished.client.get_run(finished.run).data.tags
    (manifest,) = folder.glob(".cache/simulated/*/brindlefen.csv")
    exams = read_manifest(manifest).set_index("exam_id")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", finished.uri)
    for name in ("cnn", "pretrained"):
        run, file = tags[f"model.{name}"], tmp_path / f"{name}.parquet"
        tested = finished.predictions.query("model == @name and institution == 'brindlefen'")
        tested = tested.set_index("exam_id")["probability"]
        exam = tested.index[0]
        path = manifest.parent / str(exams.at[exam, "ecg_path"])
        model = load_model(run, tracking_uri=finished.uri)
        assert model.predict(path).probability == pytest.approx(tested[exam], abs=1e-5)
        assert model.about["exams"] > 0

        capsys.readouterr()
        asked = [f"model={run}", f"tracking.uri={finished.uri}", f"manifest={manifest}"]
        assert main([*asked, "format=json"]) == 0
        told = {row["exam_id"]: row for row in json.loads(capsys.readouterr().out)}
        assert told[exam]["probability"] == pytest.approx(model.predict(path).probability, abs=1e-6)
        assert main([*asked, f"embeddings={file}"]) == 0
        written = pd.read_parquet(file).set_index("exam_id").loc[exam].to_numpy(np.float32)
        np.testing.assert_allclose(written, model.embed(path), atol=1e-6)

        mlflow.set_tracking_uri(finished.uri)
        served = mlflow.pyfunc.load_model(f"runs:/{run}/checkpoint")
        row = pd.DataFrame({"ecg_path": [str(path)]})
        said = served.predict(row)["probability"].item()
        assert said == pytest.approx(model.predict(path).probability, abs=1e-6)
        embedded = served.predict(row, params={"embeddings": True}).to_numpy()[0]
        np.testing.assert_allclose(embedded, model.embed(path), atol=1e-6)
        assert len(served.predict(served.input_example)) == 1
    mlflow.set_tracking_uri(None)

    finished.client.create_registered_model("detector")
    finished.client.create_model_version("detector", f"runs:/{run}/checkpoint", run)
    registered = load_model("detector/1", tracking_uri=finished.uri)
    assert registered.predict(path).labels == model.predict(path).labels


def test_statistics_load_neither_torch_nor_mlflow() -> None:
    told = (
        "import sys\nfrom experiments.evaluation import *\n"
        "print([m for m in ('torch', 'lightning', 'mlflow', 'timm') if m in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", told], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"
