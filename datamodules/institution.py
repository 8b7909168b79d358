"""One institution's exams as batches, and the loaders that every DataModule here shares."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler

from datamodules.store import Store
from datamodules.transforms import ECGAugmentation, ECGPreprocessing

Batch = dict[str, Any]


@dataclass(frozen=True)
class Loading:
    """How batches are read: exams a batch and process, reading processes, the shuffle's seed."""

    batch_size: int
    workers: int
    seed: int


class ExamDataset(Dataset[Batch]):
    """Exams of one or more stores, read a batch at a time as they were recorded."""

    def __init__(
        self,
        stores: Sequence[Store],
        institution: np.ndarray,
        row: np.ndarray,
        target: np.ndarray,
        seconds: int,
    ) -> None:
        self.stores, self.seconds = stores, seconds
        self.institution, self.row, self.target = institution, row, target
        self.rate = np.empty(len(row), dtype=np.int64)
        for i, store in enumerate(stores):
            mine = institution == i
            self.rate[mine] = store.index["sampling_rate_hz"].to_numpy()[row[mine]]

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, exam: int) -> Batch:
        return self.__getitems__([exam])

    def __getitems__(self, exams: Sequence[int]) -> Batch:
        """{signals, target (B,), exam (B,), institution (B,)}.

        `signals` holds, for each sampling rate in the batch, its exams' places in the batch (b,),
        their first `seconds` as int16 (b, 12, n), and units a mV and baseline (b, 12).
        """
        chosen = np.asarray(exams)
        signals = {}
        for rate in np.unique(self.rate[chosen]):
            places = np.flatnonzero(self.rate[chosen] == rate)
            n = int(rate) * self.seconds
            of_rate = [
                (self.stores[self.institution[exam]], self.row[exam]) for exam in chosen[places]
            ]
            signals[int(rate)] = (
                torch.from_numpy(places),
                torch.from_numpy(np.stack([store.read(row, n) for store, row in of_rate])),
                torch.from_numpy(
                    np.stack([store.units_per_mv[row] for store, row in of_rate], dtype=np.float32)
                ),
                torch.from_numpy(np.stack([store.baseline[row] for store, row in of_rate])),
            )
        return {
            "signals": signals,
            "target": torch.from_numpy(self.target[chosen]),
            "exam": torch.from_numpy(chosen),
            "institution": torch.from_numpy(self.institution[chosen]),
        }


class EachOnce(Sampler[int]):
    """Every `world`-th of the given exams, none repeated: predictions need each exam once."""

    def __init__(self, exams: np.ndarray, rank: int, world: int) -> None:
        self.exams = exams[rank::world]

    def __len__(self) -> int:
        return len(self.exams)

    def __iter__(self) -> Iterator[int]:
        return iter(self.exams.tolist())


