import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from places import REPOSITORY
from scipy.signal import cont2discrete
from tiny import classifier, losses_on_a_wave_in_noise
from torch import Tensor

from lightning_modules.networks.network import embedding
from lightning_modules.networks.s4 import S4D, DiagonalStateSpace

SETTINGS = {"width": 8, "layers": 2, "states": 4, "dropout": 0.0}


def made_space(width: int, states: int) -> DiagonalStateSpace:
    """With damping, frequencies and steps that all differ, in double precision."""
    torch.manual_seed(0)
    space = DiagonalStateSpace(width, states).double()
    for parameter in (space.log_damping, space.frequency):
        parameter.data += 0.3 * torch.randn_like(parameter)
    space.log_step.data = torch.linspace(-3, -1, width).double()[:, None]
    return space


def recurrence(space: DiagonalStateSpace, channel: int, direction: int, u: Tensor) -> list[float]:
    """y_k = C x_k with x_k = A x_(k-1) + B u_k, step by step, of scipy's zero-order hold.

    The complex numbers of a channel as pairs of real ones.
    """
    damping = -space.log_damping[channel].exp().detach().numpy()
    frequency = space.frequency[channel].detach().numpy()
    states = 2 * len(damping)
    matrix = np.zeros((states, states))
    for n, (real, imaginary) in enumerate(zip(damping, frequency, strict=True)):
        at = slice(2 * n, 2 * n + 2)
        matrix[at, at] = [[real, -imaginary], [imaginary, real]]
    enters = np.tile([[1.0], [0.0]], (states // 2, 1))
    read = (2 * space.readout[channel, direction] * torch.tensor([1.0, -1.0])).detach().numpy()
    step = space.log_step[channel].exp().item()
    a, b, c, _, _ = cont2discrete((matrix, enters, read.reshape(1, -1), [[0.0]]), step)
    x: NDArray[np.float64] = np.zeros((states, 1))
    outputs = []
    for value in u.tolist():
        x = a @ x + b * value
        outputs.append((c @ x).item())
    return outputs


def test_the_convolution_is_the_recurrence_of_scipys_zero_order_hold() -> None:
    space = made_space(width=3, states=6)
    signal = torch.randn(2, 3, 40).double()
    convolved = space(signal).detach()
    for example in range(2):
        for channel in range(3):
            u = signal[example, channel]
            past = torch.tensor(recurrence(space, channel, 0, u)).double()
            future = torch.tensor(recurrence(space, channel, 1, u.flip(0))).double().flip(0)
            expected = past + future + space.skip[channel].detach() * u
            torch.testing.assert_close(convolved[example, channel], expected)


def test_time_turned_round_is_the_two_directions_exchanged() -> None:
    space, turned = made_space(3, 4), made_space(3, 4)
    turned.readout.data = space.readout.data.flip(1)
    signal = torch.randn(2, 3, 50).double()
    torch.testing.assert_close(turned(signal.flip(2)), space(signal).flip(2))
    assert not torch.allclose(space(signal.flip(2)), space(signal).flip(2))


def test_it_starts_as_s4d_lin() -> None:
    space = DiagonalStateSpace(1000, 8)
    assert torch.allclose(-space.log_damping.exp(), torch.tensor(-0.5))
    np.testing.assert_allclose(
        space.frequency[7].detach(), [0, np.pi, 2 * np.pi, 3 * np.pi], rtol=1e-6
    )
    steps = space.log_step.exp()
    assert 0.001 <= steps.min() < 0.0011
    assert 0.09 < steps.max() <= 0.1
    # The geometric mean of a log-uniform draw is that of its ends.
    assert space.log_step.mean().exp().item() == pytest.approx(0.01, rel=0.2)


def test_the_published_network_has_the_size_that_the_public_code_makes() -> None:
    published = yaml.safe_load((REPOSITORY / "configs/network/s4.yaml").read_text())["settings"]
    network = S4D(leads=12, outputs=1, **published)
    counted = sum(p.numel() for p in network.parameters())
    # There they are buffers.
    learnt_here_only = sum(
        p.numel()
        for n, p in network.named_parameters()
        if n.endswith(("log_step", "log_damping", "frequency"))
    )
    assert counted - learnt_here_only == 2_147_329
    network = S4D(leads=12, outputs=71, **published)
    assert sum(p.numel() for p in network.parameters()) - learnt_here_only == 2_183_239


@pytest.mark.parametrize("samples", [100, 997])
def test_any_length_gives_outputs_and_an_embedding(samples: int) -> None:
    network = S4D(leads=12, outputs=3, **SETTINGS).eval()
    ecg = torch.randn(4, 12, samples)
    embedded = embedding(network, ecg)
    assert embedded.shape == (4, 8)
    torch.testing.assert_close(network.head(embedded), network(ecg))
    assert network(ecg).shape == (4, 3)


def test_every_parameter_learns_and_states_do_not_decay() -> None:
    model = classifier(
        {
            "_target_": "lightning_modules.networks.s4.S4D",
            "settings": SETTINGS,
            "shape": {"leads": 12, "samples": 100},
        }
    )
    model.network(torch.randn(4, 12, 100)).sum().backward()
    named = dict(model.network.named_parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in named.values())
    kept = {id(p) for g in model.parameter_groups() if not g["weight_decay"] for p in g["params"]}
    for name in ("log_step", "log_damping", "frequency"):
        assert {id(named[f"blocks.{block}.space.{name}"]) for block in (0, 1)} < kept
    assert not {id(named["blocks.0.space.readout"]), id(named["head.weight"])} & kept


def test_the_convolution_keeps_its_precision_under_bf16() -> None:
    torch.manual_seed(0)
    space = DiagonalStateSpace(4, 8)
    signal = torch.randn(2, 4, 200)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = space(signal)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, space(signal))
    network = S4D(leads=12, outputs=1, **SETTINGS)
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.randn(2, 12, 100)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_it_learns_a_wave_in_noise() -> None:
    torch.manual_seed(0)
    network = S4D(leads=12, outputs=1, **SETTINGS)
    losses = losses_on_a_wave_in_noise(network, 100)
    assert losses[-1] < 0.3 * losses[0]


def test_an_odd_number_of_states_is_refused() -> None:
    with pytest.raises(ValueError, match="an even number, not 7"):
        S4D(leads=12, outputs=1, **{**SETTINGS, "states": 7})


def test_an_instant_is_so_many_samples() -> None:
    torch.manual_seed(0)
    network = S4D(leads=12, outputs=1, stride=4, **SETTINGS).eval()
    ecg = torch.randn(2, 12, 40)
    mapped = network.forward_map(ecg)
    assert mapped.shape == (2, 8, 10)
    # A linear layer of each instant's samples of all leads, and then the blocks as ever.
    instants = ecg.unflatten(2, (10, 4)).transpose(1, 2).flatten(2)
    entered = instants @ network.stem.weight.flatten(1).T + network.stem.bias
    torch.testing.assert_close(network.blocks(entered.transpose(1, 2)), mapped)
    torch.testing.assert_close(network.forward_features(ecg), mapped.mean(2))
