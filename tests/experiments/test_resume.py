"""A training that was cut goes on as if it had not been: same exams, same best epoch."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from datamodules.inputs.blood import Blood
from datamodules.institution import InstitutionDataModule, Loading
from experiments.stages.training import RESUME_POINT, resume_point
from lightning_modules.classifier import Classifier


class Recorder(L.Callback):
    """Which exams were trained on, step by step; cuts the training after step `cut`."""

    def __init__(self, cut: int | None = None) -> None:
        self.exams: list[list[int]] = []
        self.cut = cut

    def on_train_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, *given: Any
    ) -> None:
        batch = given[0]
        self.exams.append(batch["exam"].tolist())
        if trainer.global_step == self.cut:
            raise ConnectionError("cut")


def site(workers: int) -> InstitutionDataModule:
    """80 exams, half of them labelled, split by patient."""
    rng = np.random.default_rng(0)
    exams = pd.DataFrame(
        {
            "institution": "alpha",
            "exam_id": [f"e{i}" for i in range(80)],
            "patient_id": [f"p{i // 2}" for i in range(80)],
            "split": [("train", "train", "val", "test")[i // 2 % 4] for i in range(80)],
            "bnp_pg_ml": np.exp(rng.normal(5, 1, 80)),
            "target": [float(i % 3 == 0) if i % 2 == 0 else np.nan for i in range(80)],
            "row": 0,
        }
    )
    return InstitutionDataModule(
        "alpha",
        exams,
        None,
        reads="bnp",
        input=Blood("bnp_pg_ml", age=False, sex=False, mean=(5.0,), deviation=(1.0,)),
        augmentation=None,
        loading=Loading(batch_size=4, workers=workers, seed=0),
        targets=["target"],
    )


def mlp(features: int, outputs: int) -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Linear(features, 8), torch.nn.ReLU(), torch.nn.Linear(8, outputs)
    ).double()


def build() -> Classifier:
    torch.manual_seed(0)
    return Classifier(
        reads="bnp",
        input={},
        task={
            "_target_": "lightning_modules.tasks.binary.Binary",
            "labels": ["lvsd"],
            "positive_weights": [1.0],
        },
        network={"_target_": f"{__name__}.mlp", "settings": {}, "shape": {"features": 1}},
        frozen_encoder=False,
        layer_decay=1.0,
        weight_decay=0.05,
        base_learning_rate=0.1,
        effective_batch=16,
        betas=[0.9, 0.999],
        warmup_fraction=0.1,
    )


def train(folder: Path, data: Any, recorder: Recorder) -> tuple[Classifier, ModelCheckpoint]:
    best = ModelCheckpoint(dirpath=folder, filename="best", monitor="val/loss", mode="min")
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        max_steps=12,
        max_epochs=-1,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        callbacks=[recorder, best, EarlyStopping("val/loss", patience=50), resume_point(folder)],
        default_root_dir=folder,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    cut = folder / RESUME_POINT
    module = build()
    trainer.fit(module, data, ckpt_path=cut if cut.exists() else None, weights_only=True)
    return module, best


@pytest.mark.parametrize("workers", [0, 1])
def test_a_cut_training_goes_on_with_the_exams_it_had_not_seen(
    workers: int, tmp_path: Path
) -> None:
    whole = Recorder()
    module, best = train(tmp_path / "whole", site(workers), whole)
    with pytest.raises(ConnectionError):
        train(tmp_path / "cut", site(workers), Recorder(cut=7))
    rest = Recorder()
    again, best_again = train(tmp_path / "cut", site(workers), rest)
    assert len(whole.exams) == 12
    assert rest.exams == whole.exams[6:]  # the newest validation came after step 6
    assert best_again.best_model_score == pytest.approx(best.best_model_score)
    for name, weight in module.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], weight, equal_nan=True)
