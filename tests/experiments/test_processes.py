"""Which process this is: strays in the environment, and launchers that started several."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command import TINY, TINY_COHORT, launch

from experiments.processes import rank_in_environment

LAUNCHERS = {
    "SLURM_PROCID": "SLURM_NTASKS",
    "RANK": "WORLD_SIZE",
    "JSM_NAMESPACE_RANK": "JSM_NAMESPACE_SIZE",
}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*LAUNCHERS, *LAUNCHERS.values(), "LOCAL_RANK", "NODE_RANK", "GROUP_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("rank", LAUNCHERS)
def test_a_rank_without_several_processes_is_a_stray(
    monkeypatch: pytest.MonkeyPatch, rank: str
) -> None:
    monkeypatch.setenv(rank, "1")
    assert rank_in_environment() == (0, 1, "")
    monkeypatch.setenv(LAUNCHERS[rank], "1")
    assert rank_in_environment()[:2] == (0, 1)
    monkeypatch.setenv(LAUNCHERS[rank], "2")
    assert rank_in_environment() == (1, 2, f"{rank}=1, {LAUNCHERS[rank]}=2")


@pytest.mark.parametrize(
    ("variables", "rank", "world"),
    [
        ({"WORLD_SIZE": "2", "LOCAL_RANK": "1"}, 1, 2),
        ({"WORLD_SIZE": "4", "NODE_RANK": "1", "LOCAL_RANK": "0"}, 1, 4),
        ({"WORLD_SIZE": "4", "GROUP_RANK": "1"}, 1, 4),
        ({"LOCAL_RANK": "1"}, 0, 1),
        ({"WORLD_SIZE": "2", "LOCAL_RANK": "0"}, 0, 2),
    ],
)
def test_the_processes_that_lightning_starts(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], rank: int, world: int
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert rank_in_environment()[:2] == (rank, world)


TRAINING = (
    *TINY_COHORT,
    *TINY,
    "cohort.development=[quillhaven]",
    "cohort.external=[brindlefen]",
    "~models.pretrained",
    "~models.scratch",
)


def test_a_training_beside_a_stray_is_tracked_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_PROCID", "1")
    done = launch(tmp_path, f"cohort.root={tmp_path}/cohort", *TRAINING)
    assert done.status == 0, done.output + done.errors
    assert set(done.predictions["model"]) == {"cnn"}
    (run,) = [run for run in done.children if run.data.tags["stage"] == "finetune"]
    assert {"val/auroc", "threshold"} <= run.data.metrics.keys()
    # A lone process of several that a launcher says there are trains nothing, and says why.
    monkeypatch.setenv("SLURM_NTASKS", "2")
    refused = launch(tmp_path, f"cohort.root={tmp_path}/cohort", *TRAINING)
    assert (refused.status, refused.output) == (2, "")
    (told,) = refused.errors.splitlines()
    assert told.startswith("error: ")
    assert "SLURM_PROCID=1, SLURM_NTASKS=2" in told


def test_a_comparison_beside_a_stray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "model": "cnn",
            "institution": "north",
            "split": "external",
            "patient_id": [f"p{i}" for i in range(60)],
            "exam_id": [f"e{i}" for i in range(60)],
            "target": np.arange(60) % 2,
            "probability": rng.random(60),
        }
    )
    table.to_csv(tmp_path / "one.csv", index=False)
    given = ["experiment=compare", f"predictions=[{tmp_path}/one.csv]", "statistics.resamples=20",
             "statistics.report_resamples=20"]  # fmt: skip
    monkeypatch.setenv("SLURM_PROCID", "1")
    done = launch(tmp_path, *given)
    assert done.status == 0, done.output + done.errors
    assert done.run
    assert done.predictions["exam_id"].nunique() == 60
    monkeypatch.setenv("SLURM_NTASKS", "2")
    idle = launch(tmp_path, *given)
    assert (idle.status, idle.output) == (0, "")
    (told,) = idle.errors.splitlines()
    assert "SLURM_PROCID=1, SLURM_NTASKS=2" in told
