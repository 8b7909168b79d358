"""Where an ECG's beats are, and cutting them out: in torch, batched, on any device.

Opens no file and knows no configuration, so that the preparation of data and networks share it.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Seconds. Two R waves are never nearer than REFRACTORY (a rate of 300 a minute).
REFRACTORY = 0.2
QRS = 0.1
SLOPE = 0.01


@dataclass(frozen=True)
class Beats:
    """R waves of a batch: `peaks` int64 (B, most), their samples in rising order, -1 where there
    are no more; `count` int64 (B,), how many there are."""

    peaks: Tensor
    count: Tensor


def find_beats(ecg: Tensor, rate_hz: float) -> Beats:
    """R waves of ECGs (B, leads, samples), on any linear scale, filtered, any leads absent (zero).

    The slope of all leads, summed and averaged over the length of a QRS, has its maximum at a beat;
    a beat's R wave is the largest deflection of all leads together beside that maximum. Maxima
    below 40 % of the highest, or below twice the median, are none: noise and ventricular flutter,
    which has no R wave, give few or no beats.
    """
    samples = ecg.shape[2]
    ecg = ecg.float()
    step = max(1, round(SLOPE * rate_hz))
    slope = F.pad((ecg[..., 2 * step :] - ecg[..., : -2 * step]).abs().sum(1), (step, step))
    energy = _mean_over(slope, QRS, rate_hz)
    highest = _highest_within(energy, REFRACTORY, rate_hz)
    usual = energy.quantile(0.5, dim=1, keepdim=True)
    threshold = torch.maximum(0.4 * energy.quantile(0.99, dim=1, keepdim=True), 2 * usual)
    found = (energy == highest) & (energy > threshold)

    most = int(samples / (REFRACTORY * rate_hz)) + 1
    order = torch.where(found, torch.arange(samples, device=ecg.device), samples)
    places = order.sort(1).values[:, :most]
    # The R wave: the largest deflection from the surroundings, within a QRS of the steepest place.
    surroundings = F.avg_pool1d(
        ecg, _odd(0.3, rate_hz), 1, _odd(0.3, rate_hz) // 2, count_include_pad=False
    )
    deflection = _mean_over((ecg - surroundings).square().sum(1), 0.02, rate_hz)
    reach = max(1, round(0.06 * rate_hz))
    near = places[..., None] + torch.arange(-reach, reach + 1, device=ecg.device)
    near = near.clamp(0, samples - 1)
    values = deflection.gather(1, near.flatten(1)).view_as(near)
    peaks = near.gather(2, values.argmax(2, keepdim=True))[..., 0]
    peaks = torch.where(places < samples, peaks, -1)
    return Beats(peaks, found.sum(1).clamp(max=most))


def cut(ecg: Tensor, centres: Tensor, before: int, after: int) -> Tensor:
    """(B, leads, samples), centres (B, K) -> (B, leads, K, before + after); beyond the ends of the
    ECG: its end's value."""
    batch, leads, samples = ecg.shape
    index = centres[..., None] + torch.arange(-before, after, device=ecg.device)
    index = index.clamp(0, samples - 1).view(batch, 1, -1).expand(-1, leads, -1)
    return ecg.gather(2, index).view(batch, leads, centres.shape[1], before + after)


def aligned(ecg: Tensor, centres: Tensor, before: int, after: int, most: int) -> Tensor:
    """Centres (B, K), each moved by at most `most` samples to agree with the exam's mean beat.

    Twice: the shift with the least squared difference over all leads. Centres of -1 stay and take
    no part.
    """
    there = centres >= 0
    length = before + after
    wide = cut(ecg, centres, before + most, after + most)
    squares = F.pad(wide.square().sum(1).cumsum(2), (1, 0))
    power = squares[..., length:] - squares[..., :-length]  # (B, K, shifts)
    beats, moved = wide[..., most : most + length], centres
    for _ in range(2):
        mean = (beats * there[:, None, :, None]).sum(2)
        mean = mean / there.sum(1).clamp_min(1)[:, None, None]
        # The mean beat at every shift: one product instead of one for each.
        shifted = F.pad(mean, (2 * most, 2 * most)).unfold(2, length + 2 * most, 1).flip(2)
        product = torch.einsum("blkt,blst->bks", wide, shifted)
        moved = centres + (power - 2 * product).argmin(2) - most
        beats = cut(ecg, moved, before, after)
    return torch.where(there, moved, centres)


def average_beat(ecg: Tensor, beats: Beats, before: int, after: int, most: int) -> Tensor:
    """The exam's average beat (B, leads, before + after): the median over its aligned beats.

    Beats cut by the recording's ends take no part where there are three whole ones or more. With
    no beat at all it is the median over eight evenly spread places.
    """
    samples = ecg.shape[2]
    centres = beats.peaks[:, : max(1, int(beats.count.max()))]
    whole = (centres >= before) & (centres <= samples - after)
    keep = torch.where((whole.sum(1) >= 3)[:, None], whole, centres >= 0)
    centres = torch.where(keep, centres, -1)
    none = beats.count == 0
    if none.any():
        spread = evenly(samples, 8, ecg.device).expand(len(ecg), -1)
        centres = F.pad(centres, (0, max(0, 8 - centres.shape[1])), value=-1)
        spread = F.pad(spread, (0, centres.shape[1] - 8), value=-1)
        centres = torch.where(none[:, None], spread, centres)
    there = centres >= 0
    cuts = cut(ecg, aligned(ecg, centres, before, after, most), before, after)
    cuts = torch.where(there[:, None, :, None], cuts, float("inf")).sort(2).values
    count = there.sum(1)[:, None, None, None].expand(-1, cuts.shape[1], 1, cuts.shape[3])
    middle: Tensor = (cuts.gather(2, (count - 1) // 2) + cuts.gather(2, count // 2))[:, :, 0] / 2
    return middle


def evenly(samples: int, count: int, device: torch.device | None = None) -> Tensor:
    """`count` places spread evenly over so many samples: the middle of each equal part."""
    return ((torch.arange(count, device=device) + 0.5) * samples / count).long()


def _odd(seconds: float, rate_hz: float) -> int:
    return 2 * round(seconds * rate_hz / 2) + 1


def _mean_over(signal: Tensor, seconds: float, rate_hz: float) -> Tensor:
    width = _odd(seconds, rate_hz)
    return F.avg_pool1d(signal[:, None], width, 1, width // 2)[:, 0]


def _highest_within(signal: Tensor, seconds: float, rate_hz: float) -> Tensor:
    width = _odd(2 * seconds, rate_hz)
    return F.max_pool1d(signal[:, None], width, 1, width // 2)[:, 0]
