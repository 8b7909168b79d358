"""Strangers' predictions of several labels, by the real command line: published figures."""

import json
from pathlib import Path

import pandas as pd
import pytest
from command import Launch, launch
from places import REPOSITORY
from sklearn.metrics import roc_auc_score

READERS = REPOSITORY.parent / "shared" / "data" / "readers" / "predictions.csv"
THRESHOLDS = {"1dAVb": 0.124, "RBBB": 0.07, "LBBB": 0.05, "SB": 0.278, "AF": 0.39, "ST": 0.174}
# Ribeiro et al., Nat Commun 2020;11:1760, Table 2: precision, recall, specificity, F1.
PUBLISHED = {
    "1dAVb": (0.867, 0.929, 0.995, 0.897),
    "RBBB": (0.895, 1.000, 0.995, 0.944),
    "LBBB": (1.000, 1.000, 1.000, 1.000),
    "SB": (0.833, 0.938, 0.996, 0.882),
    "AF": (1.000, 0.769, 1.000, 0.870),
    "ST": (0.947, 0.973, 0.997, 0.960),
}

pytestmark = pytest.mark.skipif(
    not READERS.is_file(), reason="needs the published predictions of CODE-test (../shared/data)"
)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Launch:
    folder = tmp_path_factory.mktemp("readers")
    table = pd.read_csv(READERS, dtype=str)
    table[table["model"].isin(["model_1", "model_2"])].to_csv(folder / "two.csv", index=False)
    given = ",".join(f"{label}:{threshold}" for label, threshold in THRESHOLDS.items())
    done = launch(
        folder, "experiment=compare", f"predictions=[{folder}/two.csv]",
        f"statistics.thresholds={{{given}}}", "statistics.resamples=50",
        "statistics.report_resamples=20", "statistics.label_sections=1",
    )  # fmt: skip
    assert done.status == 0, done.output + done.errors
    return done


def of_model(compared: Launch, name: str) -> pd.DataFrame:
    table = pd.read_csv(compared.artifact(f"tables/{name}.csv"))
    return table[table["model"] == "model_1"]


def test_the_published_operating_points_come_out(compared: Launch) -> None:
    points = of_model(compared, "operating_points").set_index("label")
    assert set(points["operating_point"]) == {"given"}
    for label, figures in PUBLISHED.items():
        row = points.loc[label, ["ppv", "sensitivity", "specificity", "f1"]]
        assert row.tolist() == pytest.approx(figures, abs=0.0005)


def test_aurocs_and_their_macro_average_are_scikit_learns(compared: Launch) -> None:
    table = pd.read_csv(READERS)
    rows = table[table["model"] == "model_1"]
    aurocs = {
        str(label): float(roc_auc_score(of["target"], of["probability"]))
        for label, of in rows.groupby("label")
    }
    found = {
        row["label"]: row["auroc"]
        for row in json.loads(compared.artifact("summary.json").read_text())
        if row["model"] == "model_1"
    }
    assert found.pop("macro average") == pytest.approx(sum(aurocs.values()) / 6, abs=1e-12)
    assert found == pytest.approx(aurocs, abs=1e-12)
    assert found["AF"] == pytest.approx(0.997165, abs=1e-6)


def test_the_published_micro_average_precision_comes_out(compared: Launch) -> None:
    (row,) = of_model(compared, "macro_measures").to_dict(orient="records")
    assert row["micro_average_precision"] == pytest.approx(0.953809, abs=5e-7)


def test_the_report_names_the_labels_of_the_table(compared: Launch) -> None:
    report = Path(compared.artifact("report.html")).read_text()
    assert "<h1>1dAVb, RBBB, LBBB, SB, AF and ST: compare</h1>" in report
    assert "the macro average AUROC of model_1 over 6 labels is 0.998" in report
    assert "outcome" not in report.split("TRIPOD+AI checklist")[0]
