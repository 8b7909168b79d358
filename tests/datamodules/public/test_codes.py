"""What lists of codes make of an ECG, and the lists that configs/cohort/public.yaml holds."""

from math import nan
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from datamodules.errors import InputError
from datamodules.public.codes import Codes

LISTS = {
    "normal": ["NORM"],
    "neutral": ["SR"],
    "abnormal": ["AFIB", "LVH"],
    "undecided": ["PAC"],
}
CONFIG = Path(__file__).parents[3] / "configs/cohort/public.yaml"


def configured(name: str) -> Codes:
    lists = OmegaConf.load(CONFIG).codes[name]
    return Codes.from_lists(OmegaConf.to_container(lists), where=name)


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"NORM"}, 0.0),
        ({"NORM", "SR"}, 0.0),
        ({"SR"}, nan),
        ({"PAC"}, nan),
        ({"NORM", "PAC"}, nan),
        ({"LVH"}, 1.0),
        ({"LVH", "PAC", "SR"}, 1.0),
        (set(), nan),
    ],
)
def test_abnormality(stated: set[str], expected: float) -> None:
    codes = Codes.from_lists(LISTS, where="here")
    np.testing.assert_equal(codes.abnormality(stated), expected)


def test_doubt_takes_normal_away_but_not_abnormal() -> None:
    codes = Codes.from_lists(LISTS, where="here")
    assert np.isnan(codes.abnormality({"NORM"}, in_doubt=True))
    assert codes.abnormality({"AFIB"}, in_doubt=True) == 1


def test_unknown_codes_are_told() -> None:
    assert Codes.from_lists(LISTS, where="here").unknown({"NORM", "PAC", "XYZ"}) == {"XYZ"}


def test_a_code_in_two_lists() -> None:
    with pytest.raises(InputError, match=r"here: 'LVH' stands in normal and abnormal\. Keep each"):
        Codes.from_lists({**LISTS, "normal": ["LVH"]}, where="here")


def test_a_missing_list() -> None:
    with pytest.raises(InputError, match=r"here: has normal\. Write normal, neutral, abnorm"):
        Codes.from_lists({"normal": ["NORM"]}, where="here")


def test_configured_scp_codes_are_ptbxls_own(real_data: Path) -> None:
    """Every statement is in a list, and those with a pathological diagnostic class are abnormal."""
    statements = pd.read_csv(real_data / "ptbxl/scp_statements.csv", index_col=0)
    codes = configured("scp")
    every = codes.normal | codes.neutral | codes.abnormal | codes.undecided
    assert every == set(statements.index)
    pathological = statements.index[
        statements["diagnostic_class"].isin(["MI", "STTC", "CD", "HYP"])
    ]
    assert set(pathological) <= codes.abnormal
    assert codes.normal == set(statements.index[statements["diagnostic_class"] == "NORM"])


def test_configured_snomed_codes() -> None:
    """The challenge scores 30 diagnoses and lists 103 more; it scores some pairs as one."""
    codes = configured("snomed")
    every = codes.normal | codes.neutral | codes.abnormal | codes.undecided
    assert len(every) == 30 + 103
    for pair in (
        {"733534002", "164909002"},
        {"713427006", "59118001"},
        {"284470004", "63593006"},
        {"427172004", "17338001"},
    ):
        assert pair <= codes.abnormal or pair <= codes.undecided
