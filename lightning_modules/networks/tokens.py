"""What a Vision Transformer takes an ECG apart into: patches of time, beats, or instants."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from datamodules.beats import aligned, cut, evenly, find_beats
from lightning_modules.target import resolve

LEAST_RATE_HZ = 50  # a QRS of 80 ms then has four samples


class Pieces(NamedTuple):
    """An ECG's N = rows * columns tokens before they are embedded.

    values: (B, N, V), each one's samples. beside: (B, N, E), what is told of it besides. present:
    bool (B, N); a token that is not takes no part, and its values are zero. starts: int64
    (B, columns), the sample at which each column begins.
    """

    values: Tensor
    beside: Tensor
    present: Tensor
    starts: Tensor


class Tokens(nn.Module, ABC):
    """Cuts ECGs (B, leads, samples) into a grid of `rows` x `columns` tokens, and embeds these.

    A row is a lead, or there is one row of all leads; a column is a stretch of `length` samples.
    Token `row * columns + column` has V values, [lead of its row, sample]. A lead that is zero
    throughout was not recorded: its tokens are absent.
    """

    def __init__(self, leads: int, samples: int, rows: int, columns: int, length: int) -> None:
        super().__init__()
        self.leads, self.samples = leads, samples
        self.rows, self.columns, self.length = rows, columns, length
        self.num_patches = rows * columns  # as timm calls it
        self.values = leads // rows * length

    @abstractmethod
    def forward(self, pieces: Pieces) -> Tensor:
        """Embedded tokens (B, N, width)."""

    def columns_of(self, ecg: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where columns begin, int64 (B, columns), which are there, bool (B, columns), and what is
        told of each besides, (B, columns, E): one after another, unless a subclass knows better."""
        starts = torch.arange(0, self.samples, self.length, device=ecg.device)
        starts = starts.expand(len(ecg), -1)
        return starts, torch.ones_like(starts, dtype=torch.bool), ecg.new_empty(*starts.shape, 0)

    def cut(self, ecg: Tensor) -> Pieces:
        """(B, leads, samples) -> its tokens. ValueError for another shape."""
        if ecg.shape[1:] != (self.leads, self.samples):
            raise ValueError(
                f"the network takes (leads, samples) {(self.leads, self.samples)}, "
                f"not {tuple(ecg.shape[1:])}"
            )
        with torch.no_grad():
            starts, there, beside = self.columns_of(ecg.float())
            recorded = (ecg != 0).any(2) if self.rows > 1 else ecg.new_ones(len(ecg), 1).bool()
            present = (recorded[:, :, None] & there[:, None]).flatten(1)
        values = self.of_leads(cut(ecg, starts, 0, self.length)) * present[..., None]
        beside = beside[:, None].expand(-1, self.rows, -1, -1).flatten(1, 2)
        return Pieces(values, beside, present, starts)

    def of_leads(self, stretches: Tensor) -> Tensor:
        """Samples by lead (B, leads, columns, length) -> by token (B, N, V)."""
        batch, leads = len(stretches), self.leads // self.rows
        by_row = stretches.reshape(batch, self.rows, leads, self.columns, self.length)
        return by_row.transpose(2, 3).flatten(3).flatten(1, 2)

    def by_lead(self, values: Tensor) -> Tensor:
        """The inverse of `of_leads`; a token's one value (B, N, 1) becomes its leads'."""
        leads = self.leads // self.rows
        by_row = values.expand(-1, -1, self.values).reshape(
            len(values), self.rows, self.columns, leads, self.length
        )
        return by_row.transpose(2, 3).flatten(1, 2)

    def laid(self, values: Tensor, which: Tensor, starts: Tensor) -> Tensor:
        """Tokens (B, N, V), those of `which` (B, N), put back to where they were cut.

        Gives (B, leads, samples): the mean of those that lie there, NaN where none does.
        """
        places = starts[:, :, None] + torch.arange(self.length, device=starts.device)
        inside = (places >= 0) & (places < self.samples)
        index = places.clamp(0, self.samples - 1)[:, None].expand(-1, self.leads, -1, -1).flatten(2)
        weight = (self.by_lead(which[..., None].float()) * inside[:, None]).flatten(2)
        there = values.new_zeros(len(values), self.leads, self.samples, dtype=torch.float32)
        total = there.scatter_add(2, index, self.by_lead(values.float()).flatten(2) * weight)
        return total / there.scatter_add(2, index, weight)


