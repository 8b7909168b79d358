"""A regression's predictions: what is accepted, and what is said about what is not."""

import numpy as np
import pandas as pd
import pytest

from datamodules.errors import InputError
from experiments.evaluation.estimates import (
    COLUMNS,
    check_estimates,
    is_regression,
    read_estimates,
)
from experiments.evaluation.predictions import LABEL


def table(**changes):
    columns = {
        "model": ["cnn"] * 3,
        "institution": ["a", "a", "b"],
        "split": ["val", "test", "external"],
        "patient_id": ["001", "002", "003"],
        "exam_id": ["1", "2", "1"],
        "truth": [62, 35.5, 48],
        "estimate": [60.25, 41.0, -3.0],
    }
    return pd.DataFrame(columns | changes)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_written_table_is_read_back(tmp_path, suffix):
    path = tmp_path / f"p.{suffix}"
    shuffled = table(label="lvef_percent")[list(COLUMNS[::-1])].assign(note="ignored")
    shuffled.to_csv(path, index=False) if suffix == "csv" else shuffled.to_parquet(path)
    read = read_estimates(path)
    assert tuple(read.columns) == COLUMNS
    assert list(read["patient_id"]) == ["001", "002", "003"]
    assert list(read["truth"]) == [62, 35.5, 48]
    assert list(read["estimate"]) == [60.25, 41.0, -3.0]
    assert read["truth"].dtype == read["estimate"].dtype == "float64"


def test_a_table_without_labels_is_of_the_one_that_is_asked_for():
    assert set(check_estimates(table(), "ours")["label"]) == {LABEL}
    assert set(check_estimates(table(), "ours", label="pasp_mmhg")["label"]) == {"pasp_mmhg"}


def test_which_tables_are_a_regressions():
    assert is_regression(table())
    assert not is_regression(table().drop(columns="truth"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"truth": [1, np.inf, 3]}, "row 2, truth: 'inf'; must be a finite number"),
        ({"truth": [1, 2, None]}, "row 3, truth: empty; must be a finite number"),
        ({"estimate": ["low", 2, 3]}, "row 1, estimate: 'low'; must be a finite number"),
        ({"split": ["val", "train", "external"]}, "row 2, split: 'train'"),
        ({"exam_id": ["1", "1", "1"]}, "row 2, exam_id: '1' of a is there more than once"),
        ({"institution": ["a", "b", "b"]}, "b is both a development institution"),
        ({"patient_id": ["1", "1", "2"]}, "in both val and test"),
    ],
)
def test_a_bad_row_is_named(changes, said):
    with pytest.raises(InputError) as caught:
        check_estimates(table(**changes), "theirs")
    assert str(caught.value).startswith("theirs: 1 unusable value")
    assert said in str(caught.value)


def test_all_bad_rows_are_listed_by_line_of_the_file(tmp_path):
    path = tmp_path / "theirs.csv"
    table(truth="", estimate="nan").to_csv(path, index=False)
    with pytest.raises(InputError) as caught:
        read_estimates(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: 6 unusable value(s)")
    for line in (2, 3, 4):
        assert f"line {line}, truth: empty" in message
        assert f"line {line}, estimate: empty" in message


def test_what_is_missing_is_said():
    with pytest.raises(InputError, match="lacks estimate"):
        check_estimates(table().drop(columns="estimate"), "theirs")
