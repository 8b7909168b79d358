"""What MLflow holds: names, notes, the commit, and nobody's password."""

import base64
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from places import REPOSITORY

from datamodules.errors import InputError
from experiments.arguments import read_arguments, take_credentials
from experiments.config import compose_config
from experiments.run import main
from experiments.tracking import LONGEST_TAG, NOTE, Tracking, git_commit, shortened

USER, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (USER, PASSWORD):
        monkeypatch.setenv(name, "to be restored")
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    folder = tmp_path_factory.mktemp("tracking")
    return Tracking(f"sqlite:///{folder}/mlflow.db", f"{folder}/artifacts", "names", enabled=True)


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """An address where something answers, and what it was told of who asks."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(str(self.headers.get("Authorization")))
            self.send_response(200 if self.path == "/health" else 400)
            self.end_headers()

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    running = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{running.server_port}", asked
    running.shutdown()


def test_a_password_reaches_the_server_and_no_message(
    server: tuple[str, list[str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    address, asked = server
    status = main(
        ["experiment=compare", "predictions=[none.csv]", f"cache={tmp_path}",
         f"tracking.uri=http://me:s3c%40ret@{address}"]
    )  # fmt: skip
    shown = capsys.readouterr()
    assert status == 2
    assert f"tracking.uri=http://{address} can't be used" in shown.err
    assert "s3c" not in shown.err + shown.out
    assert f"Basic {base64.b64encode(b'me:s3c@ret').decode()}" in asked


@pytest.mark.parametrize(
    "argument", ["tracking.uri=http://me:s3cret@host/p", 'tracking.uri="http://me:s3cret@host/p"']
)
def test_a_password_is_in_no_configuration(
    argument: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([argument, "--config"]) == 0
    assert "uri: http://host/p" in capsys.readouterr().out
    assert (os.environ[USER], os.environ[PASSWORD]) == ("me", "s3cret")
    for more in ("seed=1,2", "trackng.uri=http://me:s3cret@host", "tracking.url=x://a:s3cret@b"):
        assert main([argument, more]) == 2
        assert "s3cret" not in capsys.readouterr().err


def test_a_password_in_a_persons_file_is_in_no_configuration(tmp_path: Path) -> None:
    (tmp_path / "tracking").mkdir()
    text = "uri: https://me:s3cret@host\nartifacts: a\n"
    (tmp_path / "tracking" / "ours.yaml").write_text(text)
    config = compose_config(["--config-dir", str(tmp_path), "tracking=ours"])
    assert config.tracking.uri == "https://host"
    assert os.environ[PASSWORD] == "s3cret"


def test_credentials_that_are_there_already_are_not_replaced_by_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(PASSWORD, "exported")
    assert take_credentials("http://me@host") == "http://host"
    assert (os.environ[USER], os.environ[PASSWORD]) == ("me", "exported")
    assert take_credentials("http://other:p@ss/w@host") == "http://host"
    assert (os.environ[USER], os.environ[PASSWORD]) == ("other", "p@ss/w")
    assert read_arguments(["cohort.root=s3://bucket/a@b"]).overrides[0].endswith("a@b")


def test_an_address_that_is_none_is_told_without_its_password() -> None:
    with pytest.raises(InputError, match="tracking.uri=postgresql://host/db: give") as refused:
        Tracking("postgresql://me:s3cret@host/db", "a", "x", enabled=True)
    assert "s3cret" not in str(refused.value)


def test_every_metric_has_a_name_of_its_own(tracking: Tracking) -> None:
    names = ["東大病院/a (1)", "東大病院/a [1]", "京大病院/a (1)", "x/../y", "x//y", "z" * 300]
    with tracking.run("metrics") as run:
        tracking.metrics(run, {name: number for number, name in enumerate(names)})
        tracking.metrics(run, {names[1]: 10, names[0]: 20})
    assert run is not None
    metrics = tracking.client.get_run(run).data.metrics
    assert metrics == {
        "東大病院/a _1_": 20,
        "東大病院/a _1__2": 10,
        "京大病院/a _1_": 2,
        "x/_/y": 3,
        "x/_/y_2": 4,
        "z" * 250: 5,
    }


def test_a_note_is_whole_or_says_what_it_lacks(tracking: Tracking) -> None:
    rows = "".join(f"| {i} | {'x' * 90} |\n" for i in range(200))
    note = f"### One\n\n| a | b |\n| --- | --- |\n{rows}\n### Two\n\n| c |\n|---|\n| 1 |\n\nEnd.\n"
    with tracking.run("notes") as run:
        tracking.tags(run, {NOTE: "short", "other": "tag"})
        assert tracking.client.get_run(str(run)).data.tags[NOTE] == "short"
        tracking.tags(run, {NOTE: note})
    told = tracking.client.get_run(str(run)).data.tags[NOTE]
    assert 7800 < len(told) <= LONGEST_TAG
    lines = told.split("\n")
    kept = [line for line in lines if "xxx" in line]
    assert kept == [*rows.split("\n")[: len(kept) - 1], rows.split("\n")[199]]
    assert f"*Rows left out before the last: {200 - len(kept)}. The artifact note.md has all.*" in (
        lines
    )
    assert told.endswith("| c |\n|---|\n| 1 |\n\nEnd.\n")
    whole = Path(tracking.client.download_artifacts(str(run), "note.md"))
    assert whole.read_text() == note


def test_a_note_without_rows_to_leave_out_is_cut_at_a_line() -> None:
    note = "\n".join(f"line {i}" for i in range(100))
    told = shortened(note, 300)
    assert len(told) <= 300
    *lines, _, last = told.split("\n")
    assert last == "*The rest stands in the artifact note.md.*"
    assert lines == [f"line {i}" for i in range(len(lines))]


def test_the_commit_is_that_of_a_checkout_and_not_of_whoever_installed(tmp_path: Path) -> None:
    assert git_commit() != "unknown"
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "theirs"]):
        as_me = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
        subprocess.run(["git", "-C", tmp_path, *as_me, *command], check=True)
    for package in ("experiments", "datamodules"):
        shutil.copytree(REPOSITORY / package, tmp_path / "site" / package)
    told = subprocess.run(
        [sys.executable, "-c", "from experiments.tracking import git_commit; print(git_commit())"],
        cwd=tmp_path / "site",
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == "unknown"
