"""CinC Challenge headers -> exams."""

from pathlib import Path
from pipes import refusal_of_pipe

import numpy as np
import pandas as pd
import pytest

from datamodules.errors import InputError
from datamodules.public import cinc
from datamodules.public.codes import Codes

CODES = Codes(
    normal=frozenset({"426783006"}),
    neutral=frozenset({"427393009"}),
    abnormal=frozenset({"164889003"}),
    undecided=frozenset({"426177001"}),
)


def exams(folder: Path, **comments: str) -> pd.DataFrame:
    """A data set of one header a keyword, in subfolders as the challenge has them."""
    for i, (name, text) in enumerate(comments.items()):
        subfolder = folder / "georgia" / f"g{i + 1}"
        subfolder.mkdir(parents=True)
        (subfolder / f"{name}.hea").write_text(f"{name}.mat 12 500 5000\n{text}")
    return cinc.exams(folder / "georgia", folder, institution="georgia", codes=CODES)


def test_a_header(tmp_path: Path) -> None:
    table = exams(tmp_path, E1="#Age: 83\n#Sex: Female\n#Dx: 164889003\n#Rx: Unknown\n")
    assert table.iloc[0].to_dict() == {
        "institution": "georgia",
        "patient_id": "georgia-E1",
        "exam_id": "georgia-E1",
        "ecg_path": "georgia/g1/E1",
        "age_years": 83.0,
        "sex": "female",
        "abnormal": 1.0,
    }


def test_both_years_comments_and_unknowns(tmp_path: Path) -> None:
    table = exams(
        tmp_path,
        a="# Age: 46\n# Sex: Male\n# Dx: 426783006\n",
        b="#Age: NaN\n#Sex: Unknown\n#Dx: 426783006,427393009\n",
        c="# Age:\n# Sex:\n# Dx:\n",
        d="",
    )
    np.testing.assert_array_equal(table["age_years"], [46, np.nan, np.nan, np.nan])
    assert table["sex"].fillna("-").tolist() == ["male", "-", "-", "-"]
    np.testing.assert_array_equal(table["abnormal"], [0, 0, np.nan, np.nan])


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ("426783006", 0),
        ("426783006,426783006", 0),
        ("427393009", np.nan),
        ("426177001", np.nan),
        ("426783006,426177001", np.nan),
        ("426783006, 164889003", 1),  # sinus rhythm does not contradict a pathological finding
        ("426177001,164889003", 1),
    ],
)
def test_abnormal(tmp_path: Path, codes: str, expected: float) -> None:
    np.testing.assert_array_equal(exams(tmp_path, a=f"#Dx: {codes}\n")["abnormal"], [expected])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("#Age: old\n", "b.hea, #Age: 'old' is not a number of years or NaN"),
        ("#Sex: 1\n", "b.hea, #Sex: '1' is not Male, Female or Unknown"),
        ("#Dx: 1\n", "b.hea, #Dx: '1' stands in none of the source's codes; add it to one"),
    ],
)
def test_bad_comments(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        exams(tmp_path, a="#Dx: 426783006\n", b=text)
    assert expected in str(caught.value)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    exams(tmp_path, a="#Dx: 426783006\n")

    def read() -> None:
        cinc.exams(tmp_path, tmp_path, institution="georgia", codes=CODES)

    assert "b.hea: cannot be read (it is a pipe" in refusal_of_pipe(read, tmp_path / "b.hea")


def test_no_headers(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no WFDB headers"):
        cinc.exams(tmp_path, tmp_path, institution="georgia", codes=CODES)
