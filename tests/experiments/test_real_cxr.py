"""`experiment=real_cxr` by the real command line, on NIH ChestX-ray14's layout."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command import TINY_FILMS, launch
from PIL import Image

SETTINGS = (*TINY_FILMS, "statistics.resamples=50")


def write_nih(root: Path) -> None:
    """Two tables and folders as configs/cohort/public_cxr.yaml names them; a third cardiomegaly."""
    rng = np.random.default_rng(0)
    for name, patients, size in (("nih_64px", 60, 64), ("nih_1024", 50, 128)):
        rows = []
        for number in range(patients):
            patient = number + (5000 if name == "nih_1024" and number > 4 else 0)
            image = f"{patient:08d}_000.png"
            sick = number % 3 == 0
            pixels = rng.integers(40, 90, (size, size), dtype=np.uint8)
            pixels[size // 4 : -size // 4, size // 4 : -size // 4] += 120 if sick else 40
            path = root / "cxr" / name / image
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
            rows.append(
                {
                    "Image Index": image,
                    "Finding Labels": "Cardiomegaly|Effusion" if sick else "No Finding",
                    "Follow-up #": 0,
                    "Patient ID": patient,
                    "Patient Age": 50,
                    "Patient Gender": "M",
                    "View Position": "PA",
                    "OriginalImage[Width,Height]": "2500,2048",
                    "OriginalImagePixelSpacing[x,y]": "0.1,0.1",
                    "split": "train",
                }
            )
        pd.DataFrame(rows).to_csv(root / "cxr" / f"{name}.csv", index=False)


def test_nih_films_by_patient(tmp_path: Path) -> None:
    write_nih(tmp_path / "data")
    done = launch(tmp_path, "experiment=real_cxr", f"cohort.root={tmp_path / 'data'}", *SETTINGS)
    assert done.status == 0, done.output + done.errors
    table = done.predictions
    assert set(table["split"]) == {"val", "test"}
    assert (table.groupby("patient_id")["split"].nunique() == 1).all()
    assert {row["role"] for row in done.summary} == {"development"}
    # The five patients of both tables stay in the first.
    assert len(table) < 60 + 45
    assert not table.duplicated("exam_id").any()


def test_a_torn_film_is_left_out_and_listed(tmp_path: Path) -> None:
    write_nih(tmp_path / "data")
    torn = tmp_path / "data" / "cxr" / "nih_64px" / "00000007_000.png"
    torn.write_bytes(torn.read_bytes()[:200])
    done = launch(tmp_path, "experiment=real_cxr", f"cohort.root={tmp_path / 'data'}", *SETTINGS)
    assert done.status == 0, done.output + done.errors
    left_out = pd.read_csv(done.artifact("cohort/left_out.csv"))
    assert left_out["exam_id"].tolist() == ["00000007_000"]
    assert "00000007_000.png" in left_out["reason"][0]
    refused = launch(
        tmp_path, "experiment=real_cxr", f"cohort.root={tmp_path / 'data'}", *SETTINGS,
        "cohort.on_error=fail",
    )  # fmt: skip
    assert refused.status == 2
    assert "00000007_000.png" in refused.errors
    assert "Traceback" not in refused.errors


def test_imagenet_weights_without_a_network_are_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = launch(
        tmp_path, "experiment=real_cxr", f"cohort.root={tmp_path}", *SETTINGS,
        "models.cxr.pretrained=true", forked=False,
    )  # fmt: skip
    assert done.status == 2, done.output + done.errors
    assert "pretrained=false" in done.errors
    assert "Traceback" not in done.errors


def test_the_real_films(tmp_path: Path, real_data: Path) -> None:
    done = launch(tmp_path, "experiment=real_cxr", f"cohort.root={real_data}", *SETTINGS)
    assert done.status == 0, done.output + done.errors
    (row,) = [row for row in done.summary if row["institution"] == "nih_64px"]
    assert row["n"] > 200
    assert row["auroc"] is not None
