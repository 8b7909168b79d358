from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datamodules.errors import InputError
from datamodules.manifest import check_manifest, find_manifests, read_manifest, target_of

HEADER = "patient_id,exam_id,ecg_path,lvef_percent,sex,ecg_time,echo_time"
GOOD = "p1,e1,ecg/e1,55,female,2024-03-01T09:30:00,2024-03-02"


def write(folder: Path, *lines: str, name: str = "north.csv") -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def refusal(path: Path, *needs: str) -> str:
    with pytest.raises(InputError) as error:
        read_manifest(path, needs)
    return str(error.value)


def test_types_and_line_numbers(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        HEADER + ",note,height_cm",
        '007,0010,ecg/a,55.5,female,2024-03-01T09:30:15.25,2024-03-02,"two\nlines, one comma",170',
        "",
        "008,0011,,,,,,,",
        ",,,,,,,,",
    )
    table = read_manifest(path)
    assert table["patient_id"].tolist() == ["007", "008"]
    assert table["exam_id"].tolist() == ["0010", "0011"]
    assert table.index.tolist() == [2, 5]
    assert table.index.name == "line"
    assert table["institution"].tolist() == ["north", "north"]
    assert table["ecg_time"].iloc[0] == pd.Timestamp(2024, 3, 1, 9, 30, 15, 250_000)
    assert table["echo_time"].iloc[0] == pd.Timestamp(2024, 3, 2)
    assert table["lvef_percent"].dtype == table["height_cm"].dtype == np.float64
    assert table["note"].iloc[0] == "two\nlines, one comma"
    assert table.iloc[1].drop(["patient_id", "exam_id", "institution"]).isna().all()


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "north.csv"
    path.write_bytes(f"{HEADER}\r\n{GOOD}\r\n".encode("utf-8-sig"))
    assert read_manifest(path)["patient_id"].tolist() == ["p1"]


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("lvef_percent", "400", "400 is outside 0-100; write per cent"),
        ("lvef_percent", "-1", "-1 is outside 0-100"),
        ("lvef_percent", "0", "0 is not a measurement"),
        ("lvef_percent", "NaN", "'NaN' is not a number; leave it empty"),
        ("lvef_percent", "NA", "'NA' is not a number; leave it empty"),
        ("lvef_percent", "inf", "inf is infinite"),
        ("lvef_percent", '"38,5"', "'38,5' is not a number; write digits and a point"),
        ("age_years", "300", "300 is outside 0-120"),
        ("bnp_pg_ml", "-3", "-3 is below 0"),
        ("bnp_pg_ml", "1e999", "1e999 is infinite"),
        ("tr_velocity_m_s", "280", "280 is outside 0-7; write metres per second"),
        ("pasp_mmhg", "201", "201 is outside 0-200"),
        ("ph", "2", "2 is not 0 or 1"),
        ("sex", "F", "'F' is not female or male"),
        ("ecg_time", "03/04/2024", "'03/04/2024' is not a time"),
        ("ecg_time", "2024-02-30", "'2024-02-30' is not a time"),
        ("ecg_time", "2024-02-03T10:00:00+09:00", "has a time zone"),
        ("ecg_path", "/data/e1", "not a path inside the manifest's folder"),
        ("ecg_path", "../other/e1", "not a path inside the manifest's folder"),
        ("ecg_path", "ecg/../../e1", "not a path inside the manifest's folder"),
        ("ecg_path", "C:/ecg/e1", "not a path inside the manifest's folder"),
        ("ecg_path", "ecg\\e1", "not a path inside the manifest's folder"),
        ("cxr_path", "../cxr.dcm", "not a path inside the manifest's folder"),
        ("patient_id", "' p9'", "has white space around it"),
        ("exam_id", "e1", "'e1' stands already on line 2"),
        ("exam_id", "", "is empty; every exam needs one"),
        ("patient_id", "", "is empty; every exam needs one"),
        ("institution", "south", "'south' is not 'north'"),
    ],
)
def test_a_bad_value_is_named(tmp_path: Path, column: str, value: str, says: str) -> None:
    row = {"patient_id": "p2", "exam_id": "e2", column: value.strip("'")}
    good = {"patient_id": "p1", "exam_id": "e1"}
    path = write(
        tmp_path,
        ",".join(row),
        ",".join(good.get(name, "") for name in row),
        ",".join(row.values()),
    )
    message = refusal(path)
    assert f"north.csv, line 3, column {column}: " in message
    assert says in message
    assert "1 problem:" in message


