"""Predictions of a trained model on exams that it never saw."""

from collections.abc import Sequence
from pathlib import Path

import lightning as L
import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig

from datamodules.inputs import PREPROCESSING
from datamodules.institution import ExamDataModule
from experiments.console import say
from experiments.processes import is_first_process
from experiments.stages.cohort import Site
from experiments.stages.folder import StageFolder, file_digest
from experiments.stages.training import data_module, tester
from lightning_modules.checkpoint import load_classifier

COLUMNS = ["institution", "split", "patient_id", "exam_id", "target", "logit", "probability"]


def evaluate(
    config: DictConfig,
    name: str,
    checkpoint: Path,
    development: Sequence[Site],
    external: Sequence[Site],
) -> pd.DataFrame:
    """The predictions table of a checkpoint, with its own preprocessing; reused if made before.

    Rows are the labelled validation and internal-test exams of the development institutions and
    every labelled exam of the external ones, each once, in the order of their manifests.
    """
    folder = StageFolder(
        Path(config.cache) / "stages",
        "evaluate",
        {
            "checkpoint": file_digest(checkpoint),
            "data": [
                [(site.name, site.digest) for site in sites] for sites in (development, external)
            ],
        },
    )
    table = folder.path / "predictions.parquet"
    if folder.record is not None:
        say(f"{name}: predictions reused")
        return pd.read_parquet(table).assign(model=name)[["model", *COLUMNS]]
    module = load_classifier(checkpoint)
    data = data_module(
        config,
        development,
        external,
        preprocessing=PREPROCESSING[module.input].from_dict(module.hparams["preprocessing"]),
        batch_size=config.trainer.test_batch_size,
        labelled=True,
    )
    predictions = predict(tester(config, folder.path, f"evaluate {name}"), module, data)
    if is_first_process():
        folder.path.mkdir(parents=True, exist_ok=True)
        predictions.to_parquet(table, index=False)
        folder.finish({"exams": len(predictions)})
    return predictions.assign(model=name)[["model", *COLUMNS]]


def predict(predictor: L.Trainer, module: L.LightningModule, data: ExamDataModule) -> pd.DataFrame:
    """Every exam of `data.predict_dataloader()` once, whatever the number of processes."""
    batches: list[dict[str, torch.Tensor]] = predictor.predict(module, data) or []  # type: ignore[assignment]
    mine = {
        key: torch.cat([batch[key].cpu() for batch in batches]).numpy() if batches else np.empty(0)
        for key in ("exam", "logit")
    }
    parts = [mine] * predictor.world_size
    if predictor.world_size > 1:  # of this Trainer: a launch of several processes has others too
        torch.distributed.all_gather_object(parts, mine)
    exam = np.concatenate([part["exam"] for part in parts]).astype(np.int64)
    logit = np.concatenate([part["logit"] for part in parts]).astype(np.float64)
    order = np.argsort(exam)
    rows = data.exams.iloc[exam[order]].reset_index(drop=True)
    return rows.assign(logit=logit[order], probability=1 / (1 + np.exp(-logit[order])))[COLUMNS]
