import math

import numpy as np
import pandas as pd
import pytest

from datamodules.errors import InputError
from datamodules.splits import (
    assign_splits,
    balance,
    check_balance,
    check_leakage,
    leave_site_out,
    stated_splits,
)

FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}


def patients(n: int, start: int = 0) -> pd.Series:
    return pd.Series([f"p{i}" for i in range(start, start + n)], dtype="str")


def test_adding_patients_and_exams_in_any_order_moves_nobody() -> None:
    rng = np.random.default_rng(0)
    everyone = patients(500)
    splits = dict(zip(everyone, assign_splits(everyone, FRACTIONS, 3), strict=True))
    for _ in range(50):
        some = pd.Series(rng.choice(everyone, size=rng.integers(1, 800)), dtype="str")
        assigned = assign_splits(some, FRACTIONS, 3)
        assert assigned.tolist() == [splits[patient] for patient in some]


def test_the_draw_is_the_same_for_ever() -> None:
    assigned = assign_splits(patients(12), FRACTIONS, 0).tolist()
    assert " ".join(assigned) == (
        "train val train val train train test val train train train train"
    )


def test_the_index_is_kept_and_seeds_differ() -> None:
    some = patients(200).set_axis(range(5, 205))
    first = assign_splits(some, FRACTIONS, 0)
    assert first.index.equals(some.index)
    assert (first != assign_splits(some, FRACTIONS, 1)).mean() > 0.2


@pytest.mark.parametrize("seed", range(5))
def test_every_stratum_keeps_the_fractions_within_binomial_chance(seed: int) -> None:
    everyone = patients(20_000)
    split = assign_splits(everyone, FRACTIONS, seed)
    stratum = np.random.default_rng(seed).random(len(everyone)) < 0.1
    for chosen in (split[stratum], split[~stratum]):
        for name, fraction in FRACTIONS.items():
            chance = math.sqrt(fraction * (1 - fraction) / len(chosen))
            assert abs((chosen == name).mean() - fraction) < 4.5 * chance


def test_one_seed_draws_splits_independent_of_another() -> None:
    everyone = patients(20_000)
    first = assign_splits(everyone, FRACTIONS, 0) == "train"
    second = assign_splits(everyone, FRACTIONS, 1) == "train"
    assert abs(np.corrcoef(first, second)[0, 1]) < 4.5 / math.sqrt(len(everyone))


def test_fractions_of_nothing_and_of_everything() -> None:
    only = assign_splits(patients(100), {"train": 1.0, "val": 0.0, "test": 0.0}, 0)
    assert set(only) == {"train"}
    thirds = assign_splits(patients(100), {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, 0)
    assert set(thirds) == {"a", "b", "c"}


@pytest.mark.parametrize("wrong", [{"train": 0.5, "val": 0.4}, {"train": 1.2, "val": -0.2}])
def test_fractions_must_sum_to_one(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="must lie in 0-1 and sum to 1"):
        assign_splits(patients(3), wrong, 0)


def test_a_manifests_own_splits() -> None:
    index = pd.Index([2, 4], name="line")
    exams = pd.DataFrame({"fold": ["test", "train"]}, index=index)
    split = stated_splits(exams, "fold", "a.csv")
    assert split.tolist() == ["test", "train"]
    assert split.index.equals(index)
    assert split.name == "split"


def test_every_row_without_a_split_is_named() -> None:
    index = pd.Index([2, 3, 4, 5], name="line")
    exams = pd.DataFrame({"fold": ["train", "valid", None, "Test"]}, index=index)
    with pytest.raises(InputError) as error:
        stated_splits(exams, "fold", "here/a.csv")
    assert str(error.value).splitlines() == [
        "here/a.csv: every exam needs a split, train, val or test:",
        "  line 3, column fold: 'valid' is not a split",
        "  line 4, column fold: it is empty",
        "  line 5, column fold: 'Test' is not a split",
    ]
    with pytest.raises(
        InputError, match=r"splits\.column=flod: a\.csv has no .*Did you mean fold\?"
    ):
        stated_splits(exams, "flod", "a.csv")


def test_balance_counts_and_refuses() -> None:
    exams = pd.DataFrame(
        {
            "split": ["train", "train", "train", "val", "val", "test"],
            "patient_id": ["a", "a", "b", "c", "d", "e"],
        }
    )
    target = pd.Series([1, 0, np.nan, 0, 0, 1], name="lvsd", dtype=float)
    table = balance(exams, target)
    assert table.loc["train"].tolist() == [2, 3, 2, 1]
    assert table.loc["val"].tolist() == [2, 2, 2, 0]
    check_balance(exams, target, both_classes_in=["train"])
    with pytest.raises(InputError, match="split val: 2 labelled exams, 0 of them positive"):
        check_balance(exams, target, both_classes_in=["train", "val"])
    with pytest.raises(InputError, match="lvsd: the 6 development exams hold only 0"):
        check_balance(exams, target * 0, both_classes_in=["train", "val"])
    with pytest.raises(InputError, match="hold no value at all"):
        check_balance(exams, target * np.nan, both_classes_in=["train"])


def guard(exams: pd.DataFrame) -> None:
    check_leakage(exams, {"waveform": "recordings", "image": "chest X-rays"})


def cohort(**columns: list[object]) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "institution": ["north", "north", "south", "east"],
            "role": ["development", "development", "development", "external"],
            "split": ["train", "val", "train", "external"],
            "patient_id": ["a", "b", "c", "d"],
            "exam_id": ["1", "2", "1", "1"],
            "waveform": ["w1", "w2", "w3", "w4"],
        }
    )
    return table.assign(**columns)


