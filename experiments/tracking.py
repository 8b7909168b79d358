"""The only file that talks to MLflow, beside Lightning's own logger."""

import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
from lightning.pytorch.loggers import MLFlowLogger
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.data.pandas_dataset import from_pandas
from mlflow.entities import DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from datamodules.errors import InputError, listing
from experiments.arguments import take_credentials

for noisy in ("mlflow", "mlflow.store.db.utils", "alembic"):
    logging.getLogger(noisy).setLevel(logging.ERROR)
# A hint for people who serve models with MLflow; the tables here are cohorts.
warnings.filterwarnings("ignore", message="Hint: Inferred schema contains integer column")

SQLITE = "sqlite:///"
CHECKPOINT = "checkpoint"  # a run's folder for it
MODEL_TAG = "model."  # on a launch's run: the run of each of its models
FUSION_TAG = "fusion"  # on a launch's run: which of them is the fusion
RUN_ID = re.compile(r"[0-9a-f]{32}")
REGISTERED = re.compile(r"(?:models:/)?(?P<name>[^/@:]+)(?:/(?P<version>\d+)|@(?P<alias>[^/@]+))?")
NOTE = "mlflow.note.content"
NOTE_FILE = "note.md"
LONGEST_TAG, LONGEST_KEY = 8000, 250  # characters that MLflow takes
# MLflow's own name for an experiment that trains models rather than language applications.
TRAINING_VIEW = {"mlflow.experimentKind": "custom_model_development"}


