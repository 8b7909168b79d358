import pytest
import torch

from lightning_modules.networks.masking import STRATEGIES, mask_of, sample_visible


def draw(strategy: str, batch: int = 64, ratio: float = 0.75) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    visible = sample_visible(batch, 12, 20, ratio, strategy, generator=generator)
    return mask_of(visible, 240).view(batch, 12, 20)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_ecg_keeps_60_of_240_patches(strategy: str) -> None:
    assert ((~draw(strategy)).sum((1, 2)) == 60).all()


def test_random_hides_each_patch_three_times_in_four() -> None:
    rate = draw("random", batch=4000).float().mean(0)
    assert (rate - 0.75).abs().max() < 5 * (0.75 * 0.25 / 4000) ** 0.5


def test_time_hides_all_leads_of_an_instant_together() -> None:
    mask = draw("time")
    assert (mask == mask[:, :1]).all()
    assert (mask[:, 0].sum(1) == 15).all()


def test_lead_hides_whole_leads() -> None:
    mask = draw("lead")
    assert (mask == mask[:, :, :1]).all()
    assert (mask[:, :, 0].sum(1) == 9).all()


def test_mixed_draws_all_three() -> None:
    mask = draw("mixed", batch=300)
    time = (mask == mask[:, :1]).all(2).all(1)
    lead = (mask == mask[:, :, :1]).all(2).all(1)
    shares = torch.stack([time, lead, ~(time | lead)]).float().mean(1)
    assert (shares - 1 / 3).abs().max() < 5 * (2 / 9 / 300) ** 0.5


def test_a_ratio_that_whole_instants_do_not_reach_hides_one_in_part() -> None:
    visible = sample_visible(8, 12, 10, 0.75, "time", generator=torch.Generator().manual_seed(0))
    hidden = mask_of(visible, 120).view(8, 12, 10).sum(1)  # hidden leads of each instant
    assert (visible.shape[1], (hidden == 12).sum(1).tolist()) == (30, [7] * 8)
    assert ((hidden > 0) & (hidden < 12)).sum(1).tolist() == [1] * 8


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_a_ratio_that_hides_nothing_or_everything_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="tokens visible"):
        sample_visible(1, 12, 20, ratio, "random")


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(ValueError, match="random, time, lead, mixed"):
        sample_visible(1, 12, 20, 0.75, "blocks")
