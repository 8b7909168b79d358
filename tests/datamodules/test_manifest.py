import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datamodules.errors import InputError
from datamodules.inputs.blood import Blood
from datamodules.inputs.cxr import CXR
from datamodules.inputs.ecg import ECG
from datamodules.manifest import (
    check_manifest,
    find_manifests,
    number_of,
    read_manifest,
    target_of,
)

COLUMNS = {**ECG.columns, **CXR.columns, **Blood.columns}

HEADER = "patient_id,exam_id,ecg_path,lvef_percent,sex,ecg_time,echo_time"
GOOD = "p1,e1,ecg/e1,55,female,2024-03-01T09:30:00,2024-03-02"


def write(folder: Path, *lines: str, name: str = "north.csv") -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read(path: Path, needs: Sequence[str] = ()) -> pd.DataFrame:
    return read_manifest(path, COLUMNS, needs)


def check(table: pd.DataFrame, source: str) -> pd.DataFrame:
    return check_manifest(table, source, COLUMNS)


def refusal(path: Path, *needs: str) -> str:
    with pytest.raises(InputError) as error:
        read(path, needs)
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
    table = read(path)
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
    assert read(path)["patient_id"].tolist() == ["p1"]


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
        ("bnp_pg_ml", "100001", "100001 is above 100,000; write pg/mL"),
        ("bnp_pg_ml", "1e999", "1e999 is infinite"),
        ("bnp_pg_ml", "<10", "'<10' is a limit, not a number; write the limit alone, in pg/mL"),
        ("bnp_pg_ml", "> 5000 pg/mL", "'> 5000 pg/mL' is a limit, not a number"),
        ("bnp_pg_ml", "<0.01ng/mL", "'<0.01ng/mL' is a limit, not a number"),
        ("bnp_pg_ml", "120 pg/mL", "'120 pg/mL' has its unit in it; write pg/mL and no unit (1 ng"),
        ("bnp_pg_ml", "34.6pmol/L", "1 pmol/L = 3.464 pg/mL"),
        ("bnp_pg_ml", '"1,200"', "digits and a point, nothing between the thousands"),
        ("bnp_pg_ml", "high", "'high' is not a number; write digits and a point, or leave it"),
        ("nt_probnp_pg_ml", "-1", "-1 is below 0; write pg/mL"),
        ("nt_probnp_pg_ml", "1000001", "1000001 is above 1,000,000; write pg/mL"),
        ("nt_probnp_pg_ml", "0.12 ng/mL", "1 ng/mL = 1000 pg/mL, 1 pmol/L = 8.457 pg/mL"),
        ("tr_velocity_m_s", "<2", "'<2' is a limit, not a number; write the limit alone, or"),
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
    assert len(read(path, ["ecg_path"])) == 1


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
    assert len(read(write(tmp_path, "patient_id,exam_id,lvef_percent", "p1,e1,")))


def test_a_column_in_other_units_is_told_by_its_values(tmp_path: Path) -> None:
    def manifest(column: str, *values: str) -> Path:
        rows = (f"p{i},e{i},{value}" for i, value in enumerate(values))
        return write(tmp_path, f"patient_id,exam_id,{column}", *rows)

    for column, factor in (("bnp_pg_ml", "3.464"), ("nt_probnp_pg_ml", "8.457")):
        message = refusal(manifest(column, "0.05", "0.4", "", "2.1"))
        assert f"north.csv, column {column}: half of the values are below 1: ng/mL?" in message
        assert f"1 ng/mL = 1000 pg/mL, 1 pmol/L = {factor} pg/mL" in message
        assert "1 problem:" in message
        assert len(read(manifest(column, "0.5", "", "40", "12"))) == 4
        assert len(read(manifest(column, "", "0", "0", "5"))) == 4


@pytest.mark.parametrize(
    ("column", "right"),
    [
        ("BNP", "bnp_pg_ml"),
        ("bnp_pmol_l", "bnp_pg_ml"),
        ("bnp_ng_L", "bnp_pg_ml"),
        ("BNP [pg/mL]", "bnp_pg_ml"),
        ("bnp_value", "bnp_pg_ml"),
        ("nt_probnp", "nt_probnp_pg_ml"),
        ("NT-proBNP (ng/L)", "nt_probnp_pg_ml"),
        ("ntprobnp_pmol_l", "nt_probnp_pg_ml"),
        ("proBNP", "nt_probnp_pg_ml"),
    ],
)
def test_a_natriuretic_peptide_under_another_name(tmp_path: Path, column: str, right: str) -> None:
    message = refusal(write(tmp_path, f"patient_id,exam_id,{column}", "p1,e1,30"))
    assert f"north.csv, column {column}: the name gives no pg/mL; call it {right}" in message
    assert f"1 pmol/L = {'3.464' if right.startswith('bnp') else '8.457'} pg/mL" in message
    both = read(write(tmp_path, f"patient_id,exam_id,{column},{right}", "p1,e1,30,104"))
    assert both[right].tolist() == [104]


