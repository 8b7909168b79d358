"""One institution's exams as batches, and the loaders that every DataModule here shares."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler

from datamodules.inputs.input import Augmentation, Fitted, Input, Reader
from datamodules.store import Store

Batch = dict[str, Any]


@dataclass(frozen=True)
class Loading:
    """How batches are read: exams a batch and process, reading processes, the shuffle's seed."""

    batch_size: int
    workers: int
    seed: int


class ExamDataset(Dataset[Batch]):
    """Exams read a batch at a time as they were recorded.

    An augmentation that is not for the device changes them here, in the reading processes.
    """

    def __init__(
        self,
        read: Reader,
        target: NDArray[np.float32],
        institution: NDArray[np.int64],
        augmentation: Augmentation | None = None,
    ) -> None:
        self.read, self.target, self.institution = read, target, institution
        self.augmentation = augmentation

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, exam: int) -> Batch:
        return self.__getitems__([exam])

    def __getitems__(self, exams: Sequence[int]) -> Batch:
        """{recorded (what the reader gives), target (B, labels), exam (B,), institution (B,)}."""
        chosen = np.asarray(exams)
        recorded = self.read(chosen)
        if self.augmentation is not None:
            recorded = self.augmentation(recorded)
        return {
            "recorded": recorded,
            "target": torch.from_numpy(self.target[chosen]),
            "exam": torch.from_numpy(chosen),
            "institution": torch.from_numpy(self.institution[chosen]),
        }


class EachOnce(Sampler[int]):
    """Every `world`-th of the given exams, none repeated: predictions need each exam once."""

    def __init__(self, exams: NDArray[np.int64], rank: int, world: int) -> None:
        self.exams = exams[rank::world]

    def __len__(self) -> int:
        return len(self.exams)

    def __iter__(self) -> Iterator[int]:
        return iter(self.exams.tolist())


class Chosen(Sampler[int]):
    """The given exams in the order of a `DistributedSampler` over them, the first `skip` left out.

    `skip` holds for one epoch: the one that a cut run goes on with.
    """

    def __init__(self, exams: NDArray[np.int64], sampler: "DistributedSampler[int]") -> None:
        self.exams, self.sampler, self.skip = exams, sampler, 0

    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[int]:
        skip, self.skip = self.skip, 0
        return iter(self.exams[list(self.sampler)].tolist()[skip:])


class ResumableLoader(DataLoader[Batch]):
    """Goes on within the epoch that was cut, with the exams that it had not given yet.

    Lightning keeps `state_dict` in its checkpoints, and counts the batches given before the cut.
    """

    given = resumed = 0

    def state_dict(self) -> dict[str, int]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.resumed = state["given"] % len(self)

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        skip, self.resumed = self.resumed, 0
        assert isinstance(self.sampler, Chosen)
        self.sampler.skip, self.given = skip * (self.batch_size or 1), skip
        return self._batches()

    def _batches(self) -> Iterator[Batch]:
        # A generator, so that reading processes start after the sampler was told its epoch.
        for batch in super().__iter__():
            self.given += 1
            yield batch


