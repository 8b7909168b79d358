"""`experiment=reader_study` by the real command line."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command import TINY_PH, TINY_PH_COHORT, launch
from scipy.stats import ttest_rel


def check_needs_nothing_else(html: str) -> None:
    """No script, no address of the network."""
    assert "<script" not in html
    assert not re.search(r"url\(|@import|https?:", html)
    assert all(source.startswith("data:image/") for source in re.findall(r'src="([^"]*)"', html))


def test_simulated_readers_say_so_everywhere(tmp_path: Path) -> None:
    done = launch(
        tmp_path, "experiment=reader_study", f"cohort.root={tmp_path}/cohort",
        *TINY_PH_COHORT, *TINY_PH, "readers.simulated.readers=4", "readers.simulated.cases=30",
        "readers.simulated.accuracy_with=0.66", "readers.planned=[5]",
    )  # fmt: skip
    assert done.status == 0, done.output + done.errors
    assert "SIMULATED READERS" in done.output
    (run,) = [run for run in done.children if run.data.tags["stage"] == "readers"]
    assert "simulated" in run.info.run_name
    assert run.data.tags["simulated_readers"] == "true"
    assert run.data.tags["mlflow.note.content"].startswith("**SIMULATED READERS")
    folder = Path(done.client.download_artifacts(run.info.run_id, "readers_simulated"))
    readings = pd.read_csv(folder / "readings.csv")
    assert readings["reader"].str.startswith("simulated reader").all()
    assert len(readings) == 4 * 30 * 2
    recovery = pd.read_csv(folder / "recovery.csv").set_index("metric")
    assert recovery.loc["accuracy", "true_with"] == pytest.approx(0.66, abs=0.01)
    assert (recovery["recovered"].notna()).any()
    # The launch's report shows them, and says what they are.
    html = done.artifact("report.html").read_text()
    check_needs_nothing_else(html)
    section = html.partition(">Reader study</a>")[2].partition(". Reader study</h2>")[2]
    assert "SIMULATED READERS" in html.partition("</header>")[0]
    assert section.lstrip().startswith('<p class="strong">SIMULATED READERS: no doctor read these')
    truth = (recovery["recovered"].dropna()).astype(bool)
    assert f"over readers and cases, for {truth.sum()} of {len(truth)} measure" in section
    assert 'id="figure-readers_simulated"' in section
    names = {path.name for path in done.artifact("tables").iterdir()}
    assert {"results.tex", "readers_simulated_results.tex", "readers_simulated_mrmc.csv"} <= names
    assert not any(re.match("readers_(?!simulated)", name) for name in names)
    assert (done.artifact("figures") / "readers_simulated.png").is_file()
    # The study's own results stand on the launch as ever.
    assert {row["model"] for row in done.summary} >= {"ph_fusion", "ph_ecg"}


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
