"""`experiment=compare` by the real command line, of anybody's estimates of a number."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command import Launch, check_needs_nothing_else, launch
from sklearn.metrics import mean_absolute_error, roc_auc_score

from experiments.run import main


def table(model: str, error: float, seed: int, label: str = "lvef_percent") -> pd.DataFrame:
    """One exam a patient at a development and two external institutions."""
    truth = np.random.default_rng(0)
    rows = []
    for name, split, exams in (
        ("home", "val", 60),
        ("north", "external", 200),
        ("south", "external", 160),
    ):
        lvef = np.where(truth.random(exams) < 0.3, 35, 62) + truth.normal(0, 7, exams)
        noise = np.random.default_rng(seed).normal(0, error, exams)
        rows.append(
            pd.DataFrame(
                {
                    "model": model,
                    "label": label,
                    "institution": name,
                    "split": split,
                    "patient_id": [f"{name}-{i}" for i in range(exams)],
                    "exam_id": [f"{name}-e{i}" for i in range(exams)],
                    "truth": lvef.round(),
                    "estimate": 12 + 0.8 * lvef + noise,
                }
            )
        )
    return pd.concat(rows, ignore_index=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("estimates")
    both = [table("cnn", 6.0, 1), table("vit", 4.0, 2)]
    pd.concat(both).to_parquet(folder / "ours.parquet")
    table("cnn", 8.0, 3).iloc[:-20].drop(columns="label").to_csv(folder / "theirs.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def compared(files: Path) -> Launch:
    done = launch(
        files, "experiment=compare",
        f"predictions=[{files}/ours.parquet,{files}/theirs.csv]", "statistics.resamples=50",
        "statistics.report_resamples=20",
    )  # fmt: skip
    assert done.status == 0, done.output + done.errors
    return done


def test_each_model_is_judged_on_its_exams(compared: Launch, files: Path) -> None:
    models = {"cnn from ours", "vit", "cnn from theirs"}
    assert {row["model"] for row in compared.summary} == models
    assert {row["label"] for row in compared.summary} == {"lvef_percent"}
    theirs = pd.read_csv(files / "theirs.csv").query("institution == 'south'")
    (row,) = [
        row
        for row in compared.summary
        if (row["model"], row["institution"]) == ("cnn from theirs", "south")
    ]
    assert row["n"] == 140
    mae = mean_absolute_error(theirs["truth"], theirs["estimate"])
    assert row["mae"] == pytest.approx(mae)
    metrics = compared.client.get_run(compared.run).data.metrics
    assert metrics["test/mae/south/cnn from theirs"] == pytest.approx(mae)
    assert f"{mae:.2f}" in compared.artifact("results_own_exams.csv").read_text()
    assert "Mean absolute error of lvef_percent, %" in compared.output


def test_pairs_are_compared_on_common_exams(compared: Launch) -> None:
    rows = pd.read_json(compared.artifact("comparisons.json"))
    assert len(rows) == 3 * 3
    assert set(rows["method"]) == {"paired t"}
    shown = pd.read_csv(compared.artifact("comparisons.csv"))
    assert set(shown["left out"]) == {0, 20}


def test_the_report_tells_of_estimates_and_of_no_probabilities(
    compared: Launch, files: Path
) -> None:
    html = compared.artifact("report.html").read_text()
    check_needs_nothing_else(html)
    for told in (
        "TRIPOD+AI", "limits of agreement", "Bland-Altman", "lvef_percent &lt; 40",
        "lvef_percent &lt; 50", "Measures are of the 340 exams that all models have.",
    ):  # fmt: skip
        assert told in html, told
    for untold in ("Platt", "Youden", "net benefit", "lvsd"):
        assert untold not in html, untold
    ours = pd.read_parquet(files / "ours.parquet").query("model == 'vit' and split == 'external'")
    ours = ours[~ours["exam_id"].isin([f"south-e{i}" for i in range(140, 160)])]
    aurocs = pd.read_csv(compared.artifact("tables/auroc_below_40.csv"))
    (row,) = aurocs[(aurocs["model"] == "vit") & (aurocs["institution"] == "all-external")].to_dict(
        "records"
    )
    assert row["auroc"] == pytest.approx(roc_auc_score(ours["truth"] < 40, -ours["estimate"]))
    names = {file.path for file in compared.client.list_artifacts(compared.run, "figures")}
    assert {f"figures/{name}.png" for name in ("bland_altman", "calibration", "forest_bias")} <= (
        names
    )


def test_several_labels_have_a_block_each(files: Path, tmp_path: Path) -> None:
    other = table("cnn", 3.0, 4, label="pasp_mmhg").iloc[:-5]
    pd.concat([table("cnn", 6.0, 1), other]).to_csv(tmp_path / "two.csv", index=False)
    done = launch(
        files, "experiment=compare", f"predictions=[{tmp_path}/two.csv]",
        "statistics.truth_thresholds={pasp_mmhg: [45]}", "statistics.resamples=50",
        "statistics.report_resamples=20",
    )  # fmt: skip
    assert done.status == 0, done.output + done.errors
    assert {row["label"] for row in done.summary} == {"lvef_percent", "pasp_mmhg"}
    results = pd.read_csv(done.artifact("results.csv"))
    assert list(results.columns[:2]) == ["label", "institution"]
    html = done.artifact("report.html").read_text()
    for told in ("lvef_percent: bias", "pasp_mmhg: bias", "pasp_mmhg &lt; 45", "macro average"):
        assert (told in html) == (told != "macro average"), told
    tables = {file.path for file in done.client.list_artifacts(done.run, "tables")}
    assert {"tables/results_1_lvef_percent.csv", "tables/results_2_pasp_mmhg.csv"} <= tables


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"truth": "unknown"}, "line 2, truth: 'unknown'; must be a finite number"),
        ({"estimate": None}, "line 2, estimate: empty; must be a finite number"),
        ({"split": "train"}, "line 2, split: 'train'; must be one of val, test, external"),
    ],
)
def test_a_bad_table_is_refused(
    files: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, object],
    expected: str,
) -> None:
    bad = table("vgg", 5.0, 1).astype(object)
    for column, value in changes.items():
        bad.loc[0, column] = value
    bad.to_csv(tmp_path / "bad.csv", index=False)
    assert expected in refused(files, capsys, f"{files}/ours.parquet", f"{tmp_path}/bad.csv")


def test_estimates_and_probabilities_are_not_compared(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = table("vgg", 5.0, 1).drop(columns=["truth", "estimate"])
    classes.assign(target=1, logit=0.0, probability=0.5).to_csv(tmp_path / "p.csv", index=False)
    message = refused(files, capsys, f"{files}/ours.parquet", f"{tmp_path}/p.csv")
    assert "ours.parquet holds estimates of a number (truth, estimate)" in message
    assert "Judge each kind by itself." in message


def refused(folder: Path, capsys: pytest.CaptureFixture[str], *paths: str) -> str:
    arguments = [
        "experiment=compare", f"predictions=[{','.join(paths)}]", f"cache={folder}/cache",
        f"tracking.uri=sqlite:///{folder}/mlflow.db", f"tracking.artifacts={folder}/artifacts",
    ]  # fmt: skip
    assert main(arguments) == 2
    return capsys.readouterr().err
