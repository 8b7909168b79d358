"""A training that was cut goes on as if it had not been: same exams, same best epoch."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from test_institution import site
from test_lvsd import build

from datamodules.institution import Loading
from experiments.stages.training import RESUME_POINT, resume_point


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


def train(folder: Path, data: Any, recorder: Recorder) -> ModelCheckpoint:
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
    module = build(samples=1000, patch_samples=100)
    trainer.fit(module, data, ckpt_path=cut if cut.exists() else None, weights_only=True)
    return best


@pytest.mark.parametrize("workers", [0, 1])
def test_a_cut_training_goes_on_with_the_exams_it_had_not_seen(
    workers: int, tmp_path: Path
) -> None:
    def data() -> Any:
        loading = Loading(batch_size=4, workers=workers, seed=0)
        return site(tmp_path / f"{len(list(tmp_path.iterdir()))}", "alpha", 80, loading=loading)

    whole = Recorder()
    best_whole = train(tmp_path / "whole", data(), whole)
    with pytest.raises(ConnectionError):
        train(tmp_path / "cut", data(), Recorder(cut=7))
    rest = Recorder()
    best_rest = train(tmp_path / "cut", data(), rest)
    assert len(whole.exams) == 12
    assert rest.exams == whole.exams[6:]  # the newest validation came after step 6
    assert best_rest.best_model_score == pytest.approx(best_whole.best_model_score)
