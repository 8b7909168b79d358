"""ChestX-ray14's table and folders -> exams: its versions by hand, and the real images."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from PIL import Image
from places import REPOSITORY

from datamodules.errors import InputError
from datamodules.public import manifests, nih

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
SIZES = "PA,2682,2749,0.143,0.143,"


def row(
    image: str = "00000001_000.png",
    findings: str = "No Finding",
    patient: str = "1",
    age: str = "58",
    sex: str = "M",
) -> str:
    return f"{image},{findings},0,{patient},{age},{sex},{SIZES}"


def png(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4)).save(path)


def exams(
    root: Path, *rows: str, header: str = HEADER, images: str = "images_001/images"
) -> pd.DataFrame:
    """The exams of a download whose images are the first column of `rows`."""
    table = root / "nih" / "Data_Entry_2017.csv"
    table.parent.mkdir(exist_ok=True)
    table.write_text("\n".join([header, *rows]) + "\n")
    for line in rows:
        png(root / "nih" / images / line.split(",")[0])
    return nih.exams(table, root / "nih", root, institution="nih")


def test_a_row(tmp_path: Path) -> None:
    (found,) = exams(tmp_path, row(findings="Cardiomegaly|Pleural_Thickening")).to_dict("records")
    others = set(nih.FINDINGS) - {"cardiomegaly", "pleural_thickening"}
    assert len(others) == 12
    assert found == {
        "institution": "nih",
        "patient_id": "nih-1",
        "exam_id": "00000001_000",
        "cxr_path": "nih/images_001/images/00000001_000.png",
        "age_years": 58.0,
        "sex": "male",
        "cardiomegaly": 1.0,
        "pleural_thickening": 1.0,
    } | dict.fromkeys(others, 0.0)


@pytest.mark.parametrize("images", ["images", "images_012/images", "."])
def test_images_are_found_wherever_they_lie(tmp_path: Path, images: str) -> None:
    table = exams(tmp_path, row(), images=images)
    assert (tmp_path / table["cxr_path"].iloc[0]).is_file()


def test_the_table_of_2020(tmp_path: Path) -> None:
    """Without the commas at the lines' ends, and with another name for the patient's sex."""
    table = exams(
        tmp_path,
        row(sex="F").rstrip(","),
        header=HEADER.rstrip(",").replace("Gender", "Sex"),
    )
    assert table["sex"].tolist() == ["female"]
    assert table["patient_id"].tolist() == ["nih-1"]


def test_ages_sexes_and_ids(tmp_path: Path) -> None:
    ages = {
        "058Y": 58,
        "58": 58,
        "018M": 1.5,
        "026W": 0.5,
        "000D": 0,
        "414": np.nan,
        "": np.nan,
        "120": 120,
    }
    table = exams(
        tmp_path,
        *(row(f"{i:08d}_000.png", patient=f"{i:08d}", age=age) for i, age in enumerate(ages)),
        row("x.png", sex=""),
    )
    np.testing.assert_allclose(table["age_years"][:-1], list(ages.values()), atol=0.01)
    assert table["patient_id"].tolist()[:2] == ["nih-0", "nih-1"]
    assert table["sex"].fillna("-").tolist() == [*["male"] * len(ages), "-"]
    assert table.index.tolist() == list(range(2, len(ages) + 3))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (row("b.png", findings="Cardiomegalie"), "line 3, column Finding Labels: 'Cardiomegalie'"),
        (row("b.png", findings="No Finding|Mass"), "is not 'No Finding', nor findings"),
        (row("b.png", findings=""), "line 3, column Finding Labels: '' is not"),
        (row("b.png", patient="P7"), "line 3, column Patient ID: 'P7' is not a whole number"),
        (row("b.png", age="old"), "line 3, column Patient Age: 'old' is not an age such as 58"),
        (row("b.png", sex="male"), "line 3, column Patient Gender: 'male' is not M or F"),
    ],
)
def test_bad_rows(tmp_path: Path, line: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        exams(tmp_path, row(), line)
    assert expected in str(caught.value)
    assert "Data_Entry_2017.csv:\n" in str(caught.value)


def test_an_image_that_is_not_there_is_left_to_its_reader(tmp_path: Path) -> None:
    exams(tmp_path, row(), row("00000002_000.png"))
    (tmp_path / "nih/images_001/images/00000002_000.png").unlink()
    table = nih.exams(
        tmp_path / "nih" / "Data_Entry_2017.csv", tmp_path / "nih", tmp_path, institution="nih"
    )
    assert table["cxr_path"].tolist()[1] == "nih/00000002_000.png"
    assert not (tmp_path / "nih/00000002_000.png").exists()


def test_images_that_are_nowhere_or_twice(tmp_path: Path) -> None:
    exams(tmp_path, row())
    table = tmp_path / "nih" / "Data_Entry_2017.csv"
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"none of the 1 images .* is here, such as 00000001_000"):
        nih.exams(table, tmp_path / "empty", tmp_path, institution="nih")
    png(tmp_path / "nih/images/00000001_000.png")
    with pytest.raises(InputError, match=r"line 2, .* '00000001_000.png' lies 2 times below"):
        nih.exams(table, tmp_path / "nih", tmp_path, institution="nih")


def test_tables_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"table is missing\. Copy it again from NIH"):
        nih.exams(tmp_path / "a.csv", tmp_path, tmp_path, institution="nih")
    with pytest.raises(InputError, match=r"column Patient ID, Patient Gender missing\. Copy"):
        exams(tmp_path, header="Image Index,Finding Labels,Patient Age")
    with pytest.raises(InputError, match="there are no images in it"):
        exams(tmp_path, header=HEADER)
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read as a table"):
        nih.exams(tmp_path / "b.csv", tmp_path, tmp_path, institution="nih")


def source(table: str, **changes: Any) -> dict[str, Any]:
    return {
        "layout": "nih",
        "table": table,
        "folder": "nih",
        "leave_out_patients_of": None,
        **changes,
    }


def two_tables(root: Path) -> None:
    exams(root, row(patient="1"), row("00000002_000.png", patient="2"))
    lines = [row("00000003_000.png", patient="00000002"), row("00000004_000.png", patient="4")]
    (root / "more.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    for line in lines:
        png(root / "nih" / line.split(",")[0])


def test_patients_of_another_source_are_left_out(tmp_path: Path) -> None:
    two_tables(tmp_path)
    first = source("nih/Data_Entry_2017.csv")
    tables = manifests({"a": first, "b": source("more.csv", leave_out_patients_of="a")}, tmp_path)
    assert tables["a"]["patient_id"].tolist() == ["nih-1", "nih-2"]
    assert tables["b"]["patient_id"].tolist() == ["nih-4"]
    assert "ecg_path" not in tables["b"]
    both = manifests({"a": first, "b": source("more.csv")}, tmp_path)
    assert both["b"]["patient_id"].tolist() == ["nih-2", "nih-4"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"leave_out_patients_of": "c"}, "leave_out_patients_of: 'c' is not another source"),
        ({"leave_out_patients_of": "b"}, "leave_out_patients_of: 'b' is not another source"),
        (
            {"leave_out_patients_of": "a", "table": "nih/Data_Entry_2017.csv"},
            "every patient of b is one of a, too",
        ),
        ({"table": "../more.csv"}, "cohort.sources.b.table: '../more.csv' leaves cohort.root"),
        ({"folder": "images"}, "images: there is no such folder. Set cohort.root"),
    ],
)
def test_bad_sources(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    two_tables(tmp_path)
    sources = {"a": source("nih/Data_Entry_2017.csv"), "b": source("more.csv") | changes}
    with pytest.raises(InputError) as caught:
        manifests(sources, tmp_path)
    assert expected in str(caught.value)


def test_a_source_without_a_table_setting(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="b: table missing. Write layout, folder, table, leave_"):
        manifests({"b": {"layout": "nih", "folder": ".", "leave_out_patients_of": None}}, tmp_path)


def test_an_image_twice_in_the_table(tmp_path: Path) -> None:
    exams(tmp_path, row(), row())
    with pytest.raises(InputError, match=r"line 3, column exam_id: .* stands already on line 2"):
        manifests({"nih": source("nih/Data_Entry_2017.csv")}, tmp_path)


def cohort() -> Any:
    path = REPOSITORY / "configs/cohort/public_cxr.yaml"
    return OmegaConf.create({"cohort": OmegaConf.load(path)}).cohort


def test_real_images(real_data: Path) -> None:
    """What configs/cohort/public_cxr.yaml says of them."""
    config = cohort()
    tables = manifests(OmegaConf.to_container(config.sources, resolve=True), real_data)
    assert [*config.development, *config.external] == list(tables) == ["nih_64px", "nih_1024"]
    counts = {
        name: (
            len(table),
            table["patient_id"].nunique(),
            table["cardiomegaly"].sum(),
            table.loc[table["cardiomegaly"] == 1, "patient_id"].nunique(),
        )
        for name, table in tables.items()
    }
    assert counts == {"nih_64px": (1000, 264, 83, 24), "nih_1024": (50, 50, 12, 12)}
    for table in tables.values():
        assert all((real_data / path).is_file() for path in table["cxr_path"])
        assert table["age_years"].between(7, 94).all()
        assert set(table["sex"]) == {"female", "male"}
    assert not set(tables["nih_64px"]["patient_id"]) & set(tables["nih_1024"]["patient_id"])


def test_real_published_split_shares_patients(real_data: Path) -> None:
    table = pd.read_csv(real_data / "cxr/nih_64px.csv")
    parts = table.groupby("Patient ID")["split"].agg(set)
    assert parts.map(lambda names: "train" in names and len(names) > 1).sum() == 22


def test_real_resolutions_are_the_same_image_at_64_pixels(real_data: Path) -> None:
    sources = OmegaConf.to_container(cohort().sources, resolve=True)
    sources["nih_1024"]["leave_out_patients_of"] = None
    small, large = (table.set_index("exam_id") for table in manifests(sources, real_data).values())
    shared = small.index.intersection(large.index)
    assert len(shared) == 4
    for exam in shared:
        pixels = [
            np.asarray(Image.open(real_data / table.loc[exam, "cxr_path"]).convert("L"), float)
            for table in (small, large)
        ]
        averaged = pixels[1].reshape(64, 16, 64, 16).mean(axis=(1, 3))
        assert np.abs(pixels[0] - averaged).max() <= 1
        assert small.loc[exam, "cardiomegaly"] == large.loc[exam, "cardiomegaly"] == 1
