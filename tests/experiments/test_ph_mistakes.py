"""A person's mistakes in `experiment=ph`: one message, exit status 2, no patient's name."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import wfdb
from command import TINY_PH
from PIL import Image
from pydicom.data import get_testdata_file

from datamodules.recordings import LEADS
from experiments.run import main

Report = Callable[..., str]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two institutions of 30 exams with ECG, film, BNP and PASP; a third of them have PH."""
    root = tmp_path_factory.mktemp("files") / "cohort"
    for name in ("alpha", "beta"):
        rng = np.random.default_rng(len(name))
        (root / name).mkdir(parents=True)
        rows = []
        for i in range(30):
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
            Image.fromarray(rng.integers(0, 255, (40, 40), dtype=np.uint8)).save(
                root / name / f"f{i}.png"
            )
            rows.append(
                {
                    "patient_id": f"{name}-{i}",
                    "exam_id": f"{name}-e{i}",
                    "ecg_path": f"{name}/r{i}.hea",
                    "cxr_path": f"{name}/f{i}.png",
                    "bnp_pg_ml": 20 + 10 * i,
                    "pasp_mmhg": 60 if i % 3 == 0 else 25,
                }
            )
        pd.DataFrame(rows).to_csv(root / f"{name}.csv", index=False)
    return root


@pytest.fixture
def cohort(tmp_path: Path, files: Path) -> Path:
    """A copy of them to do wrong to."""
    return Path(shutil.copytree(files, tmp_path / "cohort"))


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('tracking')}/mlflow.db"


@pytest.fixture
def refused(cohort: Path, database: str, capsys: pytest.CaptureFixture[str]) -> Report:
    """Launch on the cohort with more overrides; the message of the refusal."""

    def launch(*overrides: str) -> str:
        folder = cohort.parent
        given = [
            "experiment=ph",
            "cohort=manifests",
            f"cohort.root={cohort}",
            "cohort.development=[alpha]",
            f"cache={folder}/cache",
            f"tracking.uri={database}",
            f"tracking.artifacts={folder}/artifacts",
            "workers=1",
            *TINY_PH,
        ]
        keys = {override.split("=")[0] for override in overrides}
        capsys.readouterr()
        status = main([*(g for g in given if g.split("=")[0] not in keys), *overrides])
        shown = capsys.readouterr().err.split("\r")[-1].strip()
        assert status == 2, shown
        assert "Traceback" not in shown
        assert shown.count("error: ") == 1
        return shown[shown.find("error: ") :]

    return launch


def edit(cohort: Path, **cells: object) -> None:
    """Change alpha's second row, line 3 of the file."""
    table = pd.read_csv(cohort / "alpha.csv", dtype=str)
    for column, value in cells.items():
        if column not in table:
            table[column] = None
        table.loc[1, column] = str(value)
    table.to_csv(cohort / "alpha.csv", index=False)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ({"ph": 1}, ["alpha", "line 3", "pasp_mmhg", "25", "45"]),
        ({"bnp_pg_ml": -3}, ["line 3", "bnp_pg_ml", "-3", "below 0"]),
        ({"bnp_pg_ml": "120 pg/mL"}, ["line 3", "bnp_pg_ml", "120 pg/mL"]),
        ({"bnp_pg_ml": "<10"}, ["line 3", "bnp_pg_ml", "<10"]),
        ({"bnp_pg_ml": 5e6}, ["line 3", "bnp_pg_ml"]),
        ({"bnp_pmol_l": 10}, ["line 3", "bnp_pmol_l"]),
        ({"tr_velocity_m_s": 280}, ["line 3", "tr_velocity_m_s", "metres per second"]),
        ({"cxr_path": "alpha/none.png"}, ["line 3", "alpha-e1", "none.png"]),
    ],
)
def test_a_bad_cell(
    cohort: Path, refused: Report, cells: dict[str, object], expected: list[str]
) -> None:
    edit(cohort, **cells)
    if "bnp_pmol_l" in cells:
        for name in ("alpha", "beta"):
            table = pd.read_csv(cohort / f"{name}.csv").drop(columns="bnp_pg_ml")
            table.to_csv(cohort / f"{name}.csv", index=False)
        expected = ["bnp_pmol_l", "3.46", "pg/mL"]
    message = refused()
    for part in expected:
        assert part in message


def test_a_film_that_is_none_and_whose_it_is(cohort: Path, refused: Report) -> None:
    dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    dataset.PatientName, dataset.PatientID = "Okonedo^Secret", "MRN-778899"
    dataset.InstitutionName = "Plainview General"
    dataset.save_as(cohort / "alpha" / "f1.png")
    message = refused()
    assert "CT" in message
    assert "line 3" in message
    for secret in ("Okonedo", "MRN-778899", "Plainview"):
        assert secret not in message
        for path in cohort.parent.rglob("*"):
            if path.is_file() and not path.is_relative_to(cohort):
                assert secret.encode() not in path.read_bytes(), path


def test_no_exam_with_all_three(cohort: Path, refused: Report) -> None:
    table = pd.read_csv(cohort / "alpha.csv")
    table.loc[table.index % 2 == 0, "bnp_pg_ml"] = None
    table.loc[table.index % 2 == 1, "cxr_path"] = None
    table.to_csv(cohort / "alpha.csv", index=False)
    assert "No labelled training exam" in refused()


def test_no_column_that_says_ph(cohort: Path, refused: Report) -> None:
    table = pd.read_csv(cohort / "alpha.csv").drop(columns="pasp_mmhg")
    table.to_csv(cohort / "alpha.csv", index=False)
    message = refused()
    assert "target=ph" in message
    assert "pasp_mmhg" in message


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("fusion.widths=[16]", "fewer than 2"),
        ("fusion.folds=1", "at least 2 and at most 100"),
        ("fusion.modality_dropout=1", "at least 0 and at most 0.95"),
        ("models.ph_ecg.classifier=PHEKGClassifier", "write it as package.module.Class"),
        ("bnp.marker=bnp", "bnp_pg_ml, nt_probnp_pg_ml"),
        ("cxr.size=8", "at least 32"),
        ("cxr_finetune.augmentation.rotation_degrees=90", "at least 0 and at most 45"),
        ("bnp.marker=nt_probnp_pg_ml", "There are columns called bnp_pg_ml"),
    ],
)
def test_a_bad_setting(refused: Report, override: str, expected: str) -> None:
    assert expected in refused(override)
