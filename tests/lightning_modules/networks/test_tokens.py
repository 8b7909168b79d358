"""Tokens of time, beats and instants: grids, cutting and laying back, and what is absent."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datamodules.beats import find_beats
from lightning_modules.networks.tokens import BeatTokens, StemTokens, TimeTokens, Tokens, tokens_of
from lightning_modules.networks.vit import ViT

HERE = "lightning_modules.networks.tokens."
TIME = {"_target_": HERE + "TimeTokens", "patch_samples": 100}
BEATS = {
    "_target_": HERE + "BeatTokens",
    "beats": 4,
    "before_seconds": 0.3,
    "after_seconds": 0.5,
    "shift_seconds": 0.04,
    "rate_hz": 100,
}
STEM = {"_target_": HERE + "StemTokens", "strides": [5, 2]}
KINDS = pytest.mark.parametrize("settings", [TIME, BEATS, STEM])


def made(settings: dict[str, Any], leads: int = 12, **changes: Any) -> Tokens:
    torch.manual_seed(0)
    return tokens_of({**settings, **changes}, leads=leads, samples=1000, width=16)


def ecg_of(*exams: list[int], leads: int = 12) -> Tensor:
    """(B, leads, 1000) at 100 Hz, with R waves at these samples."""
    samples = torch.arange(1000)
    ecg = 0.001 * torch.randn(len(exams), leads, 1000, generator=torch.Generator().manual_seed(0))
    heights = torch.linspace(0.5, 1.5, leads)[:, None]
    for number, peaks in enumerate(exams):
        for peak in peaks:
            ecg[number] += heights * torch.exp(-(((samples - peak) / 1.5) ** 2) / 2)
            ecg[number] += 0.2 * torch.exp(-(((samples - peak - 24) / 4.0) ** 2) / 2)
    return ecg


TEN = list(range(50, 1000, 100))


@pytest.mark.parametrize("leads", [12, 8])
@pytest.mark.parametrize(
    ("settings", "rows", "columns", "values"),
    [(TIME, "a lead", 10, 100), (BEATS, "a lead", 4, 80), (STEM, "all", 100, 10)],
)
def test_grids(settings: dict[str, Any], rows: str, columns: int, values: int, leads: int) -> None:
    tokens = made(settings, leads)
    expected = leads if rows == "a lead" else 1
    assert (tokens.rows, tokens.columns) == (expected, columns)
    assert tokens.num_patches == expected * columns
    assert tokens.values == (values if expected > 1 else leads * values)
    pieces = tokens.cut(ecg_of(TEN, TEN, leads=leads))
    assert pieces.values.shape == (2, tokens.num_patches, tokens.values)
    assert pieces.present.all()
    assert tokens(pieces).shape == (2, tokens.num_patches, 16)


@KINDS
@pytest.mark.parametrize("leads", [12, 8])
def test_what_was_cut_is_laid_back_where_it_was(settings: dict[str, Any], leads: int) -> None:
    tokens = made(settings, leads)
    ecg = ecg_of(TEN, [120, 180, 500, 900], leads=leads)
    pieces = tokens.cut(ecg)
    laid = tokens.laid(pieces.values, pieces.present, pieces.starts)
    there = ~laid.isnan()
    torch.testing.assert_close(laid[there], ecg[there])
    if settings is BEATS:
        assert 0.2 < there.float().mean() < 0.5  # of 10 s, less than 4 beats of 0.8 s
    else:
        assert there.all()
    nothing = tokens.laid(pieces.values, torch.zeros_like(pieces.present), pieces.starts)
    assert nothing.isnan().all()


@KINDS
def test_by_lead_is_the_inverse_of_of_leads(settings: dict[str, Any]) -> None:
    tokens = made(settings)
    stretches = torch.randn(2, 12, tokens.columns, tokens.length)
    assert torch.equal(tokens.by_lead(tokens.of_leads(stretches)), stretches)
    one = torch.randn(2, tokens.num_patches, 1)
    spread = tokens.by_lead(one)
    expected = one.view(2, tokens.rows, tokens.columns, 1)
    assert torch.equal(spread, expected.expand(-1, 12, -1, tokens.length))


def test_beats_are_cut_around_r_waves_and_told_their_neighbours() -> None:
    peaks = [60, 160, 270, 350, 460, 560, 700, 800, 900]
    tokens = made(BEATS)
    pieces = tokens.cut(ecg_of(peaks))
    # Of nine whole beats, the middle ones of four equal parts.
    chosen = [peaks[1], peaks[3], peaks[5], peaks[7]]
    assert (pieces.starts[0] + 30 - torch.tensor(chosen)).abs().max() <= 1
    lead = pieces.values.view(12, 4, 80)
    assert lead[11].argmax(1).sub(30).abs().max() <= 1
    expected = torch.tensor([[1.0, 1.1], [0.8, 1.1], [1.0, 1.4], [1.0, 1.0]])
    beside = pieces.beside.view(12, 4, 2)
    torch.testing.assert_close(beside[0], expected, atol=0.021, rtol=0)
    assert torch.equal(beside[0], beside[11])


def test_where_there_is_no_neighbour_it_is_the_mean() -> None:
    peaks = [100, 200, 320, 460]  # from 1.0 to 1.4 s, their mean 1.2 s
    beside = made(BEATS).cut(ecg_of(peaks)).beside.view(12, 4, 2)[0]
    expected = torch.tensor([[1.2, 1.0], [1.0, 1.2], [1.2, 1.4], [1.4, 1.2]])
    torch.testing.assert_close(beside, expected, atol=0.021, rtol=0)


def test_too_few_beats_leave_the_last_columns_absent() -> None:
    pieces = made(BEATS).cut(ecg_of([200, 500, 800], TEN))
    present = pieces.present.view(2, 12, 4)
    assert present[0].tolist() == [[True, True, True, False]] * 12
    assert present[1].all()
    absent = pieces.values[~pieces.present]
    assert (absent == 0).all()
    assert (pieces.beside[~pieces.present] == 0).all()


def test_beats_that_the_ends_cut_are_not_taken_but_tell_intervals() -> None:
    pieces = made(BEATS).cut(ecg_of([20, 120, 220, 320, 970]))
    assert pieces.present.view(12, 4)[0].tolist() == [True, True, True, False]
    expected = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 6.5]])
    torch.testing.assert_close(pieces.beside.view(12, 4, 2)[0, :3], expected, atol=0.021, rtol=0)


def test_without_beats_stretches_are_evenly_spread_and_told_nothing() -> None:
    noise = torch.randn(1, 12, 1000, generator=torch.Generator().manual_seed(0))
    assert find_beats(noise, 100).count[0] == 0
    for ecg in (noise, ecg_of([500])):
        pieces = made(BEATS).cut(ecg)
        assert pieces.present.all()
        assert (pieces.beside == 0).all()
        gaps = pieces.starts[0].diff()
        assert gaps.min() > 200
        assert gaps.max() - gaps.min() <= 10
        assert 0 <= pieces.starts.min() < pieces.starts.max() <= 920


@pytest.mark.parametrize("settings", [TIME, BEATS])
def test_an_absent_lead_takes_no_part(settings: dict[str, Any]) -> None:
    ecg = ecg_of(TEN, TEN)
    ecg[0, 7] = 0
    tokens = made(settings)
    present = tokens.cut(ecg).present.view(2, 12, -1)
    assert not present[0, 7].any()
    assert present.sum() == (2 * 12 - 1) * tokens.columns

    torch.manual_seed(0)
    for pooling in ("mean", "class_token"):
        network = ViT(
            leads=12,
            samples=1000,
            tokens=settings,
            width=16,
            depth=2,
            heads=2,
            outputs=1,
            pooling=pooling,
        ).eval()
        nn.init.normal_(network.head.weight)  # type: ignore[union-attr, arg-type]
        before = network(ecg)
        with torch.no_grad():  # what its tokens would be told changes nothing
            own = network.pos_embed[:, 7 * tokens.columns : 8 * tokens.columns]
            own += 3 * torch.randn_like(own)
            after = network(ecg)
        torch.testing.assert_close(after[0], before[0])
        assert (after[1] - before[1]).abs() > 1e-3


def test_an_absent_lead_adds_nothing_to_a_stem() -> None:
    ecg = ecg_of(TEN)
    ecg[0, 7] = 0
    tokens = made(STEM)
    first = tokens(tokens.cut(ecg))
    with torch.no_grad():
        tokens.convolutions[0].weight[:, 7] += 3  # type: ignore[operator, index, union-attr]
    assert torch.equal(tokens(tokens.cut(ecg)), first)


def test_a_vision_transformer_of_eight_leads_and_features_over_time() -> None:
    sizes: dict[str, Any] = {"leads": 8, "samples": 1000, "width": 16, "depth": 1, "heads": 2}
    ecg = ecg_of(TEN, TEN, leads=8)
    for settings in (TIME, BEATS, STEM):
        assert ViT(**sizes, tokens=settings, outputs=3)(ecg).shape == (2, 3)
    assert ViT(**sizes, tokens=STEM).forward_map(ecg).shape == (2, 16, 100)
    with pytest.raises(ValueError, match="tokens=stem"):
        ViT(**sizes, tokens=TIME).forward_map(ecg)


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        (TIME, {"patch_samples": 30}, "1000 samples are not a whole number of 30-patches"),
        (TIME, {"patch_sample": 30}, "tokens: TimeTokens can't be built .*patch_sample"),
        (TIME, {"_target_": "torch.nn.Linear"}, "tokens._target_=torch.nn.Linear makes no Tokens"),
        (BEATS, {"rate_hz": 40}, r"from 50 samples a second.* 40 \(ecg.sampling_rate_hz\)"),
        (BEATS, {"after_seconds": 10}, "10.3 s, .* do not fit into the signal's 10 s"),
        (BEATS, {"before_seconds": -0.1}, "do not fit"),
        (BEATS, {"beats": 0}, "tokens.beats=0: give at least 1"),
        (STEM, {"strides": [3, 7]}, "1000 samples are not a whole number of 21-patches"),
        (STEM, {"strides": []}, "whole number"),
    ],
)
def test_one_sentence_for_each_mistake(
    settings: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        made(settings, **changes)
    assert "\n" not in str(raised.value)


@KINDS
def test_another_shape_is_refused_with_both(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\(12, 1000\), not \(8, 1000\)"):
        made(settings).cut(torch.zeros(1, 8, 1000))


def test_tokens_are_of_their_classes() -> None:
    kinds = [type(made(settings)) for settings in (TIME, BEATS, STEM)]
    assert kinds == [TimeTokens, BeatTokens, StemTokens]
