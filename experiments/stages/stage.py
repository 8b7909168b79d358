"""The one runner of stages: key, lock, processes, reuse, MLflow run and atomic finish."""

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from filelock import FileLock

from experiments.console import say
from experiments.processes import Processes
from experiments.stages.key import key_of
from experiments.tracking import Tracking

Record = dict[str, Any]
CHECKPOINT = "model.ckpt"


@dataclass(frozen=True)
class Lab:
    """What every stage works with, and no result depends on.

    `stages` is the folder of finished ones, `trainer` Lightning's settings, `loading_workers` and
    `batch` those of reading exams where nothing is learned. `allowed`: modules beside this
    software's own that the launch's configuration names, and its checkpoints may. `judging`: the
    settings that judge a pretraining.
    """

    stages: Path
    tracking: Tracking
    processes: Processes
    trainer: Mapping[str, Any] = field(default_factory=dict)
    loading_workers: int = 0
    batch: int = 64
    allowed: tuple[str, ...] = ()
    judging: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where a stage is being made: its lab, its folder, its MLflow run (None: not tracked here)."""

    lab: Lab
    path: Path
    run: str | None

    @property
    def checkpoint(self) -> Path:
        """Where the stage's checkpoint goes, if it makes one."""
        return self.path / CHECKPOINT


@dataclass(frozen=True)
class Made:
    """A finished stage: its folder, what it recorded, and the MLflow run that shows it."""

    path: Path
    record: Record
    run: str | None

    @property
    def checkpoint(self) -> Path:
        return self.path / CHECKPOINT


@dataclass(frozen=True)
class Stage(ABC):
    """One step of a study: a frozen dataclass whose fields are all that its result depends on.

    kind: the name of its folders. alone: whether the first process makes it by itself. tracked:
    whether it has an MLflow run of its own.
    """

    kind: ClassVar[str]
    alone: ClassVar[bool] = False
    tracked: ClassVar[bool] = True

    @property
    @abstractmethod
    def name(self) -> str:
        """By which messages and tags tell it from its sisters."""

    @property
    def title(self) -> str:
        """Of its MLflow run."""
        return self.name

    @property
    def tags(self) -> dict[str, str]:
        """Of its MLflow run, beside its kind."""
        return {}

    @property
    def params(self) -> Mapping[str, Any]:
        """Of its MLflow run: settings that a person compares runs by."""
        return {}

    @abstractmethod
    def make(self, place: Place) -> Record:
        """Make it in `place.path`, from this object's fields alone.

        The record is JSON-ready; "metrics" and "files" in it are left on the MLflow run. What
        Lightning's logger logs on the way, and a stage's own figures, are on it beside them.
        """

    def told(self, record: Record) -> str:
        """Its outcome in a few words."""
        return ""


def run_stage(stage: Stage, lab: Lab, parent: str | None) -> Made:
    """Make the stage, or reuse the same made before, whoever made it.

    Another launch that makes the same is waited for. The first process decides for all whether it
    is made; one that was cut goes on where it was, in its own MLflow run. A reused one that this
    tracking server has not seen is shown to it.
    """
    path = lab.stages / f"{stage.kind}-{key_of(stage)}"
    with _lock(path) if lab.processes.first else nullcontext():
        finished = lab.processes.decided(lambda: _record(path))
        if finished is not None:
            record = finished
            run = lab.processes.decided(lambda: _shown(stage, path, record, lab, parent))
            run = run if lab.tracking.enabled else None  # the first process's to write on
            told = stage.told(record)
            by = f" from run {run}" if stage.tracked else ""
            say(f"{stage.name}: reused{by}{f' ({told})' if told else ''}")
            if stage.tracked:
                lab.tracking.tags(parent, {f"reused.{stage.name}": str(run)})
            return Made(path, record, run)
        path.mkdir(parents=True, exist_ok=True)
        if not stage.tracked:
            return Made(path, _made(stage, Place(lab, path, None)), None)
        with stage_run(
            lab.tracking,
            path,
            stage.title,
            parent=parent,
            tags={"stage": stage.kind, **stage.tags},
            params=stage.params,
        ) as run:
            record = _made(stage, Place(lab, path, run))
        return Made(path, record, run)


def _made(stage: Stage, place: Place) -> Record:
    processes = place.lab.processes

    def made() -> Record:
        record = stage.make(place)
        if processes.first:
            # Shown before it counts as finished: a cut in between makes it once more.
            _leave(record, place.path, place.lab.tracking, place.run)
            _write(place.path / "finished.json", record)
            for needless in place.path.glob("*.ckpt"):
                if needless != place.checkpoint:
                    needless.unlink()
        return record

    record = processes.decided(made) if stage.alone else made()
    processes.wait()
    told = stage.told(record)
    if told:
        say(f"{stage.name}: {told}")
    return record


def _leave(record: Record, path: Path, tracking: Tracking, run: str | None) -> None:
    """A stage's record on its MLflow run."""
    tracking.metrics(run, record.get("metrics", {}))
    for name, folder in record.get("files", {}).items():
        tracking.file(run, path / name, folder)


def _shown(stage: Stage, path: Path, record: Record, lab: Lab, parent: str | None) -> str | None:
    """The MLflow run that shows a finished stage on this launch's server, made if there is none."""
    tracking = lab.tracking
    if not stage.tracked or not tracking.enabled:
        return None
    known = _read(path / "runs.json").get(tracking.uri)
    if known is not None and tracking.exists(known):
        return str(known)
    with stage_run(
        tracking,
        path,
        f"{stage.title} (made before)",
        parent=parent,
        tags={"stage": stage.kind, **stage.tags},
        params=stage.params,
    ) as run:
        _leave(record, path, tracking, run)
    return run


@contextmanager
def stage_run(
    tracking: Tracking,
    path: Path,
    title: str,
    *,
    parent: str | None,
    tags: Mapping[str, str],
    params: Mapping[str, Any],
    part: str = "",
) -> Iterator[str | None]:
    """A stage's MLflow run, or that of a `part` of it; one that was cut goes on in the run that it
    began."""
    known = path / (f"runs-{part}.json" if part else "runs.json")
    begun = _read(known)
    resume = begun.get(tracking.uri)
    if resume is not None and tracking.enabled and not tracking.exists(resume):
        resume = None
    with tracking.run(title, parent=parent, tags=tags, resume=resume) as run:
        if run is not None:
            tracking.tags(run, {"mlflow.parentRunId": str(parent)})
            path.mkdir(parents=True, exist_ok=True)
            _write(known, {**begun, tracking.uri: run})
            if resume is None:
                tracking.params(run, _flat(params))
        yield run


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    with lock:
        yield


def _record(path: Path) -> Record | None:
    """What a finished stage recorded; None where it is not there or not finished."""
    return _read(path / "finished.json") or None


def _read(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text())) if file.is_file() else {}


def _write(file: Path, values: Mapping[str, Any]) -> None:
    """Whole, or not there."""
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(json.dumps(values))
    shutil.move(partial, file)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}, as MLflow shows parameters."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            result.update(_flat(value, f"{prefix}{name}."))
        else:
            result[f"{prefix}{name}"] = value
    return result