class ExamDataModule(L.LightningDataModule):
    """Loaders over one table of exams and one input of them.

    `exams` (one row an exam; its position is batch["exam"]): institution, split ("train", "val",
    "test"; "held_out" for those kept from a cross-fitted model; "external" for an external
    institution's), patient_id, exam_id, row (in the institution's store), the columns named in
    `targets` (NaN where unknown), and the manifest's. Where there are targets, only exams of which
    one is known are drawn. After transfer to the device a batch holds the input's tensor under
    `reads` in place of "recorded".
    """

    def __init__(
        self,
        exams: pd.DataFrame,
        stores: Mapping[str, Store | None],
        *,
        reads: str,
        input: Input,
        augmentation: Augmentation | None,
        loading: Loading,
        targets: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.exams, self.stores = exams.reset_index(drop=True), dict(stores)
        self.reads, self.input, self.augmentation = reads, input, augmentation
        self.loading, self.targets = loading, tuple(targets)
        numbers = {name: number for number, name in enumerate(self.stores)}
        institution = np.asarray(self.exams["institution"].map(numbers), dtype=np.int64)
        packed = [store for store in self.stores.values() if store is not None]
        self.dataset = ExamDataset(
            input.reader(self.exams, packed, institution),
            self.exams[list(self.targets)].to_numpy(np.float32),
            institution,
        )

    def chosen(self, *splits: str) -> NDArray[np.int64]:
        """Positions in `exams` of the splits' exams, labelled ones only where there are targets."""
        wanted = self.exams["split"].isin(splits)
        if self.targets:
            wanted &= self.exams[list(self.targets)].notna().any(axis=1)
        return np.flatnonzero(wanted.to_numpy()).astype(np.int64)

    @property
    def train_targets(self) -> NDArray[np.float64]:
        """Targets (n, labels) of the training exams, NaN where unknown."""
        targets: NDArray[np.float64] = self.exams[list(self.targets)].to_numpy(np.float64)
        return targets[self.chosen("train")]

    def train_dataloader(self) -> DataLoader[Batch]:
        dataset = self.dataset
        if self.augmentation is not None and not self.augmentation.on_device:
            dataset = ExamDataset(
                dataset.read, dataset.target, dataset.institution, self.augmentation
            )
        sampler = self._distributed("train", shuffle=True)
        # A network's batch normalisation may fail on a batch of one exam.
        lonely = 1 == len(sampler) % self.loading.batch_size < len(sampler)  # type: ignore[arg-type]
        return self._loader(sampler, dataset, ResumableLoader, drop_last=lonely)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self._distributed("val", shuffle=False), self.dataset)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """All exams but those trained on."""
        exams = self.chosen("val", "test", "held_out", "external")
        return self._loader(EachOnce(exams, *self._rank_and_world()), self.dataset)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        batch = self.prepare(batch)
        training = self.trainer is not None and self.trainer.training
        if training and self.augmentation is not None and self.augmentation.on_device:
            batch[self.reads] = self.augmentation(batch[self.reads])
        return batch

    def prepare(self, batch: Batch) -> Batch:
        """Replace what was "recorded" by the network's input."""
        prepared = self.input.prepare(batch.pop("recorded"))
        return {**batch, self.reads: prepared}

    def fit_input(self) -> Fitted:
        """The input fitted on training exams, labelled ones only where there are targets."""
        stores = {name: store for name, store in self.stores.items() if store is not None}
        return self.input.fit(self.dataset.read, self.exams.iloc[self.chosen("train")], stores)

    def _rank_and_world(self) -> tuple[int, int]:
        trainer = self.trainer
        return (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)

    def _distributed(self, split: str, *, shuffle: bool) -> Sampler[int]:
        exams = self.chosen(split)
        rank, world = self._rank_and_world()
        return Chosen(
            exams,
            DistributedSampler(
                range(len(exams)),  # type: ignore[arg-type]
                world,
                rank,
                shuffle=shuffle,
                seed=self.loading.seed,
            ),
        )

    def _loader(
        self,
        sampler: Sampler[int],
        dataset: ExamDataset,
        kind: type[DataLoader[Batch]] = DataLoader,
        *,
        drop_last: bool = False,
    ) -> DataLoader[Batch]:
        return kind(
            dataset,
            drop_last=drop_last,
            batch_size=self.loading.batch_size,
            sampler=sampler,
            num_workers=self.loading.workers,
            collate_fn=_as_read,  # type: ignore[arg-type]
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.loading.workers > 0,
        )


class InstitutionDataModule(ExamDataModule):
    """One institution, trained, validated and tested on by itself.

    `store` is that of its input's files; an input that stands in `exams` has none.
    """

    def __init__(
        self, institution: str, exams: pd.DataFrame, store: Store | None, **settings: Any
    ) -> None:
        super().__init__(exams, {institution: store}, **settings)
        self.institution, self.store = institution, store


def _as_read(batch: Batch) -> Batch:
    return batch
