"""`experiment=compare` by the real command line: anybody's predictions, judged alike."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command import Launch, launch
from sklearn.metrics import roc_auc_score

from experiments.run import main


def table(model: str, skill: float, seed: int) -> pd.DataFrame:
    """One exam a patient at a development and two external institutions."""
    truth = np.random.default_rng(0)
    rows = []
    for name, split, exams in (
        ("home", "val", 150),
        ("north", "external", 200),
        ("south", "external", 160),
    ):
        target = truth.random(exams) < 0.3
        score = skill * target + np.random.default_rng(seed).normal(size=exams)
        rows.append(
            pd.DataFrame(
                {
                    "model": model,
                    "institution": name,
                    "split": split,
                    "patient_id": [f"{name}-{i}" for i in range(exams)],
                    "exam_id": [f"{name}-e{i}" for i in range(exams)],
                    "target": target.astype(int),
                    "logit": score - 1,
                    "probability": 1 / (1 + np.exp(1 - score)),
                }
            )
        )
    return pd.concat(rows, ignore_index=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predictions")
    both = [table("cnn", 1.0, 1), table("vit", 1.6, 2)]
    pd.concat(both).to_parquet(folder / "ours.parquet")
    table("cnn", 0.6, 3).iloc[:-20].to_csv(folder / "theirs.csv", index=False)
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
    theirs = pd.read_csv(files / "theirs.csv").query("institution == 'south'")
    (row,) = [
        row
        for row in compared.summary
        if (row["model"], row["institution"]) == ("cnn from theirs", "south")
    ]
    assert row["n"] == 140
    assert row["auroc"] == pytest.approx(roc_auc_score(theirs["target"], theirs["logit"]))


def test_the_report_stands_on_the_launch(compared: Launch, files: Path) -> None:
    report = compared.artifact("report.html").read_text()
    assert "TRIPOD+AI" in report
    assert "<script" not in report
    assert not re.search(r"(src|href)=.(https?:)?//", report)
    assert len(report) < 5e6
    # Nothing is known of a target in handed-in data, and much of the data themselves.
    assert "Positive where" not in report
    digest = hashlib.sha256((files / "theirs.csv").read_bytes()).hexdigest()
    assert digest in report


def test_measures_side_by_side_are_of_exams_that_all_models_have(compared: Launch) -> None:
    report = compared.artifact("report.html").read_text()
    told = "Measures are of the 340 exams that all models have. Alone, they have cnn from ours 360,"
    assert told in report
    for name in ("operating_points", "calibration", "results"):
        counts = pd.read_csv(compared.artifact(f"tables/{name}.csv")).groupby("institution")["n"]
        assert counts.unique().map(list).to_dict() == (
            {"north": [200], "south": [140], "all-external": [340]}
        )
    own = pd.read_csv(compared.artifact("tables/results_own_exams.csv"))
    assert set(own.loc[own["institution"] == "south", "n"]) == {140, 160}
    assert compared.artifact("tables/results.tex").read_text().startswith("\\begin")


def test_a_pair_is_compared_on_common_exams_and_says_how_many_were_left_out(
    compared: Launch,
) -> None:
    comparisons = pd.read_csv(compared.artifact("comparisons.csv"))
    south = comparisons[comparisons["institution"] == "south"].set_index("models")
    (row,) = [r for pair, r in south.iterrows() if {"vit", "theirs"} <= set(str(pair).split())]
    assert (row["exams"], row["left out"]) == (140, 20)
    rows = pd.read_json(compared.artifact("comparisons.json"))
    assert len(rows) == 3 * 3
    assert set(rows["method"]) == {"DeLong"}


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("probability", 1.2, "must be a number from 0 to 1"),
        ("probability", None, "must be a number from 0 to 1"),
        ("target", None, "must be 0 or 1"),
        ("exam_id", "home-e1", "more than once"),
        ("institution", "all-external", "all external institutions together"),
        ("split", "train", "must be one of"),
    ],
)
def test_a_bad_table_is_refused(
    files: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    column: str,
    value: object,
    expected: str,
) -> None:
    bad = table("cnn", 1.0, 1)
    bad[column] = bad[column].astype(object)
    bad.loc[0, column] = value
    bad.to_csv(tmp_path / "bad.csv", index=False)
    message = refused(files, capsys, f"{files}/ours.parquet", f"{tmp_path}/bad.csv")
    assert expected in message
    assert "bad.csv" in message
    # Of two rows for one exam it is the second that is too many.
    assert ("line 3" if column == "exam_id" else "line 2") in message


def test_two_truths_for_one_exam_are_refused(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = table("other", 1.0, 1)
    row = other.index[other["exam_id"] == "north-e5"]
    other.loc[row, "target"] = 1 - other.loc[row, "target"]
    other.to_csv(tmp_path / "other.csv", index=False)
    message = refused(files, capsys, f"{files}/ours.parquet", f"{tmp_path}/other.csv")
    assert "north-e5" in message


def test_the_predictions_on_the_launch_have_a_label(compared: Launch) -> None:
    predictions = pd.read_parquet(compared.artifact("predictions.parquet"))
    assert list(predictions.columns[:3]) == ["model", "label", "institution"]
    assert predictions["label"].nunique() == 1


def test_subgroups_need_manifests(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(files, capsys, f"{files}/ours.parquet", options=["statistics.subgroups=[x]"])
    assert "predictions that are handed in come without" in message


def refused(
    files: Path, capsys: pytest.CaptureFixture[str], *predictions: str, options: Sequence[str] = ()
) -> str:
    """The one message of a launch in this process on these files."""
    capsys.readouterr()
    status = main(
        ["experiment=compare", f"predictions=[{','.join(predictions)}]",
         f"tracking.uri=sqlite:///{files}/mlflow.db", f"tracking.artifacts={files}/artifacts",
         "statistics.resamples=50", "statistics.report_resamples=20", *options]
    )  # fmt: skip
    shown = capsys.readouterr().err
    assert status == 2, shown
    assert shown.count("error: ") == 1
    return shown[shown.find("error: ") :]