class Tracking:
    """The runs of one launch in one MLflow experiment.

    `uri` is a server, or a SQLite file beside which artefacts go to the folder `artifacts`.
    Where `enabled` is false (every process but the first) nothing is created or sent, and run ids
    are None. Raises InputError where the server does not answer or the file can't be used.
    """

    def __init__(self, uri: str, artifacts: str, experiment: str, *, enabled: bool) -> None:
        uri = take_credentials(uri)
        self.uri, self.experiment, self.enabled = uri, experiment, enabled
        # Tags that every run of this launch carries.
        self.common: dict[str, str] = {"mlflow.source.git.commit": git_commit()}
        self.command = ""  # that a person typed
        self._keys: dict[tuple[str, str], str] = {}  # a run's metric -> the name it stands for
        if not enabled:
            return
        location = None
        if uri.startswith(SQLITE):
            location = Path(artifacts).resolve().as_uri()
        elif uri.startswith(("http://", "https://")):
            _check_answers(uri)
        else:
            raise InputError(
                f"tracking.uri={uri}: give a server's http(s):// address or sqlite:///FILE"
            )
        try:
            if location:
                Path(uri.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)
            self.client = MlflowClient(uri)
            self.experiment_id = self._experiment(location)
        except (MlflowException, SQLAlchemyError, OSError) as error:
            raise InputError(f"tracking.uri={uri} can't be used: {error}") from None

    def _experiment(self, location: str | None) -> str:
        found = self.client.get_experiment_by_name(self.experiment)
        if found is None:
            try:
                return self.client.create_experiment(self.experiment, location, TRAINING_VIEW)
            except MlflowException:  # a launch beside this one was quicker
                found = self.client.get_experiment_by_name(self.experiment)
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return found.experiment_id

    @contextmanager
    def run(
        self,
        name: str,
        *,
        parent: str | None = None,
        tags: Mapping[str, str] | None = None,
        resume: str | None = None,
    ) -> Iterator[str | None]:
        """A run that ends as FINISHED, FAILED or KILLED, whatever happens; `resume` reopens one."""
        if not self.enabled:
            yield None
            return
        if resume is not None:
            run_id = resume
            self.client.update_run(run_id, status="RUNNING")
        else:
            nested = {} if parent is None else {"mlflow.parentRunId": parent}
            run = self.client.create_run(
                self.experiment_id, run_name=name, tags={**self.common, **nested, **(tags or {})}
            )
            run_id = run.info.run_id
        try:
            yield run_id
        except (KeyboardInterrupt, SystemExit):  # Lightning turns the first into the second
            self._end(run_id, "KILLED")
            raise
        except BaseException:
            self._end(run_id, "FAILED")
            raise
        self.client.set_terminated(run_id, "FINISHED")

    def _end(self, run_id: str, status: str) -> None:
        try:
            self.client.set_terminated(run_id, status)
        except Exception as error:  # the failure being reported matters more than its mark
            logging.getLogger(__name__).warning(
                "run %s was not marked %s: %s", run_id, status, error
            )

    def exists(self, run_id: str) -> bool:
        """Whether the server still has the run."""
        try:
            return self.client.get_run(run_id).info.lifecycle_stage == "active"
        except MlflowException:
            return False

    def metrics(self, run_id: str | None, values: Mapping[str, float]) -> None:
        """Final values of metrics; those that are None or nan are not estimable and left out.

        What MLflow does not allow in a metric's name becomes `_`; where two names of a run would
        be one by that, the second ends in `_2`.
        """
        if run_id is None:
            return
        now = pd.Timestamp.now("UTC").value // 10**6
        kept = [
            Metric(self._key(run_id, name), float(value), now, 0)
            for name, value in values.items()
            if value is not None and value == value
        ]
        if kept:
            self.client.log_batch(run_id, metrics=kept)

    def _key(self, run_id: str, name: str) -> str:
        parts = (re.sub(r"[^\w\-. :]", "_", part) for part in name.split("/"))
        # As MLflow has it, a metric's name is a path, and one that is its shortest form.
        allowed = "/".join("_" if part in ("", ".", "..") else part for part in parts)
        key, number = allowed[:LONGEST_KEY], 1
        while self._keys.setdefault((run_id, key), name) != name:
            number += 1
            key = f"{allowed[: LONGEST_KEY - 4]}_{number}"
        return key

    def params(self, run_id: str | None, values: Mapping[str, Any]) -> None:
        """Settings that a person compares runs by."""
        if run_id is not None:
            self.client.log_batch(run_id, params=[Param(k, str(v)) for k, v in values.items()])

    def tags(self, run_id: str | None, values: Mapping[str, str]) -> None:
        """Facts about a run; `mlflow.note.content` is the text that the UI shows first.

        A note that is longer than MLflow takes loses rows of its tables, says so, and stands whole
        in the artefact note.md.
        """
        if run_id is None:
            return
        note = values.get(NOTE, "")
        if len(note) > LONGEST_TAG:
            self.text(run_id, note, NOTE_FILE)
            values = {**values, NOTE: shortened(note)}
        if values:
            self.client.log_batch(run_id, tags=[RunTag(k, v) for k, v in values.items()])

    def figure(self, run_id: str | None, figure: Figure, path: str) -> None:
        """A matplotlib figure as an image artefact."""
        if run_id is not None:
            self.client.log_figure(run_id, figure, path)

    def text(self, run_id: str | None, text: str, path: str) -> None:
        """A text artefact."""
        if run_id is not None:
            self.client.log_text(run_id, text, path)

    def table(self, run_id: str | None, table: pd.DataFrame, path: str) -> None:
        """A table artefact, Parquet or CSV by the ending of `path`."""
        if run_id is None:
            return
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / Path(path).name
            if file.suffix == ".parquet":
                table.to_parquet(file, index=False)
            else:
                table.to_csv(file, index=False)
            self.file(run_id, file, str(Path(path).parent))

    def file(self, run_id: str | None, file: Path, folder: str = "") -> None:
        """A file artefact, in `folder` of the run."""
        if run_id is not None:
            self.client.log_artifact(run_id, str(file), "" if folder == "." else folder)

    def dataset(
        self, run_id: str | None, table: pd.DataFrame, *, name: str, digest: str, context: str
    ) -> None:
        """A cohort table as an MLflow dataset: its schema, size and digest, not its rows."""
        if run_id is not None:
            dataset = from_pandas(table, name=name, digest=digest)
            tag = InputTag("mlflow.data.context", context)
            entity = DatasetInput(dataset._to_mlflow_entity(), [tag])
            self.client.log_inputs(run_id, datasets=[entity])

    def logger(self, run_id: str | None) -> MLFlowLogger | bool:
        """Lightning's logger on a run of this launch."""
        if run_id is None:
            return False
        return MLFlowLogger(self.experiment, tracking_uri=self.uri, run_id=run_id)

    def children(self, run_id: str, studies: Sequence[str]) -> list[Run]:
        """The runs right below one, in the MLflow experiments of these names."""
        found = (self.client.get_experiment_by_name(name) for name in studies)
        return list(
            self.client.search_runs(
                [experiment.experiment_id for experiment in found if experiment is not None],
                f"tags.`mlflow.parentRunId` = '{run_id}'",
                max_results=10_000,
            )
        )

    def stage(self, launch: Run, name: str) -> Run | None:
        """The run of a launch's stage, made or reused; None where it has none of that kind."""
        reused = launch.data.tags.get(f"reused.{name}")
        if reused is not None:
            return self.client.get_run(reused) if self.exists(reused) else None
        found = self.client.search_runs(
            [launch.info.experiment_id],
            f"tags.`mlflow.parentRunId` = '{launch.info.run_id}' and tags.stage = '{name}'",
        )
        return found[0] if found else None

    def json(self, run_id: str, path: str) -> Any:
        """What a run's JSON artefact holds; None where it has none."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                file = self.client.download_artifacts(run_id, path, folder)
            except (MlflowException, OSError):
                return None
            return json.loads(Path(file).read_text())

    @property
    def ui_command(self) -> str:
        """What a person types to browse the runs."""
        if self.uri.startswith(SQLITE):
            return f"mlflow ui --backend-store-uri {self.uri}"
        return f"open {self.uri} in a browser"


def shortened(note: str, limit: int = LONGEST_TAG, whole: str = NOTE_FILE) -> str:
    """`note` (Markdown) in so many characters.

    The longest tables lose rows, but not their last one, which often sums up. A sentence below such
    a table says how many, and that the artefact `whole` has them.
    """
    blocks = [list(lines) for _, lines in groupby(note.split("\n"), lambda line: line[:1] == "|")]
    left_out = [0] * len(blocks)

    def text() -> str:
        told = (
            [*block, "", f"*Rows left out before the last: {rows}. The artifact {whole} has all.*"]
            if rows
            else block
            for block, rows in zip(blocks, left_out, strict=True)
        )
        return "\n".join(line for block in told for line in block)

    def size(number: int) -> int:
        rows = blocks[number]
        return sum(map(len, rows)) if rows[0][:1] == "|" and len(rows) > 3 else 0

    while len(shown := text()) > limit:
        longest = max(range(len(blocks)), key=size)
        if not size(longest):  # no rows are left to leave out
            told = f"\n\n*The rest stands in the artifact {whole}.*"
            return shown[: limit - len(told)].rpartition("\n")[0] + told
        blocks[longest].pop(-2)
        left_out[longest] += 1
    return shown


@contextmanager
def find_checkpoint(model: str, uri: str) -> Iterator[Path]:
    """The checkpoint of a run or of a registered model, downloaded for as long as the block lasts.

    `model` is the id of a training's run, or of a launch's, which stands for its fusion or its only
    model; or NAME (the latest version), NAME/VERSION or NAME@ALIAS of a registered model, with or
    without models:/ before it. Raises InputError where that leads to no checkpoint.
    """
    uri = take_credentials(uri)
    with tempfile.TemporaryDirectory() as folder:
        try:
            client = _reading_client(uri, model)
            is_run = RUN_ID.fullmatch(model)
            checkpoint = (_checkpoint_of_run if is_run else _checkpoint_of_registered)(
                client, model, Path(folder)
            )
        except (MlflowException, SQLAlchemyError, OSError) as error:
            raise InputError(f"tracking.uri={uri} can't be used: {error}") from None
        yield checkpoint


def _reading_client(uri: str, model: str) -> MlflowClient:
    where = f"model={model}: not a file here, and at tracking.uri={uri}"
    remedy = "Give the tracking.uri that the model was tracked to, or its checkpoint's file."
    if uri.startswith(("http://", "https://")):
        try:
            _check_answers(uri)
        except InputError:
            raise InputError(f"{where} no server answers. {remedy}") from None
    elif not uri.startswith(SQLITE):
        raise InputError(
            f"tracking.uri={uri}: give a server's http(s):// address or sqlite:///FILE"
        )
    elif not Path(uri.removeprefix(SQLITE)).is_file():
        raise InputError(f"{where} there is no database. {remedy}")
    # A bar is for a terminal: a script's stderr is for what went wrong.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", str(sys.stderr.isatty()))
    return MlflowClient(uri)


def _checkpoint_of_run(client: MlflowClient, run_id: str, folder: Path) -> Path:
    where = f"at tracking.uri={client.tracking_uri}"
    run = _found(client.get_run, run_id)
    if run is None:
        raise InputError(
            f"model={run_id}: there is no such run {where}. Give the tracking.uri that it was "
            "tracked to, or its checkpoint's file."
        )
    if (checkpoint := _download(client, run_id, folder)) is not None:
        return checkpoint
    tags = run.data.tags
    runs = {tag.removeprefix(MODEL_TAG): tags[tag] for tag in tags if tag.startswith(MODEL_TAG)}
    fusion = tags.get(FUSION_TAG)
    chosen = fusion if fusion in runs else next(iter(runs)) if len(runs) == 1 else None
    if chosen is not None:
        checkpoint = _download(client, runs[chosen], folder)
        if checkpoint is None:
            raise InputError(
                f"model={run_id}: its {chosen} comes from run {runs[chosen]}, which has no "
                f"checkpoint {where}. Give the checkpoint's file."
            )
        return checkpoint
    if not runs:
        of_parent = f"tags.`mlflow.parentRunId` = '{run_id}'"
        children = client.search_runs([run.info.experiment_id], of_parent)
        runs = {str(child.info.run_name): child.info.run_id for child in children}
    if not runs:
        raise InputError(
            f"model={run_id}: this run has no checkpoint. Give a training's run, or a launch's."
        )
    raise InputError(
        f"model={run_id}: this run has no checkpoint of its own. Choose one of its runs:\n"
        + listing([f"model={child} is {name}" for name, child in runs.items()])
    )


def _checkpoint_of_registered(client: MlflowClient, model: str, folder: Path) -> Path:
    where = f"at tracking.uri={client.tracking_uri}"
    wanted = REGISTERED.fullmatch(model)
    registered = _found(client.get_registered_model, wanted["name"]) if wanted else None
    if wanted is None or registered is None:
        names = ", ".join(known.name for known in client.search_registered_models())
        raise InputError(
            f"model={model}: neither a checkpoint's file, nor a run's id, nor a model registered "
            f"{where} ({f'there are {names}' if names else 'there is none'})."
        )
    name, aliases = registered.name, registered.aliases
    versions = {int(v.version): v for v in client.search_model_versions(f"name = '{name}'")}
    number = max(versions, default=0)
    if wanted["version"] or wanted["alias"]:
        number = int(wanted["version"] or aliases.get(wanted["alias"], 0))
    if number not in versions:
        there = [f"{name}/{known}" for known in sorted(versions)]
        there += [f"{name}@{alias}" for alias in aliases]
        raise InputError(
            f"model={model}: there is no such version {where}. "
            f"There are {', '.join(there) or 'none of this name'}."
        )
    version = versions[number]
    source = client.get_model_version_download_uri(name, version.version)
    with suppress(MlflowException, OSError):  # what it was made from may be gone, and the run not
        download_artifacts(source, dst_path=str(folder), tracking_uri=client.tracking_uri)
    found = sorted(folder.rglob("*.ckpt"))
    if not found and version.run_id and (checkpoint := _download(client, version.run_id, folder)):
        found = [checkpoint]
    if len(found) != 1:
        raise InputError(
            f"model={model}: version {number} holds {len(found)} checkpoints ({source}). Register "
            "the folder of one checkpoint: runs:/RUN/checkpoint."
        )
    return found[0]


def _download(client: MlflowClient, run_id: str, folder: Path) -> Path | None:
    """The run's checkpoint; None where it has none, or where there is no such run."""
    artifacts = _found(client.list_artifacts, run_id, CHECKPOINT) or ()
    found = [artifact.path for artifact in artifacts if artifact.path.endswith(".ckpt")]
    return Path(client.download_artifacts(run_id, found[0], str(folder))) if found else None


def _found(ask: Callable[..., Any], *arguments: str) -> Any:
    """What the server answers; None where it has no such thing."""
    try:
        return ask(*arguments)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def git_commit() -> str:
    """The commit that runs, with `-modified` where the working tree differs; "unknown" where this
    file is in no working tree, or in one that does not track it: an installed package in somebody's
    own repository.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *arguments],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "HEAD") + ("-modified" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _check_answers(uri: str) -> None:
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=10):
            return
    except urllib.error.HTTPError:
        return  # a proxy may hide /health; that something answers is what counts here
    except (OSError, HTTPException, ValueError) as error:
        raise InputError(
            f"tracking.uri={uri}: no server answers there ({error}). Start it, correct "
            "the address, or leave tracking.uri out to track to a local file. Nothing was started."
        ) from None