def test_a_path_with_dots_that_stays_inside_is_accepted(tmp_path: Path) -> None:
    path = write(tmp_path, "patient_id,exam_id,ecg_path", "p1,e1,ecg/../ecg/..e1")
    assert len(read_manifest(path, ["ecg_path"])) == 1


def test_all_bad_rows_in_one_message_in_order(tmp_path: Path) -> None:
    rows = [f"p{i},e{i},ecg/e{i},{400 + i},,," for i in range(2, 32)]
    message = refusal(write(tmp_path, HEADER, GOOD, *rows))
    assert "30 problems" in message
    positions = [message.index(f"line {line}, column lvef_percent") for line in range(3, 23)]
    assert positions == sorted(positions)
    assert "line 23," not in message
    assert "and 10 more" in message


def test_fractions_are_not_per_cent(tmp_path: Path) -> None:
    path = write(tmp_path, "patient_id,exam_id,lvef_percent", "p1,e1,0.55", "p2,e2,", "p3,e3,1")
    assert "column lvef_percent: every value is at most 1" in refusal(path)
    assert len(read_manifest(write(tmp_path, "patient_id,exam_id,lvef_percent", "p1,e1,")))


def test_needed_columns(tmp_path: Path) -> None:
    path = write(tmp_path, "patient_id,exam_id,ecg_path,lvef_pct", "p1,e1,,55")
    message = refusal(path, "ecg_path", "lvef_percent")
    assert "column lvef_percent: is missing; did you mean 'lvef_pct'?" in message
    assert "line 2, column ecg_path: is empty" in message
    assert len(read_manifest(path, ["lvef_pct"])) == 1
    assert "column patient_id: is missing" in refusal(write(tmp_path, "exam_id", "e1"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the manifest has no exams"),
        (HEADER.encode(), "the manifest has no exams"),
        (b"patient_id;exam_id\np1;e1\n", "separated by semicolons or tabs"),
        (b"patient_id\texam_id\np1\te1\n", "separated by semicolons or tabs"),
        (b"patient_id,exam_id,exam_id\np1,e1,e1\n", "column 'exam_id' stands twice"),
        ("patient_id,exam_id\np1,e1\nJos\u00e9,e2\n".encode("latin-1"), "line 3: the text is not"),
        (b'patient_id,exam_id\n"p1,e1\n', "not a CSV table"),
        (b"patient_id,exam_id\np1,e1\np2\n", "line 3: 1 values where the header has 2"),
        (b"patient_id,exam_id\np1,e1,a\n", "line 2: 3 values where the header has 2"),
    ],
)
def test_a_broken_table(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "north.csv"
    path.write_bytes(content)
    message = refusal(path)
    assert says in message
    assert str(path) in message


def test_an_unknown_column_of_numbers_with_nan_is_refused_and_of_words_is_not(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, "patient_id,exam_id,abnormal", "p1,e1,1", "p2,e2,nan")
    assert "line 3, column abnormal: 'nan' is not a number" in refusal(path)
    path = write(tmp_path, "patient_id,exam_id,ward", "p1,e1,1", "p2,e2,B")
    assert read_manifest(path)["ward"].tolist() == ["1", "B"]


def test_parquet_equals_csv(tmp_path: Path) -> None:
    csv = read_manifest(write(tmp_path, HEADER + ",abnormal", GOOD + ",1", "p2,e2,,,,,,"))
    path = tmp_path / "north.parquet"
    csv.drop(columns="institution").to_parquet(path, index=False)
    parquet = read_manifest(path)
    pd.testing.assert_frame_equal(csv.reset_index(drop=True), parquet.reset_index(drop=True))
    assert parquet.index.name == "row"
    assert parquet.index.tolist() == [1, 2]


def test_bad_parquet(tmp_path: Path) -> None:
    path = tmp_path / "north.parquet"
    pd.DataFrame({"patient_id": ["p"], "exam_id": ["e"], "bnp_pg_ml": [np.inf]}).to_parquet(path)
    assert "row 1, column bnp_pg_ml: inf is infinite" in refusal(path)
    pd.DataFrame({"patient_id": [1.0, None], "exam_id": ["e", "f"]}).to_parquet(path)
    assert "column patient_id: ids are stored as floating-point" in refusal(path)
    zoned = pd.Series(["2024-01-01"]).astype("datetime64[us, Asia/Tokyo]")
    pd.DataFrame({"patient_id": ["p"], "exam_id": ["e"], "ecg_time": zoned}).to_parquet(path)
    assert "column ecg_time: it has a time zone" in refusal(path)
    path.write_bytes(path.read_bytes()[:-20])
    assert "not a whole Parquet file" in refusal(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in refusal(tmp_path / "north.csv")


def test_a_table_made_in_memory() -> None:
    table = pd.DataFrame({"patient_id": ["1"], "exam_id": ["a"], "institution": ["north"]})
    assert check_manifest(table, "a set")["institution"].tolist() == ["north"]
    with pytest.raises(InputError, match="a set, row 0, column age_years: 300"):
        check_manifest(table.assign(age_years=300), "a set")
    with pytest.raises(InputError, match="column institution must hold one name"):
        check_manifest(table.assign(institution="north east"), "a set")


def test_find_manifests(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no manifest here"):
        find_manifests(tmp_path)
    for name in ("south.parquet", "north.csv", "readme.md", "._north.csv"):
        (tmp_path / name).touch()
    assert find_manifests(tmp_path) == {
        "north": tmp_path / "north.csv",
        "south": tmp_path / "south.parquet",
    }
    (tmp_path / "north.parquet").touch()
    (tmp_path / "north east.csv").touch()
    with pytest.raises(InputError, match="two manifests of one institution") as error:
        find_manifests(tmp_path)
    assert "north east.csv" in str(error.value)
    with pytest.raises(InputError, match="no such folder"):
        find_manifests(tmp_path / "nowhere")


def times(*texts: str | None) -> pd.DatetimeIndex:
    return pd.to_datetime(texts, format="ISO8601")


def exams_with_echo() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "institution": "north",
            "lvef_percent": [39.9, 40.0, np.nan, 30.0, 30.0, 30.0],
            "ecg_time": times(*["2024-01-01"] * 4, None, "2024-01-15T12:00"),
            "echo_time": times(
                "2024-01-15", "2024-01-01", "2024-01-01", "2024-01-15T00:01", *["2024-01-01"] * 2
            ),
        },
        index=pd.Index(range(2, 8), name="line"),
    )


def test_lvsd_is_low_lvef_near_in_time() -> None:
    target = target_of(
        exams_with_echo(), "lvsd", lvef_below_percent=40, echo_within_days=14
    ).tolist()
    np.testing.assert_array_equal(target, [1, 0, np.nan, np.nan, 1, np.nan])
    no_window = target_of(
        exams_with_echo(), "lvsd", lvef_below_percent=31, echo_within_days=None
    ).tolist()
    np.testing.assert_array_equal(no_window, [0, 0, np.nan, 1, 1, 1])


def test_a_column_as_target() -> None:
    def target(values: list[object], name: str = "abnormal") -> pd.Series:
        exams = exams_with_echo().assign(abnormal=values)
        return target_of(exams, name, lvef_below_percent=40, echo_within_days=None)

    np.testing.assert_array_equal(
        target([0.0, 1.0, np.nan, 1.0, 0.0, 0.0]), [0, 1, np.nan, 1, 0, 0]
    )
    with pytest.raises(InputError, match=r"north, line 4, column abnormal: 0\.5 is not 0 or 1"):
        target([0, 1, 0.5, 1, 0, 0])
    with pytest.raises(InputError, match="line 7, column abnormal: 'yes' is not"):
        target(["1", "1", "0", "0", "0", "yes"])
    with pytest.raises(InputError, match="did you mean 'abnormal'") as error:
        target([0, 1, 0, 1, 0, 0], "abnorml")
    assert "lvef_percent, ecg_time, echo_time, abnormal" in str(error.value)