def test_names_that_only_speak_of_bnp_are_any_column(tmp_path: Path) -> None:
    names = ("bnp_time", "bnp_raised", "log_bnp", "nt_probnp_assay", "bnp_missing")
    path = write(tmp_path, ",".join(("patient_id", "exam_id", *names)), "p1,e1" + ",1" * 5)
    assert set(names) < set(read(path))


def test_molar_masses() -> None:
    """From the amino acids of the two peptides (UniProt P16860), average masses in g/mol."""
    average = (
        "G 57.0513 A 71.0779 S 87.0773 P 97.1152 V 99.1311 T 101.1039 C 103.1429 L 113.1576 "
        "I 113.1576 N 114.1026 D 115.0874 Q 128.1292 K 128.1723 E 129.1140 M 131.1961 "
        "H 137.1393 F 147.1739 R 156.1857 Y 163.1733 W 186.2099"
    )
    mass = {letter: float(grams) for letter, grams in re.findall(r"(\w) ([\d.]+)", average)}
    water, hydrogen = 18.0153, 1.0079
    bnp = "SPKMVQGSGCFGRKMDRISSSSGLGCKVLRRH"
    nt_probnp = "HPLGSPGSASDLETSGLQEQRNHLQGKLSELQVEQTSLEPLQESPRPTGVWKSREVATEGIRGHRKMVLYTLRAPR"
    grams = {
        "bnp_pg_ml": sum(mass[letter] for letter in bnp) + water - 2 * hydrogen,  # one S-S bond
        "nt_probnp_pg_ml": sum(mass[letter] for letter in nt_probnp) + water,
    }
    for column, known in Blood.columns.items():
        assert known.conversions.endswith(f"1 pmol/L = {grams[column] / 1000:.3f} pg/mL")


def test_real_blood_values_pass(real_data: Path) -> None:
    """Patients with and without heart failure, in three tables as they were published."""
    folder = real_data / "bnp"
    tongji = "Amino-terminal brain natriuretic peptide precursor(NT-proBNP)"
    for name, value, column, highest in (
        ("eicu_demo_bnp", "labresult", "bnp_pg_ml", 7234),
        ("mimic3_demo_ntprobnp", "VALUE", "nt_probnp_pg_ml", 31877),
        ("tongji_covid_ntprobnp", tongji, "nt_probnp_pg_ml", 70000),
    ):
        values = pd.read_csv(folder / f"{name}.csv")[value]
        ids = [str(i) for i in range(len(values))]
        table = pd.DataFrame(
            {"institution": name, "patient_id": ids, "exam_id": ids, column: values}
        )
        assert check(table, name)[column].max() == highest


def test_exams_may_lack_every_path(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "patient_id,exam_id,ecg_path,cxr_path,bnp_pg_ml",
        "p1,e1,ecg/1,,",
        "p2,e2,,cxr/2.dcm,",
        "p3,e3,,,120",
    )
    table = read(path)
    assert table["ecg_path"].notna().tolist() == [True, False, False]
    assert table["cxr_path"].notna().tolist() == [False, True, False]
    assert "line 3, column ecg_path: is empty" in refusal(path, "ecg_path")
    nothing = write(tmp_path, "patient_id,exam_id,ecg_path,cxr_path", "p1,e1,,")
    assert read(nothing)[["ecg_path", "cxr_path"]].isna().all(axis=None)
    assert len(read(write(tmp_path, "patient_id,exam_id,nt_probnp_pg_ml", "p,e,9"))) == 1


@pytest.mark.parametrize("absent", [None, np.nan])
def test_tables_without_any_path(tmp_path: Path, absent: float | None) -> None:
    table = pd.DataFrame({"patient_id": ["1"], "exam_id": ["a"], "institution": ["north"]})
    for column in ("ecg_path", "cxr_path"):
        checked = check(table.assign(**{column: absent}), "a set")
        assert checked[column].isna().all()
        table.assign(**{column: absent}).to_parquet(tmp_path / "north.parquet")
        assert read(tmp_path / "north.parquet")[column].isna().all()


def test_needed_columns(tmp_path: Path) -> None:
    path = write(tmp_path, "patient_id,exam_id,ecg_path,lvef_pct", "p1,e1,,55")
    message = refusal(path, "ecg_path", "lvef_percent")
    assert "column lvef_percent: is missing; did you mean 'lvef_pct'?" in message
    assert "line 2, column ecg_path: is empty" in message
    assert len(read(path, ["lvef_pct"])) == 1
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
    assert read(path)["ward"].tolist() == ["1", "B"]


