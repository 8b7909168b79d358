import torch
from torch import nn

from lightning_modules.networks.batch_norm import reestimate


def test_statistics_are_those_of_all_exams_at_once() -> None:
    generator = torch.Generator().manual_seed(0)
    ecg = 3 + 2 * torch.randn(50, 4, 30, generator=generator)
    ecg[25:] += 5  # so that no batch looks like the whole
    network = nn.Sequential(nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5))
    reestimate(network, ecg.split(16))
    with torch.no_grad():
        seen = network[0](ecg)
    torch.testing.assert_close(network[1].running_mean, seen.mean((0, 2)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(network[1].running_var, seen.var((0, 2)), rtol=1e-5, atol=1e-5)
    assert not network.training


def test_the_next_layer_sees_normalised_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    ecg = torch.randn(40, 3, 20, generator=generator) * 7 + 100
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Conv1d(3, 2, 3), nn.BatchNorm1d(2))
    reestimate(network, [ecg])
    with torch.no_grad():
        out = network(ecg)
    torch.testing.assert_close(out.mean((0, 2)), torch.zeros(2), rtol=0, atol=1e-4)
    torch.testing.assert_close(out.var((0, 2)), torch.ones(2), rtol=0, atol=1e-2)


def test_layers_without_a_running_average_are_left_alone() -> None:
    network = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.BatchNorm1d(3))
    reestimate(network, [torch.randn(8, 3)])
    assert network[0].running_mean is None
