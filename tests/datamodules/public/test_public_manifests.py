"""Sources of several layouts -> one manifest an institution, by hand and on the real data."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import wfdb
from omegaconf import OmegaConf

from datamodules.errors import InputError
from datamodules.public import manifests
from datamodules.public.copies import join_copies
from datamodules.recordings import LEADS, read_recording

CONFIG = Path(__file__).parents[3] / "configs/cohort/public.yaml"


def configured() -> dict[str, Any]:
    """`cohort.sources` as `cohort=public` gives it."""
    cohort = OmegaConf.create({"cohort": OmegaConf.load(CONFIG)}).cohort
    return OmegaConf.to_container(cohort.sources, resolve=True)


def georgia(**changes: Any) -> dict[str, Any]:
    return {"georgia": configured()["georgia"] | {"folder": "georgia"} | changes}


def record(root: Path, name: str, seed: int) -> None:
    folder = root / "georgia"
    folder.mkdir(exist_ok=True)
    wfdb.wrsamp(
        name,
        fs=500,
        units=["mV"] * 12,
        sig_name=list(LEADS),
        d_signal=np.random.default_rng(seed).integers(-900, 900, (500, 12)),
        fmt=["16"] * 12,
        adc_gain=[1000.0] * 12,
        baseline=[0] * 12,
        comments=["Dx: 426783006"],
        write_dir=str(folder),
    )


def test_copies_of_one_recording_are_one_patient(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2), ("c", 1), ("d", 3), ("e", 1)):
        record(tmp_path, name, seed)
    table = manifests(georgia(), tmp_path)["georgia"]
    assert table["patient_id"].tolist() == [f"georgia-{x}" for x in "abada"]
    assert table["exam_id"].tolist() == [f"georgia-{x}" for x in "abcde"]


def test_patients_joined_over_a_third_one(tmp_path: Path) -> None:
    """C shares a recording with B, and B later another with A: all three are one person."""
    for name, seed in (("1", 1), ("2", 1), ("3", 2), ("4", 2), ("5", 3)):
        record(tmp_path, name, seed)
    exams = pd.DataFrame(
        {"patient_id": list("BCABD"), "ecg_path": [f"georgia/{i}" for i in range(1, 6)]}
    )
    assert join_copies(exams, tmp_path).tolist() == list("AAAAD")


def test_an_unreadable_header_is_left_to_the_reader(tmp_path: Path) -> None:
    record(tmp_path, "a", 1)
    (tmp_path / "georgia" / "b.hea").write_text("")
    assert len(manifests(georgia(), tmp_path)["georgia"]) == 2


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"folder": "absent"}, "absent: there is no such folder. Set cohort.root"),
        (
            {"folder": "../georgia"},
            "cohort.sources.georgia.folder: '../georgia' leaves cohort.root",
        ),
        ({"folder": "/georgia"}, "leaves cohort.root. Name a folder inside it"),
        ({"layout": "mimic"}, "layout: 'mimic' is not a layout. Write ptbxl or cinc or nih"),
        ({"layout": "ptbxl"}, "cohort.sources.georgia: likelihood_percent missing"),
        ({"codes": {"normal": []}}, "cohort.sources.georgia.codes: has normal. Write normal, neu"),
    ],
)
def test_bad_sources(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    record(tmp_path, "a", 1)
    with pytest.raises(InputError) as caught:
        manifests(georgia(**changes), tmp_path)
    assert expected in str(caught.value)


@pytest.fixture(scope="module")
def real(real_data: Path) -> dict[str, pd.DataFrame]:
    return manifests(configured(), real_data)


def test_real_institutions(real: dict[str, pd.DataFrame]) -> None:
    """Sizes as published with the excerpt."""
    assert {institution: len(table) for institution, table in real.items()} == {
        "ptbxl_site0": 256,
        "ptbxl_site1": 161,
        "ptbxl_site2": 17,
        "ptbxl_site3": 66,
        "georgia": 73,
        "chapman": 19,
        "ningbo": 66,
    }
    for table in real.values():
        assert {0.0, 1.0} <= set(table["abnormal"])


def test_real_waveforms_never_stand_under_two_patients(
    real: dict[str, pd.DataFrame], real_data: Path
) -> None:
    exams = pd.concat(real.values(), ignore_index=True)
    waveform = [
        hashlib.sha256(read_recording(real_data / path).samples.tobytes()).hexdigest()
        for path in exams["ecg_path"]
    ]
    assert exams.groupby(waveform)["patient_id"].nunique().max() == 1
    # 465 of PTB-XL's 466 patients, 72 of Georgia's 73 records, and nobody else is joined.
    assert exams["patient_id"].nunique() == 465 + 72 + 19 + 66


def test_real_labels_by_hand(real: dict[str, pd.DataFrame]) -> None:
    exams = pd.concat(real.values()).set_index("exam_id")
    expected = {
        "ptbxl-00002": 0,  # sinus bradycardia, otherwise normal ECG
        "ptbxl-00003": 0,  # sinus rhythm, normal ECG
        "ptbxl-00001": np.nan,  # normal, low voltage
        "georgia-E00001": 0,  # sinus rhythm
        "georgia-E00271": 1,  # right bundle branch block
        "chapman-JS00001": 1,  # atrial flutter or fibrillation, right bundle branch block
        "ningbo-JS11438": np.nan,  # sinus tachycardia
    }
    for exam, abnormal in expected.items():
        np.testing.assert_equal(exams.loc[exam, "abnormal"], abnormal)
