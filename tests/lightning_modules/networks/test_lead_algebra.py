import numpy as np
import torch

from lightning_modules.networks.lead_algebra import least_squares_reconstruction
from lightning_modules.networks.masking import mask_of, sample_visible


def test_it_is_what_numpys_least_squares_gives() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(5, 3))
    signal = rng.normal(size=(64, 40, 3)) @ mixing.T + 0.3 * rng.normal(size=(64, 40, 5))
    signal -= signal.mean((0, 1))
    flat = signal.reshape(-1, 5)
    covariance = torch.tensor(flat.T @ flat / len(flat))
    hidden = np.array([True, False, True, False, True])
    seen = torch.tensor(~hidden)[:, None].expand(64, 5, 4)
    ecg = torch.tensor(signal).transpose(1, 2).reshape(64, 5, 4, 10)
    predicted = least_squares_reconstruction(ecg, seen, covariance).flatten(2)
    weights, *_ = np.linalg.lstsq(flat[:, ~hidden], flat[:, hidden], rcond=None)
    expected = torch.tensor(signal[..., ~hidden] @ weights).transpose(1, 2)
    torch.testing.assert_close(predicted[:, hidden], expected, rtol=1e-4, atol=1e-4)


def test_a_limb_lead_follows_from_two_others_and_nothing_from_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    lead_i, lead_ii = torch.randn(2, 2000, generator=generator)
    limb = torch.stack(
        [
            lead_i,
            lead_ii,
            lead_ii - lead_i,
            -(lead_i + lead_ii) / 2,
            lead_i - lead_ii / 2,
            lead_ii - lead_i / 2,
        ]
    )
    covariance = (limb @ limb.T / limb.shape[1]).double()
    stretches = limb[None, :, None]  # of one column
    seen = torch.tensor([True, False, True, False, False, False])[None, :, None]  # I and III
    predicted = least_squares_reconstruction(stretches, seen, covariance)
    torch.testing.assert_close(predicted, stretches, rtol=1e-3, atol=1e-3)
    nothing = torch.zeros(1, 6, 1, dtype=torch.bool)
    assert (least_squares_reconstruction(stretches, nothing, covariance) == 0).all()


def test_each_instant_uses_its_own_visible_leads() -> None:
    generator = torch.Generator().manual_seed(0)
    ecg = torch.randn(3, 12, 40, generator=generator)
    visible = sample_visible(3, 12, 4, 0.5, "random", generator=generator)
    seen = ~mask_of(visible, 48).view(3, 12, 4)
    stretches = ecg.view(3, 12, 4, 10)
    predicted = least_squares_reconstruction(stretches, seen, torch.eye(12))
    # Uncorrelated leads tell nothing of one another, and a visible one itself.
    torch.testing.assert_close(predicted, stretches * seen[..., None], rtol=1e-4, atol=1e-4)
