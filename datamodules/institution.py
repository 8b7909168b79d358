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

from datamodules.inputs import (
    BNPReader,
    CXRReader,
    ECGReader,
    Preprocessing,
    Reader,
    millivolts,
    prepare,
)
from datamodules.transforms import (
    BNPPreprocessing,
    CXRAugmentation,
    CXRPreprocessing,
    ECGAugmentation,
    ECGPreprocessing,
)

Batch = dict[str, Any]
Augmentation = ECGAugmentation | CXRAugmentation


@dataclass(frozen=True)
class Loading:
    """How batches are read: exams a batch and process, reading processes, the shuffle's seed."""

    batch_size: int
    workers: int
    seed: int


@dataclass(frozen=True)
class Fitted:
    """What was learned from training exams without their targets.

    `ranges`: quantity -> its lowest and highest value; a later input outside them is unlike the
    training data. `lead_covariance` (12, 12): of preprocessed ECGs.
    """

    preprocessing: Preprocessing
    ranges: dict[str, tuple[float, float]]
    lead_covariance: Tensor | None = None


class ExamDataset(Dataset[Batch]):
    """Exams read a batch at a time as they were recorded.

    Films are augmented here, where the reading processes are; ECGs later, on the device.
    """

    def __init__(
        self,
        read: Reader,
        target: np.ndarray,
        institution: np.ndarray,
        augmentation: CXRAugmentation | None = None,
    ) -> None:
        self.read, self.target, self.institution = read, target, institution
        self.augmentation = augmentation

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, exam: int) -> Batch:
        return self.__getitems__([exam])

    def __getitems__(self, exams: Sequence[int]) -> Batch:
        """{recorded (what the reader gives), target (B,), exam (B,), institution (B,)}."""
        chosen = np.asarray(exams)
        recorded: Any = self.read(chosen)
        if self.augmentation is not None:
            recorded = torch.from_numpy(self.augmentation(recorded.numpy()))
        return {
            "recorded": recorded,
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
    """Loaders over one table of exams and one input: the one that `preprocessing` is for.

    `exams` (one row an exam; its position is batch["exam"]): institution, split ("train", "val",
    "test"; "held_out" for those kept from a cross-fitted model; "external" for an external
    institution's), patient_id, exam_id, row (in the institution's store), target (1, 0, or NaN
    where unknown), and for BNP the values themselves. With `labelled`, only exams with a target
    are drawn. After transfer to the device a batch holds "ecg" (B, 12, samples), "cxr"
    (B, 1, size, size) or "bnp" (B, features) in place of "recorded".
    """

    def __init__(
        self,
        exams: pd.DataFrame,
        stores: Mapping[str, Any],
        *,
        preprocessing: Preprocessing,
        augmentation: Augmentation | None,
        loading: Loading,
        labelled: bool,
    ) -> None:
        super().__init__()
        self.exams, self.stores = exams.reset_index(drop=True), dict(stores)
        self.preprocessing, self.augmentation = preprocessing, augmentation
        self.loading, self.labelled = loading, labelled
        numbers = {name: number for number, name in enumerate(self.stores)}
        institution = self.exams["institution"].map(numbers).to_numpy(np.int64)
        self.dataset = ExamDataset(
            self._reader(institution), self.exams["target"].to_numpy(np.float32), institution
        )

    def _reader(self, institution: np.ndarray) -> Reader:
        if isinstance(self.preprocessing, BNPPreprocessing):
            return BNPReader(self.preprocessing.features(self.exams))
        stores, row = list(self.stores.values()), self.exams["row"].to_numpy(np.int64)
        if isinstance(self.preprocessing, CXRPreprocessing):
            return CXRReader(stores, institution, row)
        return ECGReader(stores, institution, row, self.preprocessing.seconds)

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
        dataset = self.dataset
        if isinstance(self.augmentation, CXRAugmentation):
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
        batch = self.preprocess(batch)
        training = self.trainer is not None and self.trainer.training
        if training and isinstance(self.augmentation, ECGAugmentation):
            batch["ecg"] = self.augmentation(batch["ecg"])
        return batch

    def preprocess(self, batch: Batch) -> Batch:
        """Replace what was "recorded" by the network's input."""
        recorded = batch.pop("recorded")
        return {**batch, self.preprocessing.input: prepare(recorded, self.preprocessing)}

    def fit_statistics(self, exams: int) -> Fitted:
        """Normalisation and ranges of the training exams, labelled ones only where that is asked.

        At most `exams` ECGs are read for it, spread evenly over the table.
        """
        chosen = self.chosen("train")
        if isinstance(self.preprocessing, ECGPreprocessing):
            spread = np.linspace(0, len(chosen) - 1, min(exams, len(chosen))).astype(int)
            return self._fit_ecg(self.preprocessing, chosen[spread])
        table = self.exams.iloc[chosen]
        if isinstance(self.preprocessing, BNPPreprocessing):
            features = self.preprocessing.features(table)
            marker = table[self.preprocessing.marker]
            return Fitted(
                self.preprocessing.fitted(features), {self.preprocessing.marker: _range(marker)}
            )
        sizes = pd.concat(
            [
                store.index.iloc[table.loc[table["institution"] == name, "row"]]
                for name, store in self.stores.items()
            ]
        )
        return Fitted(
            self.preprocessing,
            {f"image {side} (pixels)": _range(sizes[side]) for side in ("width", "height")},
        )

    def _fit_ecg(self, preprocessing: ECGPreprocessing, chosen: np.ndarray) -> Fitted:
        total, outer, n = torch.zeros(12), torch.zeros(12, 12), 0
        unscaled = preprocessing.normalisation == "development"
        amplitudes: list[Tensor] = []
        rates: set[int] = set()
        for start in range(0, len(chosen), 64):
            recorded: Any = self.dataset.read(chosen[start : start + 64])
            rates.update(recorded)
            for rate, (_, samples, units, baseline) in recorded.items():
                ecg = preprocessing.filter_and_resample(millivolts(samples, units, baseline), rate)
                amplitudes.append(amplitude_mv(ecg))
                ecg = ecg if unscaled else preprocessing.normalise(ecg)
                total += ecg.sum((0, 2))
                outer += torch.einsum("blt,bmt->lm", ecg, ecg)
                n += ecg.shape[0] * ecg.shape[2]
        ranges = {
            "ECG sampling rate (Hz)": _range(list(rates)),
            "ECG amplitude (mV)": _range(torch.cat(amplitudes).tolist()),
        }
        mean = total / n
        covariance = outer / n - mean[:, None] * mean
        if not unscaled:
            return Fitted(preprocessing, ranges, covariance)
        deviation = covariance.diagonal().sqrt()
        return Fitted(
            preprocessing.fitted(mean, deviation),
            ranges,
            covariance / torch.outer(deviation, deviation),
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

    `store` is the one of its ECGs or of its films; BNP, which stands in `exams`, has none.
    """

    def __init__(self, name: str, exams: pd.DataFrame, store: Any, **settings: Any) -> None:
        super().__init__(exams, {name: store}, **settings)
        self.institution, self.store = name, store


def amplitude_mv(ecg_mv: Tensor) -> Tensor:
    """An exam's amplitude (B,): the standard deviation of all leads of (B, leads, n), in mV."""
    return ecg_mv.std((1, 2))


def _range(values: Any) -> tuple[float, float]:
    return float(min(values)), float(max(values))


def _as_read(batch: Batch) -> Batch:
    return batch
