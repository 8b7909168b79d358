"""A person's mistakes through `main`: one message, exit status 2, nothing half-written."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb
from command import TINY
from mlflow import MlflowClient

from datamodules.recordings import LEADS
from experiments import studies
from experiments.run import main

Report = Callable[..., str]


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Two institutions of 20 exams in WFDB files; a third of them have a low LVEF."""
    root = tmp_path / "cohort"
    for name in ("alpha", "beta"):
        rng = np.random.default_rng(len(name))
        rows = []
        for i in range(20):
            (root / name).mkdir(parents=True, exist_ok=True)
            wfdb.wrsamp(
                f"r{i}",
                fs=500,
                units=["mV"] * 12,
                sig_name=list(LEADS),
                p_signal=rng.normal(size=(5000, 12)) * 0.3,
                fmt=["16"] * 12,
                adc_gain=[1000.0] * 12,
                baseline=[0] * 12,
                write_dir=str(root / name),
            )
            rows.append(
                {
                    "patient_id": f"{name}-{i}",
                    "exam_id": f"{name}-e{i}",
                    "ecg_path": f"{name}/r{i}.hea",
                    "lvef_percent": 30 if i % 3 == 0 else 60,
                }
            )
        pd.DataFrame(rows).to_csv(root / f"{name}.csv", index=False)
    return root


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One tracking database for all: creating it is what takes longest."""
    return f"sqlite:///{tmp_path_factory.mktemp('tracking')}/mlflow.db"


@pytest.fixture
def refused(cohort: Path, database: str, capsys: pytest.CaptureFixture[str]) -> Report:
    """Launch on the cohort with more overrides; the message of the refusal."""

    def launch(*overrides: str, status: int = 2) -> str:
        folder = cohort.parent
        given = [
            "cohort=manifests",
            f"cohort.root={cohort}",
            "cohort.development=[alpha]",
            f"cache={folder}/cache",
            f"tracking.uri={database}",
            f"tracking.artifacts={folder}/artifacts",
            "workers=1",
            *TINY,
        ]
        keys = {override.split("=")[0] for override in overrides}
        kept = [g for g in given if g.split("=")[0] not in keys]
        capsys.readouterr()
        assert main([*kept, *overrides]) == status
        shown = capsys.readouterr().err.split("\r")[-1].strip()
        assert ("Traceback" in shown) == (status == 1)
        assert shown.count("error: ") == (1 if status == 2 else 0)
        return shown[shown.find("error: ") :]

    return launch


def edit(cohort: Path, **cells: object) -> None:
    """Change alpha's second row, line 3 of the file."""
    table = pd.read_csv(cohort / "alpha.csv", dtype=str)
    for column, value in cells.items():
        table.loc[1, column] = str(value)
    table.to_csv(cohort / "alpha.csv", index=False)


def test_a_torn_recording(cohort: Path, refused: Report) -> None:
    (cohort / "alpha" / "r7.dat").write_bytes((cohort / "alpha" / "r7.dat").read_bytes()[:-100])
    message = refused()
    assert "r7" in message
    assert "line 9" in message
    assert "cohort.on_error=skip" in message
    assert not list((cohort.parent / "cache" / "store").glob("*/"))


def test_the_run_of_a_refused_launch_is_marked_as_failed(
    cohort: Path, refused: Report, database: str
) -> None:
    edit(cohort, lvef_percent=400)
    refused()
    client = MlflowClient(database)
    runs = client.search_runs([client.get_experiment_by_name("quickstart").experiment_id])
    assert {run.info.status for run in runs} == {"FAILED"}


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"lvef_percent": 400}, "line 3, column lvef_percent: 400 is outside 0-100"),
        ({"exam_id": "alpha-e0"}, "line 3, column exam_id"),
        ({"ecg_path": "../beta/r1.hea"}, "line 3, column ecg_path"),
        ({"ecg_path": "alpha/none.hea"}, "none"),
        ({"patient_id": "beta-4"}, "beta-4"),
        ({"ecg_path": "alpha/r0.hea"}, "recordings that stand under two patients"),
    ],
)
def test_a_bad_row(cohort: Path, refused: Report, cells: dict[str, object], message: str) -> None:
    edit(cohort, **cells)
    assert message in refused()


def test_a_cohort_of_one_class(cohort: Path, refused: Report) -> None:
    table = pd.read_csv(cohort / "alpha.csv")
    table.assign(lvef_percent=60).to_csv(cohort / "alpha.csv", index=False)
    assert "hold only 0" in refused()


def test_an_empty_manifest(cohort: Path, refused: Report) -> None:
    (cohort / "beta.csv").write_text("patient_id,exam_id,ecg_path\n")
    assert "beta.csv: the manifest has no exams" in refused()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["cohort.development=[alpa]"], "Did you mean alpha?"),
        (["cohort.development=null"], "There are alpha, beta"),
        (["cohort.external=[alpha]"], "can't be both"),
        (["target=lvdd"], "has no column 'lvdd'"),
        (["target=lvef_percent"], "is not 0 or 1"),
        (["pretrain.mask_ratios=0.5"], "Did you mean pretrain.mask_ratio?"),
        (["tracking.uri=http://127.0.0.1:9"], "no server answers there"),
        (["tracking.uri=mlruns"], "give a server's http(s):// address or sqlite:///FILE"),
        (["cohort.root=/nowhere"], "there is no such folder"),
        (["cohort.on_error=maybe"], "cohort.on_error=maybe: it is one of fail, skip"),
        (["splits={train: 0.5, val: 0.2, test: 0.2}"], "sum to 1"),
        (["tokens.patch_samples=70"], "whole number of 70-patches"),
        (["ecg.low_pass_hz=60"], "half the network's sampling rate"),
        (["pretrain.masking=blocks"], "random, time, lead, mixed"),
        (["network.settings.pooling=max"], "mean, class_token"),
        (["finetune.max_steps=-1"], "training never ends"),
        (["models.cnn.finetune={max_steps: -1}"], "training never ends"),
        (["models.cnn.finetune={augmentation: {nois: 1}}"], "nois"),
        (
            ["models.mine={classifier: LVSDClassifier}"],
            "classifier=LVSDClassifier: write it as package.module.Class",
        ),
        (["finetune.batch_size=16.5"], "finetune.batch_size=16.5: it must be a whole number"),
        (["trainer.precision=bf16-true"], "trainer.precision=bf16-true: it is one of 32-true"),
        (["epochs=3"], "finetune.max_epochs"),
        (["--config-dir", "/nowhere"], "there is no such folder"),
        (["-m", "sed=1,2"], "there is no such key. Did you mean seed?"),
        (
            ["experiment=leave_site_out", "cohort.development=null", "folds=[gamma]"],
            "There are alpha, beta",
        ),
    ],
)
def test_a_wrong_word(refused: Report, overrides: list[str], message: str) -> None:
    assert message in refused(*overrides)


def test_anything_else_is_status_1_with_its_traceback(
    refused: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("not a person's mistake")

    monkeypatch.setitem(studies.TRAINING, "external_validation", broken)
    refused(status=1)