def test_a_sound_cohort_passes() -> None:
    guard(cohort())
    guard(cohort(patient_id=["a", "b", "a", "d"]))
    guard(cohort(waveform=[np.nan, np.nan, np.nan, "w"]))
    same_patient_twice = cohort(patient_id=["a", "b", "a", "d"], waveform=["w", "v", "w", "u"])
    guard(same_patient_twice)
    guard(cohort(image=[np.nan, np.nan, "i3", "i4"]))
    guard(cohort(patient_id=["a", "b", "a", "d"], image=["i", np.nan, "i", np.nan]))
    guard(cohort(image=["i1", "i2", "i3", "i4"]).drop(columns="waveform"))


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"patient_id": ["a", "a", "c", "d"]}, "patient 'a': train and val (institution north)"),
        (
            {"patient_id": ["a", "b", "b", "d"]},
            "patient 'b': train and val (institution north and south)",
        ),
        (
            {"patient_id": ["a", "b", "c", "a"]},
            "patient 'a': development north, external east",
        ),
        (
            {"waveform": ["w1", "w2", "w3", "w1"]},
            "north '1' (patient 'a') = east '1' (patient 'd')",
        ),
        (
            {"waveform": ["w1", "w1", "w3", "w4"]},
            "north '1' (patient 'a') = north '2' (patient 'b')",
        ),
        (
            {"image": ["i1", np.nan, np.nan, "i1"]},
            "1 chest X-rays that stand under two patients (keep one exam, or give both one "
            "patient_id):\n  north '1' (patient 'a') = east '1' (patient 'd')",
        ),
        ({"exam_id": ["1", "1", "1", "1"]}, "north '1'"),
    ],
)
def test_each_leak_is_named(columns: dict[str, list[object]], says: str) -> None:
    with pytest.raises(InputError, match="The cohort leaks") as error:
        guard(cohort(**columns))
    assert says in str(error.value)
    assert str(error.value).count(":\n") == 2


def test_only_the_copies_asked_for_are_looked_at() -> None:
    twice = cohort(waveform=["w1", "w2", "w3", "w1"])
    with pytest.raises(InputError, match="1 films that stand under two patients"):
        check_leakage(twice, {"waveform": "films"})
    check_leakage(twice, {})


def test_every_offender_is_counted() -> None:
    ids = [f"p{i}" for i in range(3000)]
    sites = [
        pd.DataFrame(
            {
                "institution": name,
                "role": role,
                "split": split,
                "patient_id": ids,
                "exam_id": ids,
                "waveform": [f"{name}{i}" for i in ids],
            }
        )
        for name, role, split in (("a", "development", "train"), ("b", "external", "external"))
    ]
    with pytest.raises(InputError, match="3000 patients of both") as error:
        guard(pd.concat(sites))
    assert "patient 'p19': development a, external b" in str(error.value)
    assert "and 2980 more" in str(error.value)


def test_leave_site_out() -> None:
    folds = leave_site_out(["a", "b", "c"])
    assert [fold.name for fold in folds] == ["a", "b", "c"]
    assert [fold.external for fold in folds] == [("a",), ("b",), ("c",)]
    assert folds[1].development == ("a", "c")
    with pytest.raises(InputError, match="two institutions or more"):
        leave_site_out(["a"])
