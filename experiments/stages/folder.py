"""Where a stage keeps what it made, so that a finished stage is reused and a cut one goes on."""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from experiments.processes import is_first_process

PACKAGES = Path(__file__).resolve().parents[2]


class StageFolder:
    """The folder of one stage with one set of inputs: `<root>/<stage>-<digest of key>`.

    `key` holds everything the result depends on, as JSON-ready values; the code of the networks,
    data and stages is added to it. The folder counts as finished once `record` was written.
    """

    def __init__(self, root: Path, stage: str, key: Mapping[str, Any]) -> None:
        text = json.dumps({**key, "code": code_digest()}, sort_keys=True)
        self.path = root / f"{stage}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait while another launch works on the same stage; it will be finished then."""
        if not is_first_process():
            yield
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name(f".{self.path.name}.lock")):
            yield

    def finished_by_first(self) -> dict[str, Any]:
        """Wait, in any process but the first, for what the first one does alone; its record."""
        launcher = os.getppid()
        while (record := self.record) is None:
            if os.getppid() != launcher:
                raise SystemExit("the launch's first process is gone")
            time.sleep(0.2)
        return record

    @property
    def record(self) -> dict[str, Any] | None:
        """What the stage said when it finished, or None."""
        file = self.path / "finished.json"
        return json.loads(file.read_text()) if file.is_file() else None

    def finish(self, record: Mapping[str, Any]) -> None:
        """Mark the stage as finished; the last thing that a stage does."""
        self.write("finished.json", record)

    def write(self, name: str, values: Mapping[str, Any]) -> None:
        """A JSON file in the folder, whole or not there."""
        self.path.mkdir(parents=True, exist_ok=True)
        partial = self.path / f"{name}.partial"
        partial.write_text(json.dumps(values))
        partial.replace(self.path / name)

    def read(self, name: str) -> dict[str, Any]:
        """What `write` wrote, or nothing."""
        file = self.path / name
        return json.loads(file.read_text()) if file.is_file() else {}


@cache
def code_digest() -> str:
    """Of the code that results depend on: a changed network or reader is not reused."""
    digest = hashlib.sha256()
    for package in (
        "datamodules",
        "lightning_modules",
        "experiments/stages",
        "experiments/evaluation",
    ):
        for file in sorted((PACKAGES / package).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
