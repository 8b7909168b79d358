import pytest
import torch

from lightning_modules.networks.masked_autoencoder import MaskedAutoencoderNetwork
from lightning_modules.networks.masking import mask_of, sample_visible
from lightning_modules.networks.tokens import Pieces

TIME = {"_target_": "lightning_modules.networks.tokens.TimeTokens", "patch_samples": 20}
STEM = {"_target_": "lightning_modules.networks.tokens.StemTokens", "strides": [5, 2]}


def build(
    *, normalise_targets: bool = False, tokens: dict[str, object] = TIME
) -> MaskedAutoencoderNetwork:
    torch.manual_seed(0)
    return MaskedAutoencoderNetwork(
        leads=12,
        samples=200,
        tokens=tokens,
        encoder={"width": 32, "depth": 2, "heads": 2},
        decoder={"width": 16, "depth": 1, "heads": 2},
        normalise_targets=normalise_targets,
    )


@pytest.fixture
def ecg() -> torch.Tensor:
    return torch.randn(4, 12, 200, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def pieces(ecg: torch.Tensor) -> Pieces:
    return build().tokens.cut(ecg)


@pytest.fixture
def visible() -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return sample_visible(4, 12, 10, 0.75, "random", generator=generator)


@pytest.mark.parametrize("tokens", [TIME, STEM])
def test_the_encoder_sees_visible_tokens_only(ecg: torch.Tensor, tokens: dict[str, object]) -> None:
    network = build(tokens=tokens)
    pieces = network.tokens.cut(ecg)
    grid = network.tokens.rows, network.tokens.columns
    visible = sample_visible(4, *grid, 0.75, "random", generator=torch.Generator().manual_seed(2))
    assert network.encode(pieces, visible).shape == (4, 1 + visible.shape[1], 32)
    values = pieces.values.masked_fill(mask_of(visible, network.tokens.num_patches)[..., None], 1e3)
    changed = network(pieces._replace(values=values), visible)
    torch.testing.assert_close(changed, network(pieces, visible), rtol=0, atol=0)


def test_the_loss_is_that_of_masked_tokens_only(pieces: Pieces, visible: torch.Tensor) -> None:
    network = build()
    predicted = network(pieces, visible).detach().requires_grad_()
    loss = network.loss(pieces, visible, predicted)
    hidden = mask_of(visible, 120)
    torch.testing.assert_close(loss, (predicted[hidden] - pieces.values[hidden]).square().mean())
    (gradient,) = torch.autograd.grad(loss, predicted)
    assert (gradient[~hidden] == 0).all()
    assert (gradient[hidden] != 0).all()


def test_a_lead_that_was_not_recorded_takes_no_part(
    ecg: torch.Tensor, visible: torch.Tensor
) -> None:
    network = build()
    ecg[1:, 5] = 0
    pieces = network.tokens.cut(ecg)
    predicted = network(pieces, visible).detach().requires_grad_()
    loss = network.loss(pieces, visible, predicted)
    absent = torch.zeros(4, 12, 10, dtype=torch.bool)
    absent[1:, 5] = True
    counted = mask_of(visible, 120) & ~absent.flatten(1)
    torch.testing.assert_close(loss, (predicted[counted] - pieces.values[counted]).square().mean())
    (gradient,) = torch.autograd.grad(loss, predicted)
    assert (gradient[~counted] == 0).all()
    # Nor does anybody attend to it: whatever it were told, all others' predictions are the same.
    values = torch.where(absent.flatten(1)[..., None], 1e3, pieces.values)
    changed = network(pieces._replace(values=values), visible)
    torch.testing.assert_close(changed[counted], predicted[counted].detach())


def test_normalised_targets_are_each_tokens_own_and_put_back(
    ecg: torch.Tensor, visible: torch.Tensor
) -> None:
    network = build(normalise_targets=True)
    pieces = network.tokens.cut(5 * ecg + 3)
    values = pieces.values
    perfect = (values - values.mean(2, keepdim=True)) / values.std(2, keepdim=True)
    assert network.loss(pieces, visible, perfect) < 1e-8
    torch.testing.assert_close(network.in_units(pieces, perfect), values)


def test_it_overfits_one_batch(visible: torch.Tensor) -> None:
    network = build()
    time = torch.linspace(0, 2, 200)
    ecg = torch.stack([(2 * torch.pi * (time + lag)).sin() for lag in torch.rand(48)])
    pieces = network.tokens.cut(ecg.view(4, 12, 200))
    optimiser = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(300):
        loss = network.loss(pieces, visible, network(pieces, visible))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.05  # the signal's variance is 0.5
