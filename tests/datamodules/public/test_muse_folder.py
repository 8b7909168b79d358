"""A folder of MUSE XML files -> exams, and sources that are left out or have no labels."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from muse_files import recorded, write
from test_public_manifests import configured, georgia, record

from datamodules.errors import InputError
from datamodules.public import absent, manifests
from datamodules.recordings import read_recording

HOSPITAL = {"hospital": {"layout": "muse", "folder": "xml"}}


def patient(number: str, *others: str) -> str:
    return "".join((f"<PatientID>{number}</PatientID>", *others))


def test_who_and_when(tmp_path: Path) -> None:
    write(
        tmp_path / "xml" / "b" / "2.xml",
        patient=patient(
            "7", "<PatientAge>63</PatientAge><AgeUnits>YEARS</AgeUnits><Gender>FEMALE</Gender>"
        ),
        test="<AcquisitionDate>03-25-2019</AcquisitionDate>"
        "<AcquisitionTime>14:05:09</AcquisitionTime>",
    )
    write(
        tmp_path / "xml" / "b" / "1.XML",
        recorded(2),
        patient="<PatientAge>18</PatientAge><AgeUnits>MONTHS</AgeUnits><Gender>MALE</Gender>",
    )
    write(tmp_path / "xml" / "3.xml", recorded(3), patient=patient("7"))
    table = manifests(HOSPITAL, tmp_path)["hospital"]
    assert table["exam_id"].tolist() == ["hospital-3", "hospital-b/1", "hospital-b/2"]
    assert table["patient_id"].tolist() == ["hospital-7", "hospital-b/1", "hospital-7"]
    np.testing.assert_array_equal(table["age_years"], [np.nan, 1.5, 63])
    assert table["sex"].fillna("-").tolist() == ["-", "male", "female"]
    assert table["ecg_time"].iloc[2] == pd.Timestamp("2019-03-25 14:05:09")
    assert table["abnormal"].isna().all()
    assert [read_recording(tmp_path / p).samples.shape for p in table["ecg_path"]] == [
        (12, 5000)
    ] * 3


def test_one_recording_under_two_ids_is_one_patient(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        write(
            tmp_path / "xml" / f"{number}.xml", recorded(number % 2), patient=patient(str(number))
        )
    (tmp_path / "xml" / "4.xml").write_text("not XML")
    table = manifests(HOSPITAL, tmp_path)["hospital"]
    assert table["patient_id"].tolist() == ["hospital-1", "hospital-2", "hospital-1", "hospital-4"]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"patient": "<PatientAge>old</PatientAge>"}, "1.xml, PatientAge: 'old'  is not an age"),
        ({"patient": "<Gender>7</Gender>"}, "1.xml, Gender: '7' is not MALE, FEMALE or UNKNOWN"),
        (
            {"test": "<AcquisitionDate>2019-03-25</AcquisitionDate>"},
            "1.xml, AcquisitionDate: '2019-03-25'  is not a month-day-year",
        ),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, said: dict[str, str], expected: str) -> None:
    write(tmp_path / "xml" / "1.xml", **said)
    with pytest.raises(InputError) as caught:
        manifests(HOSPITAL, tmp_path)
    assert expected in str(caught.value)


def test_no_files(tmp_path: Path) -> None:
    (tmp_path / "xml").mkdir()
    with pytest.raises(InputError, match="there are no XML files here. Copy the data set again"):
        manifests(HOSPITAL, tmp_path)


def test_findings_by_their_codes(tmp_path: Path) -> None:
    """Georgia's records here say sinus rhythm; the MUSE files say nothing."""
    record(tmp_path, "a", 1)
    write(tmp_path / "xml" / "1.xml")
    findings = {"atrial_fibrillation": [164889003], "sinus": ["426783006"]}
    tables = manifests({**georgia(findings=findings), **HOSPITAL}, tmp_path)
    assert tables["georgia"]["atrial_fibrillation"].tolist() == [0.0]
    assert tables["georgia"]["sinus"].tolist() == [1.0]
    assert tables["hospital"][["atrial_fibrillation", "sinus"]].isna().all(axis=None)


def test_a_finding_of_an_unknown_code(tmp_path: Path) -> None:
    record(tmp_path, "a", 1)
    with pytest.raises(InputError, match=r"georgia\.findings\.af: 1 stands in none of the source"):
        manifests(georgia(findings={"af": [1]}), tmp_path)


def test_a_doubtful_statement_leaves_a_finding_open(tmp_path: Path) -> None:
    """PTB-XL's likelihoods: 0 stands for none given, 50 for "possible"."""
    (tmp_path / "ptbxl").mkdir()
    codes = ("{'AFIB': 0.0}", "{'AFIB': 50.0, 'SR': 0.0}", "{'NORM': 100.0, 'SR': 0.0}", "{}")
    rows = [
        f'{n},{n},60,0,1,2001-01-01 10:00:00,"{stated}",records500/{n}_hr'
        for n, stated in enumerate(codes, 1)
    ]
    header = "ecg_id,patient_id,age,sex,site,recording_date,scp_codes,filename_hr"
    (tmp_path / "ptbxl" / "ptbxl_database.csv").write_text("\n".join([header, *rows]))
    source = configured()["ptbxl"] | {"findings": {"atrial_fibrillation": ["AFIB"]}}
    table = manifests({"ptbxl": source}, tmp_path)["ptbxl_site1"]
    np.testing.assert_array_equal(table["atrial_fibrillation"], [1, np.nan, 0, np.nan])


def test_an_optional_source_that_is_not_there(tmp_path: Path) -> None:
    record(tmp_path, "a", 1)
    missing = {"hospital": HOSPITAL["hospital"] | {"optional": True}}
    sources = {**georgia(leave_out_patients_of="hospital"), **missing}
    assert absent(sources, tmp_path) == ["hospital"]
    assert list(manifests(sources, tmp_path)) == ["georgia"]
    with pytest.raises(InputError, match="none of hospital is here"):
        manifests(missing, tmp_path)