class Chosen(Sampler[int]):
    """The given exams in the order of a `DistributedSampler` over them, the first `skip` left out.

    `skip` holds for one epoch: the one that a cut run goes on with.
    """

    def __init__(self, exams: np.ndarray, sampler: "DistributedSampler[int]") -> None:
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
    """Loaders over one table of exams.

    `exams` (one row an exam; its position is batch["exam"]): institution, split ("train", "val",
    "test"; "external" for an external institution's), patient_id, exam_id, row (in the
    institution's store), target (1, 0, or NaN where unknown). With `labelled`, only exams with a
    target are drawn. After transfer to the device a batch holds "ecg" (B, 12, samples) in place of
    "signals".
    """

    def __init__(
        self,
        exams: pd.DataFrame,
        stores: Mapping[str, Store],
        *,
        preprocessing: ECGPreprocessing,
        augmentation: ECGAugmentation | None,
        loading: Loading,
        labelled: bool,
    ) -> None:
        super().__init__()
        self.exams, self.stores = exams.reset_index(drop=True), dict(stores)
        self.preprocessing, self.augmentation = preprocessing, augmentation
        self.loading, self.labelled = loading, labelled
        names = list(self.stores)
        self.dataset = ExamDataset(
            list(self.stores.values()),
            self.exams["institution"].map({n: i for i, n in enumerate(names)}).to_numpy(np.int64),
            self.exams["row"].to_numpy(np.int64),
            self.exams["target"].to_numpy(np.float32),
            preprocessing.seconds,
        )

    def chosen(self, *splits: str) -> np.ndarray:
        """Positions in `exams` of the splits' exams, labelled ones only where that is asked."""
        wanted = self.exams["split"].isin(splits)
        if self.labelled:
            wanted &= self.exams["target"].notna()
        return np.flatnonzero(wanted.to_numpy())

    @property
    def train_targets(self) -> np.ndarray:
        """Targets (n,) of the training exams, for class weights."""
        return self.exams["target"].to_numpy()[self.chosen("train")]

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self._distributed("train", shuffle=True), ResumableLoader)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self._distributed("val", shuffle=False))

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Validation, internal test and external exams; never those trained on."""
        exams = self.chosen("val", "test", "external")
        return self._loader(EachOnce(exams, *self._rank_and_world()))

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        batch = self.preprocess(batch)
        if self.augmentation is not None and self.trainer is not None and self.trainer.training:
            batch["ecg"] = self.augmentation(batch["ecg"])
        return batch

    def preprocess(self, batch: Batch) -> Batch:
        """Replace the recorded "signals" by the network's input "ecg" (B, 12, samples)."""
        signals = batch.pop("signals")
        ecg = None
        for rate, (places, samples, units_per_mv, baseline) in signals.items():
            part = self.preprocessing(millivolts(samples, units_per_mv, baseline), rate)
            if ecg is None:
                ecg = part.new_empty(len(batch["exam"]), *part.shape[1:])
            ecg[places] = part
        return {**batch, "ecg": ecg}

    def fit_statistics(self, exams: int) -> tuple[ECGPreprocessing, Tensor]:
        """The preprocessing fitted on training exams, and its output's lead covariance (12, 12).

        At most `exams` of them are read, spread evenly over the table.
        """
        chosen = self.chosen("train")
        chosen = chosen[np.linspace(0, len(chosen) - 1, min(exams, len(chosen))).astype(int)]
        total, outer, n = torch.zeros(12), torch.zeros(12, 12), 0
        unscaled = self.preprocessing.normalisation == "development"
        for start in range(0, len(chosen), 64):
            batch = self.dataset.__getitems__(chosen[start : start + 64])
            for rate, (_, samples, units, baseline) in batch["signals"].items():
                ecg = self.preprocessing.filter_and_resample(
                    millivolts(samples, units, baseline), rate
                )
                ecg = ecg if unscaled else self.preprocessing.normalise(ecg)
                total += ecg.sum((0, 2))
                outer += torch.einsum("blt,bmt->lm", ecg, ecg)
                n += ecg.shape[0] * ecg.shape[2]
        mean = total / n
        covariance = outer / n - mean[:, None] * mean
        if not unscaled:
            return self.preprocessing, covariance
        deviation = covariance.diagonal().sqrt()
        return self.preprocessing.fitted(mean, deviation), covariance / torch.outer(
            deviation, deviation
        )

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
        self, sampler: Sampler[int], kind: type[DataLoader[Batch]] = DataLoader
    ) -> DataLoader[Batch]:
        return kind(
            self.dataset,
            batch_size=self.loading.batch_size,
            sampler=sampler,
            num_workers=self.loading.workers,
            collate_fn=_as_read,  # type: ignore[arg-type]
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.loading.workers > 0,
        )


class InstitutionDataModule(ExamDataModule):
    """One institution, trained, validated and tested on by itself."""

    def __init__(self, name: str, exams: pd.DataFrame, store: Store, **settings: Any) -> None:
        super().__init__(exams, {name: store}, **settings)
        self.institution, self.store = name, store


def millivolts(samples: Tensor, units_per_mv: Tensor, baseline: Tensor) -> Tensor:
    """Digital samples (b, 12, n) with units a mV and baseline (b, 12) -> float32 mV."""
    return (samples.float() - baseline.float()[..., None]) / units_per_mv[..., None]


def _as_read(batch: Batch) -> Batch:
    return batch
