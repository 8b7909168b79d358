"""`splits.column`: hospitals that say themselves who is trained on."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb

from datamodules.errors import InputError
from datamodules.recordings import LEADS
from experiments.config import compose_config
from experiments.plan import plan_of
from experiments.stages.cohort import check_cohort, prepare
from experiments.stages.exams import Site

FOLDS = ["test", "val", "train", "train", "val", "train", "test", "train"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """alpha, whose column `fold` has splits, and beta without; every second exam is positive."""
    for name in ("alpha", "beta"):
        rng = np.random.default_rng(len(name))
        for i in range(len(FOLDS)):
            wfdb.wrsamp(
                f"{name}{i}", 100, ["mV"] * 12, list(LEADS), rng.normal(size=(1000, 12)) * 0.3,
                fmt=["16"] * 12, adc_gain=[1000.0] * 12, baseline=[0] * 12, write_dir=str(tmp_path),
            )  # fmt: skip
        rows = [
            {
                "patient_id": f"{name}-{i}",
                "exam_id": f"{name}-e{i}",
                "ecg_path": f"{name}{i}.hea",
                "sick": i % 2,
                "fold": fold,
            }
            for i, fold in enumerate(FOLDS)
        ]
        table = pd.DataFrame(rows)
        (table if name == "alpha" else table.drop(columns="fold")).to_csv(
            tmp_path / f"{name}.csv", index=False
        )
    return tmp_path


def prepared(root: Path, *overrides: str) -> dict[str, Site]:
    config = compose_config(
        [
            "cohort=manifests", f"cohort.root={root}", "cohort.development=[alpha]", "target=sick",
            f"cache={root}/cache", "workers=1", "splits.column=fold", "~models.pretrained",
            "~models.scratch", *overrides,
        ]
    )  # fmt: skip
    question = plan_of(config).question
    sites = prepare(config, question)
    if config.splits.column is None:
        return sites
    external = [site for name, site in sites.items() if name != "alpha"]
    check_cohort(config, question, [sites["alpha"]], external)
    return sites


def edit(root: Path, line: int, **cells: object) -> None:
    table = pd.read_csv(root / "alpha.csv", dtype="str")
    for column, value in cells.items():
        table.loc[line - 2, column] = value
    table.to_csv(root / "alpha.csv", index=False)


def test_the_column_is_followed_and_external_institutions_need_none(root: Path) -> None:
    sites = prepared(root)
    assert sites["alpha"].exams["split"].tolist() == FOLDS
    by_hash = prepared(root, "splits.column=null")
    assert by_hash["alpha"].exams["split"].tolist() != FOLDS


@pytest.mark.parametrize(
    ("line", "cells", "expected"),
    [
        (3, {"fold": "validation"}, "line 3, column fold: 'validation' is not a split"),
        (4, {"fold": None}, "line 4, column fold: it is empty"),
        (3, {"patient_id": "alpha-0"}, "patient 'alpha-0': test and val"),
    ],
)
def test_a_bad_row(root: Path, line: int, cells: dict[str, object], expected: str) -> None:
    edit(root, line, **cells)
    with pytest.raises(InputError) as caught:
        prepared(root)
    assert expected in str(caught.value)
    if "fold" in cells:
        assert "alpha.csv: every exam needs a split" in str(caught.value)


def test_a_column_that_is_not_there_and_nobody_to_test_on(root: Path) -> None:
    with pytest.raises(
        InputError, match=r"splits\.column=flod: .*alpha\.csv has no such column\. Did"
    ):
        prepared(root, "splits.column=flod")
    for line in (2, 8):
        edit(root, line, fold="train")
    with pytest.raises(
        InputError, match="give development exams the split test in the column fold"
    ):
        prepared(root, "cohort.external=[]")
