"""What is reused and what is not, by the real command line."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command import TINY, TINY_COHORT, Launch, launch
from places import REPOSITORY

SETTINGS = (
    *TINY_COHORT,
    *TINY,
    "cohort.development=[quillhaven]",
    "cohort.external=[brindlefen]",
)
VITS = ["pretrained", "scratch"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reuse")


@pytest.fixture(scope="module")
def first(place: Path) -> Launch:
    done = launch(place, f"cohort.root={place}/cohort", *SETTINGS)
    assert done.status == 0, done.output + done.errors
    return done


def logits(done: Launch, model: str) -> np.ndarray[Any, Any]:
    return done.predictions.query("model == @model")["logit"].to_numpy()


def test_another_patch_is_another_vit_and_the_same_cnn(first: Launch, place: Path) -> None:
    other = launch(place, f"cohort.root={place}/cohort", *SETTINGS, "tokens.patch_samples=50")
    assert other.status == 0, other.output + other.errors
    told = [line.partition(":")[0] for line in other.output.splitlines() if ": reused" in line]
    assert set(told) & {"pretrain", *VITS, "cnn"} == {"cnn"}
    for model in VITS:
        assert not np.allclose(logits(first, model), logits(other, model), atol=1e-3)
    np.testing.assert_array_equal(logits(first, "cnn"), logits(other, "cnn"))


def test_a_new_server_is_shown_what_another_was(first: Launch, place: Path) -> None:
    second = launch(
        place / "elsewhere",
        f"cohort.root={place}/cohort",
        *SETTINGS,
        "~models.scratch",
        "~models.cnn",
        cache=place / "cache",
    )
    assert second.status == 0, second.output + second.errors
    assert "pretrained: reused" in second.output
    assert second.uri != first.uri
    runs = {run.data.tags["stage"]: run for run in second.children}
    assert set(runs) == {"pretrain", "finetune", "test"}
    parent = second.client.get_run(second.run).data.tags
    assert parent["model.pretrained"] == runs["finetune"].info.run_id
    assert parent["reused.pretrained"] == runs["finetune"].info.run_id
    begun = {run.data.tags["stage"]: run for run in first.children if run.data.tags.get("model") in
             ("pretrained", None)}  # fmt: skip
    for stage in ("pretrain", "finetune"):
        assert runs[stage].data.params == begun[stage].data.params
        final = {name for name in begun[stage].data.metrics if name.startswith("val/")}
        assert final & runs[stage].data.metrics.keys()
        files = second.client.list_artifacts(runs[stage].info.run_id, "checkpoint")
        assert {file.path for file in files} >= {"checkpoint/model.ckpt", "checkpoint/MLmodel"}
    assert runs["finetune"].data.metrics["threshold"] > 0
    (simulated,) = (place / "cohort").glob("*/")
    answer = subprocess.run(
        [
            *(sys.executable, "-m", "experiments.predict", f"model={second.run}"),
            f"tracking.uri={second.uri}",
            f"manifest={simulated}/brindlefen.csv",
            "format=csv",
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    (folder := place / "answer.csv").write_text(answer.stdout)
    given = pd.read_csv(folder).set_index("exam_id")["probability"]
    tested = first.predictions.query("model == 'pretrained' and institution == 'brindlefen'")
    tested = tested.set_index("exam_id")["probability"]
    assert (given[tested.index] - tested).abs().max() < 1e-5


@pytest.mark.slow
def test_two_launches_of_two_processes_share_a_stage(first: Launch, place: Path) -> None:
    command = [
        *(sys.executable, "-m", "experiments.run", f"cohort.root={place}/cohort", *SETTINGS),
        *("trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu"),
        f"cache={place}/shared",
    ]
    both = []
    for name in ("one", "other"):
        uri = f"sqlite:///{place}/{name}.db"
        process = subprocess.Popen(
            [*command, f"tracking.uri={uri}", f"tracking.artifacts={place}/{name}"],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        both.append((process, uri))
    done = []
    try:
        for process, uri in both:
            output, errors = process.communicate(timeout=900)
            done.append(Launch(process.returncode, output, errors, uri))
    finally:
        for process, _ in both:
            process.kill()
    for each in done:
        assert each.status == 0, each.output + each.errors
    one, other = done
    pd.testing.assert_frame_equal(one.predictions, other.predictions)
    for stage in ("pretrain", *VITS, "cnn"):
        assert sum(f"{stage}: reused" in each.output for each in done) == 1
