"""Drawing a few of the labels that there are."""

import numpy as np
import pandas as pd
import pytest

from datamodules.errors import InputError
from datamodules.splits import SPLITS, draw_labels

SHARE = {"train": 0.6, "val": 0.2, "test": 0.2}


def exams(number: int, prevalence: float, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    y = (rng.random(number) < prevalence).astype(float)
    y[rng.random(number) < 0.2] = np.nan
    return pd.DataFrame(
        {
            "institution": rng.choice(["a", "b"], number),
            "exam_id": [f"e{n}" for n in range(number)],
            "split": rng.choice(SPLITS, number, p=list(SHARE.values())),
            "y": y,
        }
    )


def kept(table: pd.DataFrame, wanted: int, seed: int = 1, split: str = "train") -> set[str]:
    labelled = draw_labels(table, ["y"], wanted, seed, classed=True) & table["y"].notna()
    return set(table.loc[labelled & (table["split"] == split), "exam_id"])


@pytest.mark.parametrize("prevalence", [0.3, 0.01])
@pytest.mark.parametrize("split", ["train", "val"])
def test_fewer_labels_are_among_more(prevalence: float, split: str) -> None:
    table = exams(2000, prevalence)
    for seed in range(5):
        few, more, most = (kept(table, wanted, seed, split) for wanted in (20, 50, 200))
        assert few < more < most
        of_few = table[table["exam_id"].isin(few)]
        assert of_few["y"].nunique() == 2
    assert kept(table, 20, 1) != kept(table, 20, 2)


def test_training_keeps_as_many_as_wanted_validation_the_same_share_and_tests_all() -> None:
    table = exams(2000, 0.3)
    labelled = table[table["y"].notna()].groupby("split").size()
    for wanted in (20, 50, 200):
        assert len(kept(table, wanted)) == wanted
        share = wanted / labelled["train"]
        assert len(kept(table, wanted, split="val")) == round(share * labelled["val"])
        assert len(kept(table, wanted, split="test")) == labelled["test"]
    assert len(kept(table, int(labelled["train"]), split="val")) == labelled["val"]


def test_no_other_label_moves_when_exams_come_in_another_order_or_one_loses_its_label() -> None:
    table = exams(500, 0.3)
    before = kept(table, 50)
    assert kept(table.sample(frac=1, random_state=0), 50) == before
    gone = next(iter(before))
    thinned = table.assign(y=table["y"].where(table["exam_id"] != gone))
    after = kept(thinned, 50)
    assert before - after == {gone}
    assert len(after - before) == 1


def test_the_draw_is_the_same_for_ever() -> None:
    table = exams(60, 0.3)
    assert sorted(kept(table, 6, seed=1)) == ["e0", "e15", "e16", "e39", "e40", "e50"]


def test_a_draw_is_a_fair_one() -> None:
    table = exams(4000, 0.3, seed=3)
    training = table[(table["split"] == "train") & table["y"].notna()].set_index("exam_id")["y"]
    drawn = [training[list(kept(table, 100, seed))].mean() for seed in range(50)]
    chance = np.sqrt(0.3 * 0.7 / 100)
    assert abs(np.mean(drawn) - training.mean()) < 4 * chance / np.sqrt(50)
    assert 0.7 * chance < np.std(drawn) < 1.3 * chance


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (900, "labels=900: there are .* labelled training exams. Give at most so many, or"),
        (1, "labels=1: an exam of each class takes 2 of them. Give at least so many"),
    ],
)
def test_too_many_and_too_few(wanted: int, says: str) -> None:
    with pytest.raises(InputError, match=says):
        draw_labels(exams(1000, 0.3), ["y"], wanted, 1, classed=True)


def test_numbers_have_no_classes() -> None:
    table = exams(1000, 0.3).rename(columns={"y": "lvef_percent"})
    few = draw_labels(table, ["lvef_percent"], 1, 1, classed=False)
    assert (few & (table["split"] == "train") & table["lvef_percent"].notna()).sum() == 1
