"""PTB-XL's table -> exams: a table of the same columns by hand, and the real one."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datamodules.errors import InputError
from datamodules.public import ptbxl
from datamodules.public.codes import Codes

CODES = Codes(
    normal=frozenset({"NORM"}),
    neutral=frozenset({"SR", "SBRAD"}),
    abnormal=frozenset({"AFIB", "IMI", "LVH"}),
    undecided=frozenset({"PVC"}),
)
ROW = {
    "ecg_id": "7",
    "patient_id": "15709.0",
    "age": "56.0",
    "sex": "1",
    "site": "0.0",
    "recording_date": "1984-11-09 09:17:34",
    "scp_codes": "{'NORM': 100.0, 'SR': 0.0}",
    "filename_hr": "records500/00000/00007_hr",
}


def exams(folder: Path, *rows: dict[str, str], drop: str = "") -> pd.DataFrame:
    table = pd.DataFrame([{**ROW, **row} for row in rows]).drop(columns=drop.split())
    (folder / "ptbxl").mkdir()
    table.to_csv(folder / "ptbxl" / "ptbxl_database.csv", index=False)
    return ptbxl.exams(folder / "ptbxl", folder, codes=CODES, likelihood_percent=80)


def test_a_row(tmp_path: Path) -> None:
    row = exams(tmp_path, {}).iloc[0].to_dict()
    assert row == {
        "institution": "ptbxl_site0",
        "patient_id": "ptbxl-15709",
        "exam_id": "ptbxl-00007",
        "ecg_path": "ptbxl/records500/00000/00007_hr",
        "ecg_time": pd.Timestamp("1984-11-09 09:17:34"),
        "age_years": 56.0,
        "sex": "female",
        "abnormal": 0.0,
    }


def test_ages_sexes_and_sites(tmp_path: Path) -> None:
    table = exams(
        tmp_path,
        {"age": "300.0", "sex": "0", "site": ""},
        {"age": "", "sex": "", "site": "12.0"},
        {"age": "91.0"},
    )
    np.testing.assert_array_equal(table["age_years"], [90, np.nan, 91])
    assert table["sex"].fillna("-").tolist() == ["male", "-", "female"]
    assert table["institution"].tolist() == [
        "ptbxl_site_unknown",
        "ptbxl_site12",
        "ptbxl_site0",
    ]


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        ({"NORM": 80.0, "SBRAD": 0.0}, 0),
        ({"NORM": 50.0, "SR": 0.0}, np.nan),
        ({"SR": 0.0}, np.nan),
        ({"LVH": 100.0}, 1),
        ({"IMI": 50.0, "SR": 0.0}, np.nan),
        ({"IMI": 50.0, "LVH": 80.0}, 1),
        ({"AFIB": 0.0}, 1),
        ({"AFIB": 0.0, "NORM": 50.0}, 1),
        ({"NORM": 100.0, "LVH": 100.0}, np.nan),
        ({"NORM": 100.0, "IMI": 15.0}, np.nan),
        ({"NORM": 100.0, "PVC": 100.0}, np.nan),
        ({}, np.nan),
    ],
)
def test_abnormal(tmp_path: Path, statements: dict[str, float], expected: float) -> None:
    table = exams(tmp_path, {"scp_codes": str(statements)})
    np.testing.assert_array_equal(table["abnormal"], [expected])


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"ecg_id": ""}, "line 3, column ecg_id: '' is not a whole number"),
        ({"patient_id": "x1"}, "line 3, column patient_id: 'x1' is not a whole number"),
        ({"age": "old"}, "line 3, column age: 'old' is not a whole number"),
        ({"sex": "0.5"}, "line 3, column sex: '0.5' is not a whole number"),
        ({"sex": "2.0"}, "line 3, column sex: '2.0' is not 0 (male) or 1 (female)"),
        ({"recording_date": "9 Nov"}, "line 3, column recording_date: '9 Nov' is not a time"),
        ({"scp_codes": "NORM"}, "line 3, column scp_codes: 'NORM' is not a {code: likelihood}"),
        ({"scp_codes": "{'NORM': 'x'}"}, "is not a {code: likelihood}"),
        ({"scp_codes": "{'XYZ': 100.0}"}, "line 3, column scp_codes: 'XYZ' stands in none of"),
    ],
)
def test_bad_rows(tmp_path: Path, row: dict[str, str], expected: str) -> None:
    with pytest.raises(InputError) as caught:
        exams(tmp_path, {}, row)
    assert expected in str(caught.value)
    assert "ptbxl_database.csv" in str(caught.value)


def test_missing_table(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"PTB-XL's table is missing\. Copy it again"):
        ptbxl.exams(tmp_path, tmp_path, codes=CODES, likelihood_percent=80)


def test_missing_columns(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"column site, scp_codes missing\. Copy the table"):
        exams(tmp_path, {}, drop="site scp_codes")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b'a,b\n"1,2\n1,2,3\n'])
def test_a_table_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ptbxl_database.csv").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as a table"):
        ptbxl.exams(tmp_path, tmp_path, codes=CODES, likelihood_percent=80)


def test_a_table_without_rows(tmp_path: Path) -> None:
    (tmp_path / "ptbxl_database.csv").write_text(",".join(ROW) + "\n")
    with pytest.raises(InputError, match="there are no records in it"):
        ptbxl.exams(tmp_path, tmp_path, codes=CODES, likelihood_percent=80)
