"""Predictions of a trained model on exams that it never saw."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import lightning as L
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from datamodules.inputs.input import Input
from datamodules.institution import ExamDataModule
from experiments.evaluation.predictions import EXAM_KEYS
from experiments.stages.exams import Exams, Site
from experiments.stages.stage import Lab, Place, Record, Stage, run_stage
from experiments.stages.training import data_module, tester
from lightning_modules.checkpoint import load_classifier
from lightning_modules.classifier import TaskModule
from lightning_modules.pretraining.pretraining import Pretraining
from lightning_modules.target import resolve

TABLE = "predictions.parquet"


@dataclass(frozen=True)
class Evaluate(Stage):
    """The predictions table of a checkpoint, with its own input.

    `made_by`, the key of the stage that trained it, stands for the code that it passes through.
    """

    kind: ClassVar[str] = "evaluate"
    tracked: ClassVar[bool] = False

    checkpoint: Path
    made_by: str
    development: Exams
    external: Exams
    model: str

    @property
    def name(self) -> str:
        return f"{self.model}: predictions"

    def make(self, place: Place) -> Record:
        module = load_classifier(self.checkpoint, place.lab.allowed)
        data = data_module(
            place.lab,
            input_of(module),
            self.development,
            self.external,
            batch_size=place.lab.batch,
        )
        predictions = predict(tester(place, f"evaluate {self.model}"), module, data)
        if place.lab.processes.first:
            predictions.to_parquet(place.path / TABLE, index=False)
        return {"exams": len(predictions)}


def evaluate(
    name: str,
    checkpoint: Path,
    made_by: str,
    reads: str,
    development: Sequence[Site],
    external: Sequence[Site],
    labels: Sequence[str],
    lab: Lab,
) -> pd.DataFrame:
    """The predictions table of the model `name`; reused if made before.

    Rows are those, label by label, of the labelled validation and internal-test exams of the
    development institutions and every labelled exam of the external ones, in the order of their
    manifests; an exam of which some labels are known has rows of all, with an empty target.
    """
    made = run_stage(
        Evaluate(
            checkpoint,
            made_by,
            Exams(tuple(development), reads, tuple(labels)),
            Exams(tuple(external), reads, tuple(labels)),
            name,
        ),
        lab,
        None,
    )
    table = pd.read_parquet(made.path / TABLE)
    table.insert(0, "model", name)
    return table


def input_of(module: TaskModule | Pretraining) -> Input:
    """The input that a model was trained on, as its checkpoint holds it."""
    known = module.input if isinstance(module, Pretraining) else module.hparams["input"]
    values = dict(known)
    kind = resolve(values.pop("_target_"))
    if not (isinstance(kind, type) and issubclass(kind, Input)):
        raise ValueError(f"its input is a {kind.__name__}, and no Input")
    return kind.from_dict(values)


def predict(predictor: L.Trainer, module: TaskModule, data: ExamDataModule) -> pd.DataFrame:
    """Every exam of `data.predict_dataloader()` once, whatever the number of processes."""
    return rows_of(module, data, *outputs_of(predictor, module, data))


def rows_of(
    module: TaskModule,
    data: ExamDataModule,
    exam: NDArray[np.int64],
    outputs: NDArray[np.float64],
) -> pd.DataFrame:
    """Predictions of what `outputs_of` gave."""
    exams, task = data.exams.iloc[exam].reset_index(drop=True), module.task
    targets = exams[list(data.targets)].to_numpy(np.float64)
    values = task.values(torch.from_numpy(outputs)).numpy()
    rows = task.rows(exams[list(EXAM_KEYS)], targets, values)
    rows.insert(0, "label", rows.pop("label"))
    return rows


def outputs_of(
    predictor: L.Trainer, module: TaskModule, data: ExamDataModule
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Exams' places in `data.exams` [n], in order, and the model's outputs [n, outputs]."""
    batches: list[dict[str, torch.Tensor]] = predictor.predict(module, data) or []  # type: ignore[assignment]
    mine = {
        "exam": np.empty(0, np.int64),
        "outputs": np.empty((0, module.task.outputs), np.float32),
    }
    if batches:
        mine = {key: torch.cat([batch[key].cpu() for batch in batches]).numpy() for key in mine}
    parts = [mine] * predictor.world_size
    if predictor.world_size > 1:  # of this Trainer: a launch of several processes has others too
        torch.distributed.all_gather_object(parts, mine)
    exam = np.concatenate([part["exam"] for part in parts]).astype(np.int64)
    outputs = np.concatenate([part["outputs"] for part in parts]).astype(np.float64)
    order = np.argsort(exam)
    return exam[order], outputs[order]
