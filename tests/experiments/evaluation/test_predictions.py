"""The predictions table: what is accepted, and what is said about what is not."""

import numpy as np
import pandas as pd
import pytest

from datamodules.errors import InputError
from experiments.evaluation.estimates import read_several
from experiments.evaluation.predictions import (
    COLUMNS,
    LABEL,
    check_predictions,
    read_predictions,
)


def table(**changes):
    columns = {
        "model": ["cnn"] * 3,
        "institution": ["a", "a", "b"],
        "split": ["val", "test", "external"],
        "patient_id": ["001", "002", "003"],
        "exam_id": ["1", "2", "1"],
        "target": [0, 1, 1],
        "logit": [-1.0, 0.0, 2.0],
        "probability": [0.27, 0.5, 0.88],
    }
    return pd.DataFrame(columns | changes)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_written_table_is_read_back(tmp_path, suffix):
    path = tmp_path / f"p.{suffix}"
    shuffled = table(label="lvsd")[list(COLUMNS[::-1])].assign(note="ignored")
    shuffled.to_csv(path, index=False) if suffix == "csv" else shuffled.to_parquet(path)
    read = read_predictions(path)
    assert tuple(read.columns) == COLUMNS
    assert list(read["patient_id"]) == ["001", "002", "003"]
    assert list(read["target"]) == [0, 1, 1]
    assert set(read["label"]) == {"lvsd"}
    assert read["target"].dtype == "int64"
    assert read["logit"].dtype == read["probability"].dtype == "float64"


def test_numbers_and_truths_of_other_types_are_taken():
    checked = check_predictions(
        table(target=[False, True, True], exam_id=[7, 8, 9], logit=["-1", "0", "2"]), "ours"
    )
    assert list(checked["target"]) == [0, 1, 1]
    assert list(checked["exam_id"]) == ["7", "8", "9"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"probability": [0.1, 1.2, 0.3]}, "row 2, probability: '1.2'"),
        ({"probability": [0.1, 0.2, None]}, "row 3, probability: empty"),
        ({"probability": ["high", 0.2, 0.3]}, "row 1, probability: 'high'"),
        ({"logit": [0.1, None, 0.3]}, "row 2, logit: empty"),
        ({"target": [0, 1, 2]}, "row 3, target: '2'"),
        ({"target": [0, 1, None]}, "row 3, target: empty"),
        ({"split": ["val", "train", "external"]}, "row 2, split: 'train'"),
        ({"patient_id": ["1", None, "3"]}, "row 2, patient_id: empty"),
        ({"model": ["cnn", " ", "cnn"]}, "row 2, model"),
        ({"exam_id": ["1", "1", "1"]}, "row 2, exam_id: '1' of a is there more than once"),
        ({"institution": ["a", "a", "all-external"]}, "row 3, institution: 'all-external'"),
    ],
)
def test_a_bad_row_is_named(changes, said):
    with pytest.raises(InputError) as caught:
        check_predictions(table(**changes), "theirs")
    assert str(caught.value).startswith("theirs: 1 unusable value")
    assert said in str(caught.value)


