"""An input from outside this software: one class, and everything handles it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from spirometry import Spirometry

from datamodules.errors import InputError
from datamodules.institution import InstitutionDataModule, Loading
from datamodules.manifest import read_manifest


def manifest(folder: Path, *rows: str) -> Path:
    path = folder / "north.csv"
    path.write_text("\n".join(["patient_id,exam_id,fev1_l,fvc_l,copd", *rows]) + "\n")
    return path


GOOD = ("p0,e0,1.2,3.0,1", "p1,e1,3.5,4.2,0", "p2,e2,,3.9,0", "p3,e3,2.0,3.6,1")


def test_its_columns_are_checked(tmp_path: Path) -> None:
    exams = read_manifest(manifest(tmp_path, *GOOD), Spirometry.columns)
    assert exams["fev1_l"].dtype == np.float64
    with pytest.raises(InputError) as error:
        read_manifest(
            manifest(tmp_path, "p0,e0,1200,3.0,1", "p1,e1,2.1 L,3.0,0"), Spirometry.columns
        )
    message = str(error.value)
    assert "line 2, column fev1_l: 1200 is outside 0.1-8; write litres" in message
    assert "line 3, column fev1_l: '2.1 L' has its unit in it; write L and no unit" in message
    read_manifest(manifest(tmp_path, "p0,e0,1200,3.0,1"))  # nobody's column without the input


@pytest.mark.filterwarnings("error")
def test_it_is_fitted_read_and_prepared(tmp_path: Path) -> None:
    made = Spirometry()
    exams = read_manifest(manifest(tmp_path, *GOOD), made.columns)
    assert made.known(exams).tolist() == [True, True, False, True]
    exams = exams[made.known(exams)].assign(row=0, split=["train", "train", "test"])

    def site(made: Spirometry) -> InstitutionDataModule:
        return InstitutionDataModule(
            "north",
            exams,
            None,
            reads="lungs",
            input=made,
            augmentation=None,
            loading=Loading(batch_size=3, workers=0, seed=0),
            targets=["copd"],
        )

    fitted = site(made).fit_input()
    assert fitted.ranges == {"FEV1 (L)": (1.2, 3.5), "FVC (L)": (3.0, 4.2)}
    assert isinstance(fitted.input, Spirometry)
    np.testing.assert_allclose(fitted.input.mean, [2.35, 3.6])
    np.testing.assert_allclose(fitted.input.deviation, [1.15, 0.6])
    data = site(fitted.input)
    batch = data.prepare(data.dataset.__getitems__([2, 0]))
    assert set(batch) == {"lungs", "target", "exam", "institution"}
    np.testing.assert_allclose(batch["lungs"], [[-0.35 / 1.15, 0], [-1, -1]], atol=1e-12)
    assert batch["target"].tolist() == [[1], [1]]

    values = {"patient_id": "p3", "fev1_l": 2.0, "fvc_l": 3.6}
    alone = fitted.input.of_exam(values, tmp_path)
    assert alone is not None
    raw, measured = alone
    torch.testing.assert_close(fitted.input.prepare(raw), batch["lungs"][:1])
    assert measured == {"FEV1 (L)": 2.0, "FVC (L)": 3.6}
    assert fitted.input.of_exam({"fev1_l": 2.0}, tmp_path) is None


def test_it_travels_and_says_what_it_is() -> None:
    made = Spirometry(mean=(2.35, 3.6), deviation=(1.15, 0.6))
    assert Spirometry.from_dict(json.loads(json.dumps(made.as_dict()))) == made
    assert made.shape == {"features": 2}
    assert made.contents is None
    with pytest.raises(ValueError, match="spirometry has no augmentation"):
        made.augmentation({"noise": 0.1})
    with pytest.raises(ValueError, match="not been fitted"):
        Spirometry().prepare(torch.zeros(1, 2))
