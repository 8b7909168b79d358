"""`experiment=reader_study` with a table of readings, by the real command line."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command import check_needs_nothing_else, launch
from scipy.stats import ttest_rel


def test_real_readings_from_a_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(40) < 0.5
    rows = []
    for reader in "abcd":
        for arm, skill in (("without", 0.6), ("with", 0.8)):
            right = rng.random(40) < skill
            rows += [
                {"reader": reader, "case": f"c{i}", "arm": arm,
                 "reading": int(truth[i] == right[i]), "truth": int(truth[i])}
                for i in range(40)
            ]  # fmt: skip
    table = pd.DataFrame(rows)
    table.to_csv(tmp_path / "readings.csv", index=False)
    done = launch(tmp_path, "experiment=reader_study", f"readers.table={tmp_path}/readings.csv")
    assert done.status == 0, done.output + done.errors
    assert "SIMULATED" not in done.output
    paired = pd.read_csv(done.artifact("readers/paired.csv")).set_index("metric")
    table["right"] = table["reading"] == table["truth"]
    accuracy = table.groupby(["reader", "arm"])["right"].mean().unstack()
    expected = ttest_rel(accuracy["with"], accuracy["without"])
    assert paired.loc["accuracy", "p"] == pytest.approx(expected.pvalue)
    assert paired.loc["accuracy", "t"] == pytest.approx(expected.statistic)
    html = done.artifact("report.html").read_text()
    check_needs_nothing_else(html)
    assert "SIMULATED" not in html
    assert hashlib.sha256((tmp_path / "readings.csv").read_bytes()).hexdigest() in html
    # It is of study B's target and networks only if a person says so.
    run = done.client.get_run(done.run)
    assert (run.info.run_name, run.data.params["target"]) == ("reader_study", "outcome")
    titles = ["What was asked", "Reader study", "Limits", "How to repeat it"]
    assert re.findall(r"<h2>\d+\. (.*)</h2>", html) == titles
    means = 100 * accuracy.mean()
    for told in (
        "4 readers judged 40 cases",
        f"was {means['without']:.1f} % without and {means['with']:.1f} % with the model",
        f"p = {expected.pvalue:.3f}" if expected.pvalue >= 0.001 else "p &lt; 0.001",
        "readings.csv, kept as readers/readings.csv",
        "a reading of 0.5 or more",
        "AUROC not estimable, as the answers are yes or no.",
        "python -m experiments.run experiment=reader_study",
        "Version of statsmodels",
    ):
        assert told in html
    names = {path.name for path in done.artifact("tables").iterdir()}
    for name in ("results", "each", "paired", "mrmc", "gee", "sample_size"):
        assert {f"readers_{name}.csv", f"readers_{name}.tex"} <= names
    assert r"\toprule" in (done.artifact("tables") / "readers_results.tex").read_text()
    assert (done.artifact("figures") / "readers.png").is_file()
    table.iloc[:-1].to_csv(tmp_path / "torn.csv", index=False)
    refused = launch(tmp_path, "experiment=reader_study", f"readers.table={tmp_path}/torn.csv")
    assert refused.status == 2
    assert "c39" in refused.errors
