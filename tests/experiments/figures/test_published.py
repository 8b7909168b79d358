"""Published results beside a study's own."""

from dataclasses import replace

import numpy as np
import pandas as pd

from experiments.evaluation.analysis import Aurocs
from experiments.evaluation.predictions import DEVELOPMENT
from experiments.figures.html import Paragraph
from experiments.figures.published import OURS, published
from experiments.figures.study import Cohort, Study
from experiments.figures.tables import Table

EMPTY = pd.DataFrame()
SUMMARY = pd.DataFrame(
    {
        "institution": "ptbxl",
        "role": DEVELOPMENT,
        "model": ["cnn", "vit", "none"],
        "auroc": [0.9, 0.91234, np.nan],
        "auroc_low": [0.88, 0.9, np.nan],
        "auroc_high": [0.92, 0.93, np.nan],
    }
)
PUBLISHED = pd.DataFrame({"model": ["xresnet"], "auroc": [0.928], "source": ["Somebody 2021"]})
STUDY = Study("ptbxl", "5 labels", published=PUBLISHED)
FOUND = Aurocs("norm", EMPTY, SUMMARY, None, EMPTY)


def test_ours_with_intervals_above_theirs_with_sources() -> None:
    (table,) = published(FOUND, STUDY)
    assert isinstance(table, Table)
    assert table.shown.to_numpy().tolist() == [
        ["vit", "0.912 (0.900-0.930)", OURS],
        ["cnn", "0.900 (0.880-0.920)", OURS],
        ["none", "not estimable", OURS],
        ["xresnet", "0.928", "Somebody 2021"],
    ]
    assert "xresnet,0.928,,,Somebody 2021" in table.files()["published.csv"]


def test_of_an_excerpt_the_table_says_so_first() -> None:
    cohort = Cohort(EMPTY, EMPTY, EMPTY, {}, excerpt="5 of 10 records.")
    warning, _ = published(FOUND, replace(STUDY, cohort=cohort))
    assert warning == Paragraph("5 of 10 records.", strong=True)


def test_nothing_was_published() -> None:
    assert published(FOUND, replace(STUDY, published=None)) == []