def test_parquet_equals_csv(tmp_path: Path) -> None:
    csv = read(write(tmp_path, HEADER + ",abnormal", GOOD + ",1", "p2,e2,,,,,,"))
    path = tmp_path / "north.parquet"
    csv.drop(columns="institution").to_parquet(path, index=False)
    parquet = read(path)
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
    assert check(table, "a set")["institution"].tolist() == ["north"]
    with pytest.raises(InputError, match="a set, row 0, column age_years: 300"):
        check(table.assign(age_years=300), "a set")
    with pytest.raises(InputError, match="column institution must hold one name"):
        check(table.assign(institution="north east"), "a set")


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


def lvsd(below_percent: float, within_days: float | None) -> list[float]:
    rule = {"lvef_below_percent": below_percent, "echo_within_days": within_days}
    return target_of(exams_with_echo(), "lvsd", lvsd=rule, ph={}).tolist()


def test_lvsd_is_low_lvef_near_in_time() -> None:
    np.testing.assert_array_equal(lvsd(40, 14), [1, 0, np.nan, np.nan, 1, np.nan])
    np.testing.assert_array_equal(lvsd(31, None), [0, 0, np.nan, 1, 1, 1])


def test_a_number_of_the_echo_is_known_near_in_time() -> None:
    def number(target: str, lvsd_days: float | None, ph_days: float | None) -> list[float]:
        exams = exams_with_echo().assign(pasp_mmhg=50.0, pressure=50.0)
        windows = ({"echo_within_days": days} for days in (lvsd_days, ph_days))
        lvsd, ph = windows
        return number_of(exams, target, lvsd=lvsd, ph=ph).tolist()

    nan = np.nan
    lvef = number("lvef_percent", 14, None)
    np.testing.assert_array_equal(lvef, [39.9, 40.0, nan, nan, 30.0, nan])
    np.testing.assert_array_equal(number("lvef_percent", None, 14)[3], 30.0)
    np.testing.assert_array_equal(number("pasp_mmhg", None, 14), [50, 50, 50, nan, 50, nan])
    np.testing.assert_array_equal(number("pressure", 14, 14), [50.0] * 6)


def test_a_column_of_numbers_and_words() -> None:
    exams = exams_with_echo().assign(pressure=["12.5", "n/a", "high", " 7 ", None, "inf"])
    with pytest.raises(InputError) as error:
        number_of(exams, "pressure", lvsd={}, ph={})
    told = str(error.value)
    assert "north, line 4, column pressure: 'high' is not a number" in told
    assert "line 7, column pressure: 'inf' is not a number" in told
    assert told.count("column pressure:") == 2
    fine = exams.assign(pressure=["12.5", "n/a", None, " 7 ", None, "1e3"])
    np.testing.assert_array_equal(
        number_of(fine, "pressure", lvsd={}, ph={}), [12.5, np.nan, np.nan, 7, np.nan, 1000]
    )


def test_a_fraction_beside_per_cent_is_named_by_row(tmp_path: Path) -> None:
    path = tmp_path / "north.csv"
    path.write_text("patient_id,exam_id,lvef_percent\np1,e1,55\np2,e2,0.3\np3,e3,\np4,e4,60\n")
    with pytest.raises(
        InputError, match=r"line 3, column lvef_percent: 0\.3 is a fraction"
    ) as error:
        read_manifest(path)
    assert "1 problem:" in str(error.value)


def test_a_column_as_target() -> None:
    def target(values: list[object], name: str = "abnormal") -> pd.Series:
        return target_of(exams_with_echo().assign(abnormal=values), name, lvsd={}, ph={})

    np.testing.assert_array_equal(
        target([0.0, 1.0, np.nan, 1.0, 0.0, 0.0]), [0, 1, np.nan, 1, 0, 0]
    )
    with pytest.raises(InputError, match=r"north, line 4, column abnormal: 0\.5 is not 0 or 1"):
        target([0, 1, 0.5, 1, 0, 0])
    with pytest.raises(InputError, match="line 7, column abnormal: 'yes' is not"):
        target(["1", "1", "0", "0", "0", "yes"])
    with pytest.raises(InputError) as mixed:
        target(["1", "0.0", " 0 ", "nan", "0", "yes"])
    assert str(mixed.value).count("is not 0 or 1") == 1
    with pytest.raises(InputError, match="ask for task=regression"):
        target([55.0, 40.0, np.nan, 30.0, 30.0, 30.0])
    with pytest.raises(InputError, match="did you mean 'abnormal'") as error:
        target([0, 1, 0, 1, 0, 0], "abnorml")
    assert "lvef_percent, ecg_time, echo_time, abnormal" in str(error.value)
