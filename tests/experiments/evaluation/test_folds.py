"""Leave-site-out folds together: a single fold is an external validation."""

import numpy as np
import pandas as pd
import pytest

from experiments.evaluation.auroc import NOT_ESTIMABLE
from experiments.evaluation.calibration import (
    COLUMNS,
    calibration_table,
    reliability_curves,
)
from experiments.evaluation.folds import calibration_of_folds, operating_points_of_folds
from experiments.evaluation.operating import operating_points
from experiments.evaluation.predictions import ALL_EXTERNAL
from lightning_modules.tasks.decision import METHODS

SETTINGS = {"confidence": 0.95, "resamples": 50, "seed": 3}


def fold(held_out, development, seed):
    generator = np.random.default_rng(seed)
    parts = []
    for model, gain in (("mae", 2.0), ("cnn", 1.0)):
        for institution in (*development, held_out):
            split = "external" if institution == held_out else "val"
            target = np.arange(80) % 4 == 0
            logit = gain * target - 1.5 + generator.normal(size=80) + 0.3 * seed
            ids = np.arange(80).astype(str)
            parts.append(
                pd.DataFrame(
                    {
                        "model": model,
                        "institution": institution,
                        "split": split,
                        "patient_id": ids,
                        "exam_id": ids,
                        "target": target.astype(int),
                        "logit": logit,
                        "probability": 1 / (1 + np.exp(-logit)),
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def folds():
    return [fold("a", ("b", "c"), 0), fold("b", ("a", "c"), 1)]


def external(table):
    return table[table["role"] == "external"]


def test_each_institution_is_as_in_its_own_fold(folds):
    together = operating_points_of_folds(folds, sensitivity=0.9, **SETTINGS)
    for one in folds:
        alone = external(operating_points(one, sensitivity=0.9, **SETTINGS))
        keys = ["model", "institution", "operating_point"]
        joined = alone.merge(together, on=keys, suffixes=("", "_together"), validate="1:1")
        assert len(joined) == len(alone) == 4
        for column in ("threshold", "tp", "fp", "sensitivity", "sensitivity_low", "ppv", "f1"):
            np.testing.assert_allclose(
                joined[column].astype(float), joined[f"{column}_together"].astype(float)
            )


def test_the_pooled_row_adds_the_folds_up(folds):
    together = operating_points_of_folds(folds, sensitivity=0.9, **SETTINGS)
    pooled = together[together["role"] == "pooled"].set_index(["model", "operating_point"])
    counts = external(together).groupby(["model", "operating_point"])[["tp", "fp", "tn", "fn"]]
    for key, row in counts.sum().iterrows():
        assert pooled.loc[key, ["tp", "fp", "tn", "fn"]].tolist() == row.tolist()
    assert pooled["threshold"].isna().all()
    assert list(together["model"].unique()) == ["mae", "cnn"]


def test_recalibration_comes_from_each_folds_own_validation_exams(folds):
    tables = calibration_of_folds(folds, **SETTINGS)
    for one in folds:
        for together, alone in zip(
            tables, (calibration_table(one, **SETTINGS), reliability_curves(one, **SETTINGS)),
            strict=True,
        ):  # fmt: skip
            keys = ["model", "institution", "recalibration"]
            column = "brier" if "brier" in alone else "observed"
            there = together.set_index([*keys, *(["bin"] if "bin" in alone else [])])[column]
            own = external(alone).set_index(there.index.names)[column]
            assert len(own) > 0
            np.testing.assert_allclose(there.loc[own.index], own)


def test_without_validation_exams_nothing_is_estimable(folds):
    without = [one[one["split"] == "external"] for one in folds]
    assert operating_points_of_folds(without, sensitivity=0.9, **SETTINGS)["tp"].isna().all()
    table, curves = calibration_of_folds(without, **SETTINGS)
    before = table["recalibration"] == "none"
    assert before.sum() == 6
    assert table.loc[before, "brier"].notna().all()
    assert set(table.loc[~before, "method"]) == {NOT_ESTIMABLE}
    assert set(curves["recalibration"]) == {"none"}


def test_a_recalibration_is_pooled_only_where_all_folds_have_it():
    """Of `cnn` the third fold has one class to fit on, and of `mae` separated ones (no Platt)."""
    first, second, third = fold("a", "bc", 0), fold("b", "ac", 1), fold("c", "ab", 2)
    validation, cnn = third["split"] == "val", third["model"] == "cnn"
    separated = np.where(third["target"] == 1, 0.9, 0.1)
    third["probability"] = third["probability"].mask(validation & ~cnn, separated)
    third = third[~(validation & cnn & (third["target"] == 1))]
    table, curves = calibration_of_folds([first, second, third], **SETTINGS)
    assert tuple(table.columns) == COLUMNS

    whole = {("mae", "none"), ("mae", "isotonic"), ("cnn", "none")}
    for model in ("mae", "cnn"):
        for method in METHODS:
            of_both = (table["model"] == model) & (table["recalibration"] == method)
            own = table[of_both].set_index("institution")
            assert list(own.index) == ["a", "b", "c", ALL_EXTERNAL]
            assert list(own["n"]) == [80, 80, 80, 240]
            assert list(own["positives"]) == [20, 20, 20, 60]
            estimated = [True, True, *[(model, method) in whole] * 2]
            assert list(own["brier"].notna()) == estimated
            assert list(own["method"] != NOT_ESTIMABLE) == estimated
            figures = own.loc[~np.array(estimated), list(COLUMNS[6:-1])]
            assert figures.isna().to_numpy().all()
            drawn = curves[(curves["model"] == model) & (curves["recalibration"] == method)]
            assert set(drawn["institution"]) == set(own.index[estimated])
            pooled = drawn[drawn["role"] == "pooled"]
            assert pooled["n"].sum() == (240 if (model, method) in whole else 0)


def test_operating_points_are_pooled_only_where_all_folds_have_a_threshold(folds):
    first, second = folds
    no_cnn = (second["model"] == "cnn") & (second["split"] == "val") & (second["target"] == 1)
    table = operating_points_of_folds([first, second[~no_cnn]], sensitivity=0.9, **SETTINGS)
    assert table["tp"].dtype == "Int64"
    known = table.groupby(["model", "institution"])["tp"].count()
    assert known["cnn"].to_dict() == {"a": 2, "b": 0, ALL_EXTERNAL: 0}
    assert known["mae"].to_dict() == {"a": 2, "b": 2, ALL_EXTERNAL: 2}
