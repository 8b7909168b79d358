"""`experiment=ptbxl` by the real command line: a folder of noise, and the real excerpt."""

import math
import re
from pathlib import Path

import pandas as pd
import pytest
from command import TINY, launch

from datamodules.simulation.ptbxl import write_ptbxl
from experiments.config import compose_config
from experiments.stages.cohort import with_labels
from experiments.stages.describe import published_for

SUPERCLASSES = ["norm", "mi", "sttc", "cd", "hyp"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("ptbxl")
    write_ptbxl(place / "noise", records=300, sampling_rates_hz=(100, 500))
    return place


def study(root: Path, *overrides: str) -> list[str]:
    return ["experiment=ptbxl", f"cohort.root={root}", *overrides]


def test_settings_say_what_is_asked_and_what_was_published(place: Path) -> None:
    asked = compose_config(study(place / "noise", "cohort.sampling_rate_hz=500"))
    assert asked.ecg.sampling_rate_hz == 500
    config = with_labels(asked)
    assert config.target == SUPERCLASSES
    table = published_for(config)
    assert table is not None
    # The leaderboard of Strodthoff et al. 2021 at github.com/helme/ecg_ptbxl_benchmarking
    of_2021 = table[table["source"].str.startswith("Strodthoff")].set_index("model")["auroc"]
    assert of_2021.to_dict() == {
        "resnet1d_wang": 0.930, "xresnet1d101": 0.928, "lstm": 0.927, "fcn_wang": 0.925,
        "inception1d": 0.921, "lstm_bidir": 0.921, "Wavelet+NN": 0.874,
    }  # fmt: skip
    sets = {of.target for of in config.published}
    assert sets == {"superclasses", "subclasses", "diagnostic", "form", "rhythm", "all"}
    alone = with_labels(compose_config(study(place / "noise", "target=[norm,mi]")))
    assert published_for(alone) is None


def test_one_superclass_of_the_folder_of_noise(place: Path) -> None:
    done = launch(place, *study(place / "noise", "target=[norm]"), *TINY)
    assert done.status == 0, done.output + done.errors
    table = done.predictions
    raw = pd.read_csv(place / "noise" / "ptbxl_database.csv")
    folds = {"val": 9, "test": 10}
    for split, rows in table[table["model"] == "cnn"].groupby("split"):
        of_fold = raw[raw["strat_fold"] == folds[split]]
        assert set(rows["exam_id"]) <= {f"ptbxl-{n:05d}" for n in of_fold["ecg_id"]}
    assert "300 of PTB-XL's 21,799 records, an excerpt" in done.output
    report = done.artifact("report.html").read_text()
    assert "folds 1 to 8 train, 9 validation, 10 internal test" in report
    assert re.search("<strong>EXCERPT</strong> 300 of PTB-XL.{1,5}s 21,799 records", report)
    tags = done.client.get_run(done.run).data.tags
    assert tags["excerpt.ptbxl"].startswith("300 of")


@pytest.mark.parametrize(("rate", "without"), [(100, "scratch"), (500, "pretrained")])
def test_the_superclasses_of_the_excerpt(
    place: Path, real_data: Path, rate: int, without: str
) -> None:
    done = launch(
        place, *study(real_data / "ptbxl", f"cohort.sampling_rate_hz={rate}"), *TINY,
        f"~models.{without}",
    )  # fmt: skip
    assert done.status == 0, done.output + done.errors
    table = done.predictions
    assert sorted(table["label"].unique()) == sorted(SUPERCLASSES)
    raw = pd.read_csv(real_data / "ptbxl" / "ptbxl_database.csv").set_index("ecg_id")
    exams = table["exam_id"].str.removeprefix("ptbxl-").astype(int)
    assert set(raw.loc[exams, "strat_fold"]) == {9, 10}
    assert (table["split"] == raw.loc[exams, "strat_fold"].map({9: "val", 10: "test"}).values).all()
    assert "500 of PTB-XL's 21,799 records, an excerpt" in done.output
    report = done.artifact("report.html").read_text()
    assert "xresnet1d101" in report
    published = pd.read_csv(done.artifact("tables/published.csv"))
    assert {"cnn", "xresnet1d101", "S4"} <= set(published["model"])
    ours = published[published["source"] == "this study"]
    assert all(math.isfinite(value) for value in ours["auroc"])


def test_a_sets_labels_without_positives_are_left_out_and_said(
    place: Path, real_data: Path
) -> None:
    done = launch(
        place, *study(real_data / "ptbxl", "target=all"), *TINY, "~models.scratch",
        "~models.pretrained",
    )  # fmt: skip
    assert done.status == 0, done.output + done.errors
    assert "having no positive exam in the training folds: ilmi, injas" in done.output
    report = done.artifact("report.html").read_text()
    assert "having no positive exam in the training folds: ilmi, injas" in report
    assert done.predictions["label"].nunique() == 50


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["target=superclas"], "target=superclas: PTB-XL has no such label. Did you mean"),
        (["cohort.sampling_rate_hz=250"], "cohort.sampling_rate_hz=250: PTB-XL has its records at"),
        (["cohort.root=nowhere"], "nowhere: there is no such folder. Set cohort.root to PTB-XL"),
    ],
)
def test_mistakes(place: Path, overrides: list[str], expected: str) -> None:
    done = launch(place, *study(place / "noise", *overrides), *TINY)
    assert done.status == 2
    assert expected in done.errors
    assert "Traceback" not in done.errors
