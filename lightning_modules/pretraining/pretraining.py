"""The protocol that every pretraining follows, so that nothing else asks which one it is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Self

import lightning as L
import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_modules.linear import Directions
from lightning_modules.target import name_of

Arrays = Mapping[str, NDArray[Any]]
PRETRAINING = "pretraining"  # in a checkpoint: the class's name


@dataclass(frozen=True)
class Sheet:
    """One panel of an example: signals (channels, samples) by name, nan where nothing is drawn, and
    which samples are shaded as hidden."""

    title: str
    signals: Mapping[str, NDArray[np.floating[Any]]]
    hidden: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Verdict:
    """What a pretraining has come to.

    failed: how it learned next to nothing, so that models that
    start from it say nothing about pretraining, or nothing; advice is then what to do, line by
    line. remark: what else there is to say.
    """

    failed: str = ""
    advice: Sequence[str] = ()
    remark: str = ""


class Pretraining(L.LightningModule, ABC):
    """Learns from batch[reads] (B, ...), prepared exams without targets.

    word: for it in a run's name. name: what a model is then pretrained as. shown: validation
    metric -> words for it, on the progress bar. judging: settings that judge a pretraining and
    don't make it. numbers: validation metric -> its column, and the words for it, in a report's
    table; example_caption: of the figure of an example. Hyper-parameters are plain values.

    input: the input's class (`_target_`) and fitted values; about: plain values that tell what it
    was trained on. Both are for whoever loads the checkpoint.
    """

    word: ClassVar[str]
    name: ClassVar[str]
    shown: ClassVar[Mapping[str, str]]
    judging: ClassVar[tuple[str, ...]] = ()
    numbers: ClassVar[Mapping[str, tuple[str, str]]]
    example_caption: ClassVar[str]
    reads: str
    input: Mapping[str, Any] = MappingProxyType({})
    about: Mapping[str, Any] = MappingProxyType({})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[PRETRAINING] = name_of(type(self))
        checkpoint["input"], checkpoint["about"] = dict(self.input), dict(self.about)

    def embed(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The encoder's embedding (B, D) of batch[reads]; ValueError where there is none."""
        raise ValueError(f"{type(self).__name__} has no embedding: it defines no embed()")

    @classmethod
    def of_network(cls, network: Mapping[str, Any]) -> dict[str, Any]:
        """What of a network (`_target_`, settings, shape...) it takes; another choice of the rest
        is the same pretraining."""
        return {name: network[name] for name in ("_target_", "settings", "shape")}

    @classmethod
    @abstractmethod
    def build(
        cls,
        settings: Mapping[str, Any],
        *,
        reads: str,
        network: Mapping[str, Any],
        statistics: Mapping[str, Any],
        effective_batch: int,
        seed: int,
    ) -> Self:
        """From the configured `settings`, the network to pretrain (`_target_`, settings, shape) and
        the input's fitted `statistics`. ValueError where they do not fit."""

    @classmethod
    @abstractmethod
    def encoder(cls, weights: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
        """Of a pretraining's `state_dict`, what `network`, a model's, starts from, by its own
        names."""

    @classmethod
    def directions(cls, kept: Mapping[str, Any]) -> Directions | None:
        """What a pretraining's checkpoint, `kept`, knows of its embedding's combinations before any
        label, if anything: how a classifier's head starts follows from it."""
        return None

    @abstractmethod
    def example(self, exam: Tensor, restore: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """What it makes of one prepared exam (1, ...), as `sheets` takes it; `restore` gives the
        units that were recorded."""

    @classmethod
    @abstractmethod
    def sheets(cls, example: Arrays) -> list[Sheet]:
        """The panels of a figure of an `example`, 12-lead ECGs; none where there is no figure."""

    @classmethod
    @abstractmethod
    def told(cls, metrics: Mapping[str, float]) -> str:
        """Its last validation metrics in a few words."""

    @classmethod
    @abstractmethod
    def verdict(cls, metrics: Mapping[str, float], settings: Mapping[str, Any]) -> Verdict:
        """What its last validation `metrics` say, by the configured `settings`."""

    @classmethod
    @abstractmethod
    def summary(cls, pretrainings: Sequence[Mapping[str, float]]) -> str:
        """A sentence of a report on the last validation metrics of one or several."""
