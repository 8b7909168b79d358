import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from datamodules.inputs.blood import Blood

TABLE = pd.DataFrame(
    {
        "bnp_pg_ml": [0.2, 1.0, 100.0, None, 1e4],
        "nt_probnp_pg_ml": [None, 5.0, None, 300.0, None],
        "age_years": [40.0, 50.0, None, 70.0, 80.0],
        "sex": pd.Series(["male", "female", "male", None, "female"], dtype="str"),
    }
)
NAN = float("nan")


def test_features_by_hand() -> None:
    features = Blood("bnp_pg_ml", age=True, sex=True).features(TABLE)
    np.testing.assert_allclose(
        features,
        [
            [0, 40, 1],
            [0, 50, 0],
            [4.605170185988092, NAN, 1],
            [NAN, 70, NAN],
            [9.210340371976184, 80, 0],
        ],
    )
    assert features.dtype == np.float64
    assert Blood("bnp_pg_ml", True, True).reads == ("bnp_pg_ml", "age_years", "sex")
    other = Blood("nt_probnp_pg_ml", age=False, sex=True).features(TABLE)
    assert Blood("nt_probnp_pg_ml", False, True).reads == ("nt_probnp_pg_ml", "sex")
    np.testing.assert_allclose(
        other, [[NAN, 1], [1.6094379124341003, 0], [NAN, 1], [5.703782474656201, NAN], [NAN, 0]]
    )


def test_columns_that_a_table_lacks_are_absent() -> None:
    table = TABLE[["bnp_pg_ml"]]
    features = Blood("bnp_pg_ml", age=True, sex=True).features(table)
    assert np.isnan(features[:, 1:]).all()
    assert np.isnan(Blood("nt_probnp_pg_ml", False, False).features(table)).all()
    assert Blood("bnp_pg_ml", True, True).features(table[:0]).shape == (0, 3)


def test_standardisation_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"bnp_pg_ml": rng.lognormal(3, 1, 50), "age_years": rng.normal(60, 9, 50), "sex": "male"}
    )
    unfitted = Blood("bnp_pg_ml", True, True)
    raw = unfitted.features(table)
    fitted = unfitted.fit(unfitted.reader(table, [], np.zeros(50, int)), table, {}).input
    scaler = StandardScaler().fit(raw)
    others = np.random.default_rng(1).lognormal(3, 1, (7, 3))
    out = fitted.prepare(torch.from_numpy(others))
    assert out.dtype == torch.float64
    np.testing.assert_allclose(out, scaler.transform(others))
    np.testing.assert_allclose(
        fitted.prepare(torch.from_numpy(others).float()), scaler.transform(others), rtol=1e-4
    )


def test_what_blood_refuses() -> None:
    with pytest.raises(ValueError, match="not one of bnp_pg_ml, nt_probnp_pg_ml"):
        Blood("bnp", True, True)
    unfitted = Blood("bnp_pg_ml", True, True)
    with pytest.raises(ValueError, match="not been fitted"):
        unfitted.prepare(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="absent"):
        unfitted.fit(unfitted.reader(TABLE, [], np.zeros(5, int)), TABLE, {})


def test_it_travels_as_plain_values() -> None:
    unfitted = Blood("bnp_pg_ml", age=True, sex=False)
    fitted = unfitted.fit(unfitted.reader(TABLE, [], np.zeros(5, int)), TABLE[:2], {}).input
    assert isinstance(fitted, Blood)
    assert fitted.mean is not None
    for made in (unfitted, fitted):
        again = type(made).from_dict(json.loads(json.dumps(made.as_dict())))
        assert again == made


def test_one_exam_alone() -> None:
    made = Blood("nt_probnp_pg_ml", age=True, sex=False)
    read = made.of_exam({"nt_probnp_pg_ml": np.e, "age_years": 61.0, "ecg_path": "e"}, Path())
    assert read is not None
    raw, measured = read
    np.testing.assert_allclose(raw, [[1, 61]])
    assert measured == {"NT-proBNP (pg/mL)": np.e}
    assert made.of_exam({"nt_probnp_pg_ml": 30.0}, Path()) is None  # the age is not known
    assert made.of_exam({"bnp_pg_ml": 30.0, "age_years": 61.0}, Path()) is None


def test_what_is_read_of_an_exam() -> None:
    made = Blood("nt_probnp_pg_ml", age=True, sex=False)
    assert made.arguments == {"nt_probnp": "nt_probnp_pg_ml", "age": "age_years"}
    assert made.shape == {"features": 2}
    assert made.label == "NT-proBNP with age"
    assert Blood("bnp_pg_ml", age=False, sex=False).label == "BNP"
    assert made.known(TABLE).tolist() == [False, True, False, True, False]
    assert made.contents is None
    assert made.instead_of("ecg") == ""
    assert "Give nt_probnp=" in made.instead_of("bnp")
    assert made.augmentation({}) is None
    with pytest.raises(ValueError, match="NT-proBNP with age has no augmentation"):
        made.augmentation({"noise": 1})
