"""What a launch says on the terminal, and the bar of whatever takes long."""

from typing import Any

import lightning as L
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from datamodules.parallel import progress_bar
from experiments.processes import is_first_process


def say(message: str) -> None:
    """One line, from the first process only."""
    if is_first_process():
        tqdm.write(message)


def print_table(title: str, table: pd.DataFrame) -> None:
    """A table on the terminal, every name in it as it is."""
    shown = Table(title=title, box=box.SIMPLE_HEAD)
    for number, column in enumerate(table.columns):
        shown.add_column(str(column), justify="right" if number else "left", no_wrap=True)
    for row in table.itertuples(index=False):
        shown.add_row(*map(str, row))
    # Wide enough for every column, also where the output goes to a file. Markup and emoji would
    # take brackets and colons of a hospital's name for their own.
    width = max(100, Console().width, 24 * (len(table.columns) + 1))
    Console(width=width, markup=False, emoji=False).print(shown)


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
