import pytest
import torch
import yaml
from places import REPOSITORY
from tiny import losses_on_a_wave_in_noise

from lightning_modules.networks.network import embedding
from lightning_modules.networks.xresnet1d import XResNet1d

SETTINGS = {"blocks": [1, 2], "width": 4, "kernel": 5, "hidden": 6, "dropout": 0.0}


def published(outputs: int) -> XResNet1d:
    file = REPOSITORY / "configs/network/xresnet1d101.yaml"
    torch.manual_seed(0)
    return XResNet1d(leads=12, outputs=outputs, **yaml.safe_load(file.read_text())["settings"])


@pytest.mark.parametrize(("outputs", "parameters"), [(1, 1_871_745), (71, 1_880_775)])
def test_it_has_as_many_parameters_as_the_benchmarks_public_code(
    outputs: int, parameters: int
) -> None:
    assert sum(p.numel() for p in published(outputs).parameters()) == parameters


def test_its_stages_have_the_benchmarks_sizes() -> None:
    """Of the benchmark's 2.5 s at 100 Hz, as its public code prints them."""
    network = published(71).eval()
    x = torch.randn(2, 12, 250)
    shapes, parameters = [], []
    for part in (*network.stem, *network.stages):
        x = part(x)
        shapes.append((x.shape[1], x.shape[2]))
        parameters.append(sum(p.numel() for p in part.parameters()))
    assert shapes == [
        *((32, 125), (32, 125), (64, 125), (64, 63)),
        *((256, 63), (256, 32), (256, 16), (256, 8)),
    ]
    assert parameters == [1984, 5184, 10368, 0, 166656, 216064, 1242368, 162048]
    assert sum(p.numel() for p in network.head.parameters()) == 76103


def test_blocks_start_as_their_shortcuts() -> None:
    """The last batch norm starts at zero (Goyal et al. 2017), so a block adds nothing."""
    network = published(1)
    x = torch.randn(2, 256, 30).relu()
    for stage in network.stages:
        for block in stage[1:]:
            assert torch.equal(block(x), x)
    halved = network.stages[1][0](x)
    torch.testing.assert_close(halved, x.view(2, 256, 15, 2).mean(3))


@pytest.mark.parametrize("samples", [100, 997])
def test_any_length_gives_outputs_and_an_embedding(samples: int) -> None:
    network = XResNet1d(leads=12, outputs=3, **SETTINGS).eval()
    ecg = torch.randn(4, 12, samples)
    embedded = embedding(network, ecg)
    assert embedded.shape == (4, 6)
    torch.testing.assert_close(network.head[-1](embedded), network(ecg))
    features = network.stages(network.stem(ecg))
    torch.testing.assert_close(
        network.forward_features(ecg), torch.cat([features.max(2).values, features.mean(2)], 1)
    )


def test_it_learns_a_wave_in_noise() -> None:
    torch.manual_seed(0)
    network = XResNet1d(leads=12, outputs=1, **SETTINGS)
    losses = losses_on_a_wave_in_noise(network, 60)
    assert losses[-1] < 0.3 * losses[0]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="odd, not 4"):
        XResNet1d(leads=12, outputs=1, **{**SETTINGS, "kernel": 4})
