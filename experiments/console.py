"""What a launch says on the terminal, and the bar of whatever takes long."""

from typing import Any

import lightning as L
from tqdm import tqdm

from datamodules.parallel import progress_bar
from experiments.processes import is_first_process


def say(message: str) -> None:
    """One line, from the first process only."""
    if is_first_process():
        tqdm.write(message)


class StageBar(L.Callback):
    """One bar for a whole fit or prediction, with the metrics named in `shown`."""

    def __init__(self, description: str, shown: dict[str, str] | None = None) -> None:
        self.description, self.shown = description, shown or {}
        self.bar: Any = None
        self.by_batch = False

    def _open(self, total: float) -> None:
        if is_first_process():
            self.bar = progress_bar(None if total == float("inf") else int(total), self.description)

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._open(trainer.estimated_stepping_batches)
        if self.bar is not None:
            self.bar.update(trainer.global_step)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if self.bar is not None:
            self.bar.update(trainer.global_step - self.bar.n)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.bar is None:  # a validation by itself, not on the way
            self._open(sum(trainer.num_val_batches))
            self.by_batch = True

    def on_validation_batch_end(self, *_: Any) -> None:
        if self.bar is not None and self.by_batch:
            self.bar.update()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.bar is not None:
            values = trainer.callback_metrics
            self.bar.set_postfix(
                {name: f"{values[key]:.3f}" for key, name in self.shown.items() if key in values},
                refresh=False,
            )
        if self.by_batch:
            self.by_batch = False
            self._close()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._open(sum(trainer.num_predict_batches))

    def on_predict_batch_end(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.update()

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close()

    def on_exception(self, *_: Any) -> None:
        self._close()
