"""One table in three forms."""

import io
import re

import numpy as np
import pandas as pd

from experiments.figures.tables import Table

SHOWN = pd.DataFrame(
    {
        "model_name": ["pretrained", "50 % & {more}"],
        "AUROC": ["0.912 (0.880-0.944)", "not estimable"],
        "p": ["p < 0.001", np.nan],
        "what": ["text", "1"],
    }
)


def test_csv_holds_values_where_there_are_any():
    values = pd.DataFrame({"auroc": [0.9123456, np.nan]})
    files = Table("results", "AUROC", SHOWN, values).files()
    assert set(files) == {"results.csv", "results.tex"}
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(files["results.csv"])), values)
    shown = pd.read_csv(io.StringIO(Table("results", "AUROC", SHOWN).files()["results.csv"]))
    pd.testing.assert_frame_equal(shown, SHOWN)


def test_latex_is_escaped_and_has_booktabs():
    text = Table("results", "100 % of $ & _", SHOWN).latex()
    assert r"\caption{100 \% of \$ \& \_}" in text
    assert r"\label{tab:results}" in text
    assert all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
    assert r"model\_name" in text
    assert r"50 \% \& \{more\}" in text
    assert r"p \textless{} 0.001" in text
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert all(len(re.findall(r"(?<!\\)&", line)) == 3 for line in body)


def test_numbers_stand_right_and_names_left():
    table = Table("results", "", SHOWN)
    assert table.right_aligned == [False, True, True, False]
    assert table.rows[1] == ["50 % & {more}", "not estimable", "", "1"]
