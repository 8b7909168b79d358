"""Table 1 by hand."""

import numpy as np
import pandas as pd
import pytest

from experiments.evaluation.characteristics import characteristics, unit_of


@pytest.fixture(scope="module")
def exams():
    return pd.DataFrame(
        {
            "institution": ["far", "far", "home", "home", "home", "home"],
            "role": ["external"] * 2 + ["development"] * 4,
            "patient_id": ["1", "1", "1", "2", "3", "4"],
            "exam_id": list("abcdef"),
            "target": [1, 0, 1, 0, 0, np.nan],
            "age_years": [80, 82, 40, 50, 60, np.nan],
            "sex": ["female", "female", "male", None, "female", "female"],
            "bnp_pg_ml": [np.nan, np.nan, 10, 20, 300, 4000],
            "lvef_percent": [np.nan] * 6,
        }
    )


def rows(table):
    return table.set_index("characteristic").to_dict(orient="index")


def test_by_hand(exams):
    table = characteristics(exams, {"LVSD": "target"})
    assert list(table.columns) == ["characteristic", "home (development)", "far (external)"]
    found = {name: tuple(cells.values()) for name, cells in rows(table).items()}
    assert found == {
        "Exams": ("4", "2"),
        "Patients": ("4", "1"),
        "LVSD: positive, n (%)": ("1 (33.3)", "1 (50.0)"),
        "LVSD: not known": ("1 (25.0)", "0"),
        "Sex: female, n (%)": ("2 (66.7)", "2 (100.0)"),
        "Sex: male, n (%)": ("1 (33.3)", "0 (0.0)"),
        "Sex: not recorded": ("1 (25.0)", "0"),
        "Age, years: mean (SD)": ("50.0 (10.0)", "81.0 (1.4)"),
        "Age, years: median [IQR]": ("50.0 [45.0-55.0]", "81.0 [80.5-81.5]"),
        "Age, years: missing": ("1 (25.0)", "0"),
        "BNP, pg/mL: median [IQR]": ("160 [18-1225]", "-"),
        "BNP, pg/mL: missing": ("0", "2 (100.0)"),
    }


def test_several_institutions_of_a_role_are_put_together(exams):
    more = pd.concat([exams, exams[exams["role"] == "external"].assign(institution="near")])
    table = characteristics(more, {"LVSD": "target"})
    assert list(table.columns)[2:] == ["far (external)", "near (external)", "all external"]
    # a patient id holds only within its institution
    assert rows(table)["Patients"]["all external"] == "2"
    assert rows(table)["Exams"]["all external"] == "4"


def test_columns_that_are_not_there_have_no_rows(exams):
    bare = exams[["institution", "role", "patient_id", "exam_id", "target"]]
    assert list(characteristics(bare, {"PH": "target"})["characteristic"]) == [
        "Exams", "Patients", "PH: positive, n (%)", "PH: not known",
    ]  # fmt: skip


def test_each_label_has_its_positives(exams):
    exams = exams.assign(other=[1, 1, np.nan, np.nan, 0, 1])
    table = rows(characteristics(exams, {"LVSD": "target", "PH": "other"}))
    assert list(table["PH: positive, n (%)"].values()) == ["1 (50.0)", "2 (100.0)"]
    assert list(table["PH: not known"].values()) == ["2 (50.0)", "0"]
    assert list(table["LVSD: positive, n (%)"].values()) == ["1 (33.3)", "1 (50.0)"]


def test_a_target_that_is_a_number_has_a_mean_and_no_positives():
    exams = pd.DataFrame(
        {
            "institution": "home",
            "role": "development",
            "exam_id": list("abcd"),
            "patient_id": list("abcd"),
            "score": [1.0, 2.0, 6.0, None],
        }
    )
    table = characteristics(exams, {"frailty": "score"}, classed=False).set_index("characteristic")
    assert table.loc["frailty: mean (SD)"].iloc[0] == "3.00 (2.65)"
    assert table.loc["frailty: not known"].iloc[0] == "1 (25.0)"
    assert not any("positive" in name for name in table.index)


def test_units_are_those_of_the_table():
    assert (unit_of("lvef_percent"), unit_of("pasp_mmhg"), unit_of("frailty")) == ("%", "mmHg", "")
