"""The checklist has the published items, in their order."""

import re

import pytest

from experiments.evaluation.tripod import ANSWERED, AUTHOR, ITEMS, PARTLY, Answer, checklist

# Collins et al., BMJ 2024;385:e078378, table 2: how many parts each of the 27 items has, and the
# items that apply to development (D) or evaluation (E) alone.
PARTS = {3: 3, 5: 2, 6: 3, 8: 3, 9: 3, 12: 7, 18: 6, 20: 3, 23: 2, 27: 3}
ALONE = {
    "D": ["9a", "12a", "12b", "12c", "15", "22", "27a", "27b"],
    "E": ["12f", "12g", "20c", "24"],
}


def test_items_are_the_published_ones():
    expected = []
    for number in range(1, 28):
        parts = "abcdefg"[: PARTS.get(number, 0)] or [""]
        expected += [f"{number}{part}" for part in parts]
    assert [item.number for item in ITEMS] == expected
    for applies, numbers in ALONE.items():
        assert [item.number for item in ITEMS if item.applies == applies] == numbers
    others = {item.applies for item in ITEMS} - set(ALONE)
    assert others == {"D;E"}


def test_every_item_has_a_status():
    answers = {"23a": Answer("Results", "tables"), "26": Answer("Limits", "some", complete=False)}
    table = checklist(answers).set_index("item")
    assert table.loc["23a", ["status", "where", "answer"]].tolist() == [
        ANSWERED, "Results", "tables",
    ]  # fmt: skip
    assert table.loc["26", "status"] == PARTLY
    assert (table["status"] == AUTHOR).sum() == len(ITEMS) - 2
    assert not table.loc["17", "answer"]


def test_an_unknown_item_is_refused():
    with pytest.raises(KeyError, match=re.escape("28")):
        checklist({"28": Answer("Results", "x")})
