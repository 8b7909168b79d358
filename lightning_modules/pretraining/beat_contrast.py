"""Contrast between two halves of an exam, joined with prediction of what its waves share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn

from datamodules.beats import average_beat, find_beats
from lightning_modules.canonical import canonical_variates
from lightning_modules.linear import Directions
from lightning_modules.pretraining.over_time import OverTime
from lightning_modules.pretraining.pretraining import Arrays, Sheet, Verdict

FOUND = "val/found"
FOUND_BY_AMPLITUDE = "val/found_by_amplitude"
EXPLAINED = "val/explained"

RHYTHM = 2  # numbers that tell the rhythm


class BeatContrast(OverTime):
    """Pretrains on ECGs (batch[reads]: (B, leads, samples), normalised), a half at a time.

    From the mean over time of each half's features, two things are learned. Which half belongs to
    which: NT-Xent (Chen et al. 2020, SimCLR) between the 2 B halves of a batch at `temperature`,
    weighed by `contrast`. And what the waves of the whole exam's average beat and its rhythm have
    in common, by one linear layer: the first `variates` canonical variates (`canonical_variates`)
    of the beat's stretches between `waves_seconds` from the R wave, and of the mean and spread of
    the RR intervals. Disease shows in several waves at once, and noise in one.

    The variates are fitted on the training exams, none augmented, before the first step, with
    `ridge`. The loss is the squared error of each in its deviations, weighed by how much of it is
    shared. Beats are moved by at most `shift_seconds` to agree with the exam's others. An exam with
    fewer than three beats has the mean rhythm. `directions` tells a classifier's head what was
    shared most; all features stand `beside` it.

    Logs `val/found`, the share of halves whose nearest among all halves of the batch is their other
    one, beside `val/found_by_amplitude`, the same by the leads' standard deviations alone; and
    `val/explained`, the share of the weighed variates' variance that half an exam explains.
    """

    word: ClassVar[str] = "beat contrast"
    name: ClassVar[str] = "contrast of halves with prediction of what waves share"
    judging: ClassVar[tuple[str, ...]] = ("plateau_explained", "collapse_spread")
    shown: ClassVar[Mapping[str, str]] = {EXPLAINED: "shared variates explained"}
    numbers: ClassVar[Mapping[str, tuple[str, str]]] = {
        EXPLAINED: ("explained", "of what waves share explained"),
        FOUND: ("found", "halves found"),
        FOUND_BY_AMPLITUDE: ("found_by_amplitude", "found by amplitudes alone"),
    }
    example_caption: ClassVar[str] = (
        "A validation exam's average beat, and what was predicted from its first half."
    )

    fitted: Tensor
    mean: Tensor
    weights: Tensor
    back: Tensor
    shared: Tensor

    def __init__(
        self,
        *,
        rate_hz: float,
        waves_seconds: Sequence[float],
        shift_seconds: float,
        variates: int,
        ridge: float,
        temperature: float,
        contrast: float,
        projection: Sequence[int],
        beside: float,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        shape = shared["network"]["shape"]
        if len(waves_seconds) < 2 or any(a >= b for a, b in pairwise(waves_seconds)):
            raise ValueError(
                f"waves_seconds {list(waves_seconds)}: give at least two times from the R wave, in "
                "rising order"
            )
        edges = [round(seconds * rate_hz) for seconds in waves_seconds]
        self.before, self.after, self.shift = -edges[0], edges[-1], round(shift_seconds * rate_hz)
        beat, self.leads = self.before + self.after, shape["leads"]
        self.half_samples = shape["samples"] // 2
        if self.half_samples < beat:
            raise ValueError(
                f"half of {shape['samples']} samples is shorter than a beat of {beat}: shorten "
                "waves_seconds"
            )
        of_beat = torch.arange(self.leads * beat).view(self.leads, beat)
        self.views = [
            of_beat[:, start + self.before : stop + self.before].flatten()
            for start, stop in pairwise(edges)
        ]
        self.views.append(torch.arange(RHYTHM) + self.leads * beat)
        described = self.leads * beat + RHYTHM
        if not 0 < variates <= described:
            raise ValueError(f"variates {variates} is not between 1 and {described}")
        hidden, width = projection
        self.projection = nn.Sequential(
            nn.Linear(self.width, hidden), nn.ReLU(), nn.Linear(hidden, width)
        )
        self.prediction = nn.Linear(self.width, variates)
        self.register_buffer("fitted", torch.tensor(False))
        self.register_buffer("mean", torch.zeros(described))
        self.register_buffer("weights", torch.zeros(described, variates))
        self.register_buffer("back", torch.zeros(variates, described))
        self.register_buffer("shared", torch.ones(variates))

    def described(self, ecg: Tensor) -> Tensor:
        """(B, leads, samples) -> the average beat, lead by lead, and the logs of the RR intervals'
        mean and deviation in seconds (B, leads * beat + 2); nan where there are too few beats."""
        rate = self.hparams["rate_hz"]
        beats = find_beats(ecg, rate)
        beat = average_beat(ecg, beats, self.before, self.after, self.shift)
        known = (beats.peaks[:, 1:] >= 0).float()
        seconds = (beats.peaks[:, 1:] - beats.peaks[:, :-1]) * known / rate
        count = known.sum(1)
        mean = seconds.sum(1) / count.clamp_min(1)
        spread = ((seconds - mean[:, None]).square() * known).sum(1) / count.clamp_min(1)
        rhythm = torch.stack([mean.clamp_min(1 / rate).log(), (spread.sqrt() + 0.01).log()], 1)
        rhythm = torch.where((count > 1)[:, None], rhythm, torch.nan)
        return torch.cat([beat.flatten(1).float(), rhythm], dim=1)

    def targets(self, ecg: Tensor) -> Tensor:
        """(B, leads, samples) -> canonical variates (B, variates), in deviations of training
        exams."""
        centred = (self.described(ecg) - self.mean).nan_to_num()
        return centred @ self.weights

    def on_fit_start(self) -> None:
        if self.fitted:  # a cut one goes on
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self.fit_variates(
            data.prepare(move_data_to_device(batch, self.device))[self.reads]
            for batch in data.train_dataloader()
        )

    @torch.no_grad()
    def fit_variates(self, batches: Iterable[Tensor]) -> None:
        """Fit the variates on training exams (B, leads, samples), a batch after another; of several
        processes, on those of all."""
        size = len(self.mean)
        count = torch.zeros(size, dtype=torch.float64, device=self.device)
        total, outer = count.clone(), count.new_zeros(size, size)
        exams = count.new_zeros(())
        for ecg in batches:
            described = self.described(ecg).double()
            there = described.isfinite()
            # The unknown stands at the mean of its batch, which changes no mean.
            known = there.sum(0).clamp_min(1)
            mean = described.nan_to_num().sum(0) / known
            described = torch.where(there, described, mean)
            exams += len(described)
            total += described.sum(0)
            outer += described.T @ described
        if self._trainer is not None:
            exams, total, outer = (
                cast(Tensor, self.all_gather(of)).reshape(-1, *of.shape).sum(0)
                for of in (exams, total, outer)
            )
        mean = total / exams
        covariance = outer / exams - torch.outer(mean, mean)
        found = canonical_variates(
            covariance, self.views, ridge=self.hparams["ridge"], count=len(self.shared)
        )
        self.mean.copy_(mean)
        self.weights.copy_(found.weights)
        self.shared.copy_(found.shared)
        self.back.copy_(found.weights.T @ covariance)
        self.fitted.fill_(True)

    @property
    def weight_of(self) -> Tensor:
        """How much each variate's error counts (variates,): by the deviation that is shared, 1 on
        average."""
        share = self.shared.clamp_min(0).sqrt()
        return share / share.mean()

    @classmethod
    def directions(cls, kept: Mapping[str, Any]) -> Directions:
        weights = kept["state_dict"]
        shared = weights["shared"] / weights["shared"].max()
        return Directions(
            shared[:, None] * weights["prediction.weight"], kept["hyper_parameters"]["beside"]
        )

    def halves(self, ecg: Tensor) -> Tensor:
        """(B, leads, samples) -> first halves, then second ones (2 B, leads, samples / 2)."""
        return torch.cat([ecg[..., : self.half_samples], ecg[..., -self.half_samples :]])

    def pooled(self, ecg: Tensor) -> Tensor:
        """(B, leads, any samples) -> features averaged over time (B, width)."""
        return self.forward_map(ecg).mean(2)

    def similarity(self, pooled: Tensor) -> Tensor:
        """Halves' features (2 B, width) -> cosine of each pair's projections, -inf on the diagonal
        (2 B, 2 B)."""
        with torch.autocast(pooled.device.type, enabled=False):
            projected = F.normalize(self.projection(pooled.float()), dim=1)
            return (projected @ projected.T).fill_diagonal_(-torch.inf)

    def losses(self, pooled: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Of halves' features (2 B, width) and their exams' targets (B, variates): contrast, and
        prediction."""
        contrast = F.cross_entropy(
            self.similarity(pooled) / self.hparams["temperature"], others(len(pooled), pooled)
        )
        error = self.prediction(pooled).float() - targets.repeat(2, 1)
        return contrast, (error.square() * self.weight_of).mean()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        ecg = batch[self.reads]
        contrast, prediction = self.losses(self.pooled(self.halves(ecg)), self.targets(ecg))
        loss: Tensor = self.hparams["contrast"] * contrast + prediction
        self.log_dict({"train/loss": loss, "train/contrast": contrast, "train/waves": prediction})
        return loss

    def validated(self, ecg: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        halves, targets = self.halves(ecg), self.targets(ecg)
        pooled = self.pooled(halves)
        contrast, prediction = self.losses(pooled, targets)
        wanted = targets.repeat(2, 1)
        nearest = self.similarity(pooled).argmax(1)
        amplitude = halves.float().std(2).clamp_min(1e-6).log()
        apart = torch.cdist(amplitude, amplitude).fill_diagonal_(torch.inf)
        other = others(len(halves), ecg)
        return {
            "loss": len(ecg) * (self.hparams["contrast"] * contrast + prediction),
            "error": (self.prediction(pooled).float() - wanted).square().sum(0),
            "target": wanted.sum(0),
            "square": wanted.square().sum(0),
            "found": (nearest == other).float().sum() / 2,
            "found_by_amplitude": (apart.argmin(1) == other).float().sum() / 2,
        }

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        variance = sums["square"] - sums["target"].square() / (2 * sums["exams"])
        error, variance = ((of * self.weight_of).sum() for of in (sums["error"], variance))
        return {
            "val/loss": sums["loss"] / sums["exams"],
            EXPLAINED: 1 - error / variance.clamp_min(1e-12),
            FOUND: sums["found"] / sums["exams"],
            FOUND_BY_AMPLITUDE: sums["found_by_amplitude"] / sums["exams"],
        }

    def example(self, exam: Tensor, restore: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        predicted = self.prediction(self.pooled(exam[..., : self.half_samples])).float()
        beat = (predicted @ self.back + self.mean)[:, :-RHYTHM].view(1, self.leads, -1)
        drawn = torch.full_like(exam, torch.nan)
        beats = find_beats(exam, self.hparams["rate_hz"])
        for peak in beats.peaks[0, : int(beats.count[0])].tolist():
            start, stop = max(0, peak - self.before), min(exam.shape[2], peak + self.after)
            drawn[..., start:stop] = beat[
                ..., start - peak + self.before : stop - peak + self.before
            ]
        return {"original": restore(exam)[0], "reconstruction": restore(drawn)[0]}

    @classmethod
    def sheets(cls, example: Arrays) -> list[Sheet]:
        """The exam, and the average beat that its first half predicts at each of its beats."""
        signals = {"hidden": example["original"], "reconstruction": example["reconstruction"]}
        return [
            Sheet(
                "Recorded grey; blue, at every beat, the average beat told from the first half",
                signals,
            )
        ]

    @classmethod
    def told(cls, metrics: Mapping[str, float]) -> str:
        return (
            f"shared variates explained {metrics[EXPLAINED]:.3f}, "
            f"halves found {metrics[FOUND]:.3f} "
            f"(by amplitudes alone {metrics[FOUND_BY_AMPLITUDE]:.3f})"
        )

    @classmethod
    def verdict(cls, metrics: Mapping[str, float], settings: Mapping[str, Any]) -> Verdict:
        """Failed where it collapsed, or explains less of what waves share than
        `plateau_explained`."""
        if collapsed := cls.collapsed(metrics, settings):
            return collapsed
        explained = metrics[EXPLAINED]
        if explained < settings["plateau_explained"]:
            return Verdict(
                failed=(
                    "ended on its plateau: it explains "
                    f"{100 * explained:.1f} % of what the waves of a heartbeat share"
                ),
                advice=(
                    "Train longer (pretrain.max_steps, pretrain.max_epochs), or set a higher",
                    "pretrain.base_learning_rate.",
                ),
            )
        remark = (
            "an exam's halves are found more often by their leads' amplitudes alone; longer "
            "pretraining may pay."
        )
        return Verdict(remark=remark if metrics[FOUND] < metrics[FOUND_BY_AMPLITUDE] else "")

    @classmethod
    def summary(cls, pretrainings: Sequence[Mapping[str, float]]) -> str:
        more = sum(of[FOUND] > of[FOUND_BY_AMPLITUDE] for of in pretrainings)
        several = len(pretrainings) > 1
        learned = (
            f"{more} of {len(pretrainings)} encoders do"
            if several
            else ("the encoder does" if more else "the encoder does not")
        )
        return (
            "Explained is the share of the variance of what validation patients' waves have in "
            "common that half an exam predicts. Found is how often a half's nearest in its "
            "batch is its exam's other half, which the leads' amplitudes alone tell too: more "
            f"often than these {learned}."
        )


def others(halves: int, like: Tensor) -> Tensor:
    """Where each half's other one is, of first halves and then second ones (halves,)."""
    return torch.arange(halves, device=like.device).roll(halves // 2)