def test_all_bad_rows_are_listed_by_line_of_the_file(tmp_path):
    path = tmp_path / "theirs.csv"
    many = pd.concat([table(exam_id=[f"{i}x", f"{i}y", f"{i}z"]) for i in range(10)])
    many.assign(probability=-0.5, logit="").to_csv(path, index=False)
    with pytest.raises(InputError) as caught:
        read_predictions(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: 60 unusable value(s)")
    assert "line 2, logit: empty" in message
    assert "line 2, probability: '-0.5'" in message
    assert "and 40 more" in message


def test_a_strangers_table_needs_no_logits(tmp_path):
    path = tmp_path / "theirs.csv"
    table(probability=[0.25, 0.5, 1.0]).drop(columns="logit").to_csv(path, index=False)
    logits = read_predictions(path)["logit"]
    assert logits[:2].tolist() == pytest.approx([-np.log(3), 0])
    assert 16 < logits[2] < 17
    table(probability=[0.25, "high", None]).drop(columns="logit").to_csv(path, index=False)
    with pytest.raises(InputError, match="2 unusable value") as caught:
        read_predictions(path)
    assert "line 3, probability: 'high'" in str(caught.value)
    assert "logit" not in str(caught.value)


def test_a_patient_in_two_splits_is_refused():
    leaking = table(patient_id=["p1", "p1", "p2"])
    with pytest.raises(InputError, match="1 patient.s. of a are in both val and test, 'p1'"):
        check_predictions(leaking, "theirs")


def test_what_is_no_table_is_said(tmp_path):
    with pytest.raises(InputError, match="lacks logit, probability"):
        check_predictions(table().drop(columns=["logit", "probability"]), "theirs")
    with pytest.raises(InputError, match="no rows"):
        check_predictions(table().iloc[:0], "theirs")
    with pytest.raises(InputError, match="no such file"):
        read_predictions(tmp_path / "absent.csv")
    for name in ("torn.parquet", "empty.csv", "table.xlsx"):
        (tmp_path / name).write_bytes(b"" if name == "empty.csv" else b"PAR1 nothing")
        with pytest.raises(InputError, match=name):
            read_predictions(tmp_path / name)


def test_a_table_without_label_is_of_one():
    checked = check_predictions(table(), "ours")
    assert tuple(checked.columns) == COLUMNS
    assert set(checked["label"]) == {LABEL}
    assert set(check_predictions(table(), "ours", label="ph")["label"]) == {"ph"}
    assert set(check_predictions(table(label="lvsd"), "ours", label="ph")["label"]) == {"lvsd"}
    with pytest.raises(InputError, match="stands for the mean over labels"):
        check_predictions(table(label="macro average"), "ours")


def test_an_exam_has_a_row_and_a_truth_of_each_label():
    other = table(label="ph", target=[1, 1, 0])
    both = check_predictions(pd.concat([table(label=" lvsd"), other]), "ours")
    assert both.groupby("label")["target"].agg(list).to_dict() == {
        "lvsd": [0, 1, 1],
        "ph": [1, 1, 0],
    }
    with pytest.raises(InputError) as caught:
        check_predictions(pd.concat([both, other.iloc[1:2]]), "theirs")
    assert str(caught.value).startswith("theirs: 1 unusable value")
    assert "row 7, exam_id: '2' of a is there more than once" in str(caught.value)
    assert "label 'ph'" in str(caught.value)


def test_an_empty_label_is_refused():
    with pytest.raises(InputError, match="row 2, label: empty; give every row one"):
        check_predictions(table(label=["lvsd", None, "lvsd"]), "theirs")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ((None, None), [LABEL, LABEL]),
        (("lvsd", None), ["lvsd", "lvsd"]),
        ((None, "lvsd"), ["lvsd", "lvsd"]),
        (("lvsd", "ph", None), ["lvsd", "ph", LABEL]),
    ],
)
def test_a_file_without_label_has_that_of_the_others(tmp_path, labels, expected):
    paths = [str(tmp_path / f"{number}.csv") for number in range(len(labels))]
    for label, path in zip(labels, paths, strict=True):
        written = table() if label is None else table(label=label)
        written.to_csv(path, index=False)
    read = read_several(paths)
    assert tuple(read.columns) == COLUMNS
    assert list(read["label"]) == np.repeat(expected, 3).tolist()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"patient_id": ["001", "002", "009"]}, "row 6, patient_id: '009', but '003' in an ear"),
        ({"split": ["test", "test", "external"]}, "row 4, split: 'test', but 'val' in an earlier"),
    ],
)
def test_an_exam_has_one_patient_and_split_for_all_labels(changes, said):
    both = pd.concat([table(label="lvsd"), table(label="ph", **changes)], ignore_index=True)
    with pytest.raises(InputError) as caught:
        check_predictions(both, "theirs")
    assert said in str(caught.value)
    assert "of b and model 'cnn'" in str(caught.value) or "of a and" in str(caught.value)
    assert "for all labels" in str(caught.value)
