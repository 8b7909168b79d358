"""Studies over seeds: means, deviations and differences paired over seeds."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_rel

from experiments.evaluation.predictions import ALL_EXTERNAL
from experiments.evaluation.repeats import (
    POOLED,
    RANDOM_EFFECTS,
    differences,
    external_aurocs,
    over_seeds,
)

RNG = np.random.default_rng(0)
SEEDS = [1, 2, 3, 4, 5]
AUROCS = {(labels, model): RNG.uniform(0.6, 0.9, 5) for labels in "25" for model in ("a", "b")}


def results(aurocs: dict[tuple[str, str], np.ndarray]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"labels": labels, "seed": seed, "label": "y", "measure": POOLED}
            | {"model": model, "auroc": auroc}
            for (labels, model), of in aurocs.items()
            for seed, auroc in zip(SEEDS, of, strict=True)
        ]
    )


def test_mean_and_deviation_over_seeds() -> None:
    table = over_seeds(results(AUROCS), ["labels"]).set_index(["labels", "model"])
    for arm, of in AUROCS.items():
        assert table.loc[arm, "mean"] == pytest.approx(of.mean())
        assert table.loc[arm, "sd"] == pytest.approx(np.std(of, ddof=1))
        assert table.loc[arm, ["seeds", "lowest", "highest"]].tolist() == [5, of.min(), of.max()]


def test_differences_are_a_paired_t_tests() -> None:
    table = differences(results(AUROCS), ["labels"], confidence=0.95)
    told = [tuple(row) for row in table[["among", "of", "over"]].itertuples(index=False)]
    assert told == [
        ("labels 2", "a", "b"),
        ("model a", "5", "2"),
        ("model b", "5", "2"),
        ("labels 5", "a", "b"),
    ]
    pairs = [(("2", "a"), ("2", "b")), (("5", "a"), ("2", "a"))]
    for row, (one, other) in zip(table.to_dict(orient="records"), pairs, strict=False):
        expected = ttest_rel(AUROCS[one], AUROCS[other]).confidence_interval(0.95)
        assert (row["low"], row["high"]) == pytest.approx(tuple(expected))
        assert row["difference"] == pytest.approx((AUROCS[one] - AUROCS[other]).mean())
        assert row["wins"] == (AUROCS[one] > AUROCS[other]).sum()


def test_only_seeds_of_both_are_paired_and_what_never_differs_is_left_out() -> None:
    table = results(AUROCS)
    short = table[~((table["labels"] == "5") & (table["seed"] == 3))]
    assert differences(short, ["labels"], confidence=0.95)["seeds"].tolist() == [5, 4, 4, 4]
    same = results({("2", "a"): AUROCS["2", "a"], ("5", "a"): AUROCS["2", "a"]})
    assert differences(same, ["labels"], confidence=0.95).empty
    single = table[table["seed"] == 1]
    assert differences(single, ["labels"], confidence=0.95)["low"].isna().all()
    assert over_seeds(single, ["labels"])["sd"].isna().all()


def test_external_results_of_a_study() -> None:
    rows = [
        {"label": "y", "model": "a", "institution": name, "role": role, "auroc": auroc}
        | {"auroc_low": auroc - 0.05, "auroc_high": auroc + 0.05}
        | {"n": 100, "positives": 30, "auroc_se": 0.03}
        for name, role, auroc in [
            ("home", "development", 0.95),
            ("one", "external", 0.8),
            ("two", "external", 0.7),
        ]
    ]
    together = {**rows[1], "institution": ALL_EXTERNAL, "auroc": 0.74}
    alone = external_aurocs(pd.DataFrame(rows[:2]), confidence=0.95)
    assert alone[["measure", "auroc"]].to_numpy().tolist() == [[POOLED, 0.8]]
    both = external_aurocs(pd.DataFrame([*rows, together]), confidence=0.95)
    found = both.set_index("measure")["auroc"]
    assert found[POOLED] == 0.74
    assert 0.7 < found[RANDOM_EFFECTS] < 0.8
