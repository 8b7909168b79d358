import pytest
import torch

from lightning_modules.networks.masked_autoencoder import MaskedAutoencoderNetwork
from lightning_modules.networks.masking import mask_of, sample_visible
from lightning_modules.networks.vit import patchify, unpatchify


def build(*, normalise_targets: bool = False) -> MaskedAutoencoderNetwork:
    torch.manual_seed(0)
    return MaskedAutoencoderNetwork(
        leads=12,
        samples=200,
        patch_samples=20,
        encoder={"width": 32, "depth": 2, "heads": 2},
        decoder={"width": 16, "depth": 1, "heads": 2},
        normalise_targets=normalise_targets,
    )


@pytest.fixture
def ecg() -> torch.Tensor:
    return torch.randn(4, 12, 200, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def visible() -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return sample_visible(4, 12, 10, 0.75, "random", generator=generator)


def test_the_encoder_sees_visible_patches_only(ecg: torch.Tensor, visible: torch.Tensor) -> None:
    network = build()
    assert network.encode(ecg, visible).shape == (4, 1 + 30, 32)
    hidden = mask_of(visible, 120)
    changed = patchify(ecg, 20).clone()
    changed[hidden] = 1e3
    torch.testing.assert_close(
        network(unpatchify(changed, 12), visible), network(ecg, visible), rtol=0, atol=0
    )


def test_the_loss_is_that_of_masked_patches_only(ecg: torch.Tensor, visible: torch.Tensor) -> None:
    network = build()
    predicted = network(ecg, visible).detach().requires_grad_()
    loss = network.loss(ecg, visible, predicted)
    hidden = mask_of(visible, 120)
    expected = (predicted[hidden] - patchify(ecg, 20)[hidden]).square().mean()
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, predicted)
    assert (gradient[~hidden] == 0).all()
    assert (gradient[hidden] != 0).all()


def test_normalised_targets_are_each_patchs_own_and_put_back(
    ecg: torch.Tensor, visible: torch.Tensor
) -> None:
    network = build(normalise_targets=True)
    ecg = 5 * ecg + 3
    patches = patchify(ecg, 20)
    perfect = (patches - patches.mean(2, keepdim=True)) / patches.std(2, keepdim=True)
    assert network.loss(ecg, visible, perfect) < 1e-8
    torch.testing.assert_close(network.reconstruct(ecg, visible, perfect), ecg)


def test_a_reconstruction_keeps_what_was_visible(ecg: torch.Tensor, visible: torch.Tensor) -> None:
    network = build()
    reconstruction = patchify(network.reconstruct(ecg, visible, network(ecg, visible)), 20)
    hidden = mask_of(visible, 120)
    torch.testing.assert_close(reconstruction[~hidden], patchify(ecg, 20)[~hidden])
    torch.testing.assert_close(reconstruction[hidden], network(ecg, visible)[hidden])


def test_it_overfits_one_batch(visible: torch.Tensor) -> None:
    network = build()
    time = torch.linspace(0, 2, 200)
    ecg = torch.stack([(2 * torch.pi * (time + lag)).sin() for lag in torch.rand(48)])
    ecg = ecg.view(4, 12, 200)
    optimiser = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(300):
        loss = network.loss(ecg, visible, network(ecg, visible))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.05  # the signal's variance is 0.5