class TimeTokens(Tokens):
    """Each lead's patches of `patch_samples`, one after another (Sawano et al. 2024, Fig 2)."""

    def __init__(self, *, leads: int, samples: int, width: int, patch_samples: int) -> None:
        if samples % patch_samples:
            raise ValueError(f"{samples} samples are not a whole number of {patch_samples}-patches")
        super().__init__(leads, samples, leads, samples // patch_samples, patch_samples)
        self.proj = nn.Linear(patch_samples, width)

    def forward(self, pieces: Pieces) -> Tensor:
        # A matrix product: what timm's strided convolution computes, faster on a CPU.
        tokens: Tensor = self.proj(pieces.values)
        return tokens


class BeatTokens(Tokens):
    """Each lead's single beats: `beats` of them, spread evenly over those of the recording.

    A beat is cut from before_seconds to after_seconds around its R wave, which may move by
    shift_seconds to agree with the exam's mean beat, and is told the seconds to the beats before
    and after it (where there is none: the exam's mean).

    Only beats that lie whole within the recording are taken. Where these are fewer than `beats`,
    the last columns are absent. Where they are fewer than two, the stretches are cut around evenly
    spread places instead, and told 0 seconds. ValueError for sizes that can't be.
    """

    def __init__(
        self,
        *,
        leads: int,
        samples: int,
        width: int,
        beats: int,
        before_seconds: float,
        after_seconds: float,
        shift_seconds: float,
        rate_hz: float,
    ) -> None:
        if beats < 1:
            raise ValueError(f"tokens.beats={beats}: give at least 1")
        if rate_hz < LEAST_RATE_HZ:
            raise ValueError(
                f"beats are found from {LEAST_RATE_HZ} samples a second upwards, and the network "
                f"is given {rate_hz:g} (ecg.sampling_rate_hz)"
            )
        self.before, self.after, self.shift = (
            round(seconds * rate_hz) for seconds in (before_seconds, after_seconds, shift_seconds)
        )
        length = self.before + self.after
        if not 0 < length + 2 * self.shift <= samples or min(self.before, self.shift) < 0:
            raise ValueError(
                f"beats of {before_seconds + after_seconds:g} s, moved by up to {shift_seconds:g} "
                f"s, do not fit into the signal's {samples / rate_hz:g} s"
            )
        super().__init__(leads, samples, leads, beats, length)
        self.rate_hz = rate_hz
        self.proj = nn.Linear(length + 2, width)

    def columns_of(self, ecg: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        peaks = find_beats(ecg, self.rate_hz).peaks
        first, last = self.before + self.shift, self.samples - self.after - self.shift
        whole = (peaks >= first) & (peaks <= last)
        count = whole.sum(1, keepdim=True)
        # Of `count` whole beats, which follow one another, the middle one of each equal part.
        column = torch.arange(self.columns, device=ecg.device)
        spread = ((column + 0.5) * count / self.columns).long()
        chosen = torch.where(count >= self.columns, spread, column)
        there = column < count
        chosen = (chosen + (peaks >= 0).logical_and(peaks < first).sum(1, keepdim=True)).clamp(
            max=peaks.shape[1] - 1
        )
        centres = torch.where(there, peaks.gather(1, chosen), -1)
        centres = aligned(ecg, centres, self.before, self.after, self.shift)
        intervals = self._seconds_to_neighbours(peaks).gather(
            1, chosen[..., None].expand(-1, -1, 2)
        )

        few = count < 2
        even = first + evenly(last - first + 1, self.columns, ecg.device)
        centres = torch.where(few, even, centres)
        intervals = torch.where((few | ~there)[..., None], 0.0, intervals)
        return (centres - self.before).clamp_min(0), there | few, intervals

    def _seconds_to_neighbours(self, peaks: Tensor) -> Tensor:
        """(B, M) -> (B, M, 2): seconds to the beats before and after; for none, the mean."""
        known = (peaks[:, 1:] >= 0).float()
        between = (peaks[:, 1:] - peaks[:, :-1]) * known / self.rate_hz
        mean = between.sum(1, keepdim=True) / known.sum(1, keepdim=True).clamp_min(1)
        between = torch.where(known > 0, between, mean)
        return torch.stack([torch.cat([mean, between], 1), torch.cat([between, mean], 1)], 2)

    def forward(self, pieces: Pieces) -> Tensor:
        tokens: Tensor = self.proj(torch.cat([pieces.values, pieces.beside], 2))
        return tokens


class StemTokens(Tokens):
    """Instants of all leads, from a stack of convolutions (Xiao et al. 2021): one of each stride.

    A token is as many samples as the `strides` multiply to; each convolution reads three strides,
    so a token knows a little of its neighbours too. A lead that was not recorded adds nothing.
    """

    def __init__(self, *, leads: int, samples: int, width: int, strides: Sequence[int]) -> None:
        length = math.prod(strides)
        if not strides or samples % length:
            raise ValueError(f"{samples} samples are not a whole number of {length}-patches")
        super().__init__(leads, samples, 1, samples // length, length)
        layers: list[nn.Module] = []
        channels = leads
        for number, stride in enumerate(strides):
            wide = width if number == len(strides) - 1 else width // 2
            layers += [nn.GELU()] if layers else []
            layers.append(nn.Conv1d(channels, wide, 3 * stride, stride, padding=stride))
            channels = wide
        self.convolutions = nn.Sequential(*layers)

    def forward(self, pieces: Pieces) -> Tensor:
        ecg = self.by_lead(pieces.values).flatten(2)
        tokens: Tensor = self.convolutions(ecg).transpose(1, 2)
        return tokens


def tokens_of(settings: Mapping[str, Any], *, leads: int, samples: int, width: int) -> Tokens:
    """`settings` name a class (`_target_`) and hold its own. ValueError where it can't be built."""
    kind = resolve(settings["_target_"])
    own = {name: value for name, value in settings.items() if name != "_target_"}
    if not (isinstance(kind, type) and issubclass(kind, Tokens)):
        raise ValueError(f"tokens._target_={settings['_target_']} makes no Tokens")
    try:
        made: Tokens = cast(Any, kind)(leads=leads, samples=samples, width=width, **own)
    except TypeError as error:
        raise ValueError(f"tokens: {kind.__name__} can't be built ({error})") from None
    return made
