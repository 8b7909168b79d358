import socket
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch

from lightning_modules.networks.cxr import TimmNetwork
from lightning_modules.networks.network import load_published_weights


def build(*, pretrained: bool = False, **changes: Any) -> Any:
    torch.manual_seed(0)
    settings = {"model": "resnet18", "dropout": 0.0, "channels": 1, "outputs": 1}
    network = TimmNetwork(**{**settings, **changes})
    if pretrained:
        load_published_weights(network)
    return network


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Names don't resolve, and nothing was downloaded before; the empty Hugging Face cache."""

    def getaddrinfo(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("size", [64, 96])
def test_it_reads_one_channel_and_learns(size: int) -> None:
    network = build()
    images = torch.randn(4, 1, size, size)
    logits = network(images)
    assert logits.shape == (4, 1)
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert network.model.conv1.weight.grad.abs().sum() > 0


def test_left_and_right_are_not_alike() -> None:
    network = build().eval()
    image = torch.randn(1, 1, 64, 64)
    assert abs(network(image) - network(image.flip(3))).item() > 1e-3


def test_pretrained_weights_without_a_network_are_refused_at_once(no_network: Path) -> None:
    begun = time.perf_counter()
    with pytest.raises(RuntimeError, match="resnet18 can't be had .* pretrained=false") as error:
        build(pretrained=True)
    assert time.perf_counter() - begun < 10
    assert "Name or service not known" in str(error.value)
    assert "\n" not in str(error.value)


def test_pretrained_weights_downloaded_before_need_no_network(no_network: Path) -> None:
    torch.manual_seed(1)
    imagenet = timm.create_model("resnet18")
    repository = no_network / "models--timm--resnet18.a1_in1k"
    commit = "0" * 40
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    safetensors.torch.save_file(imagenet.state_dict(), snapshot / "model.safetensors")
    network = build(pretrained=True)
    stem = imagenet.conv1.weight.sum(1, keepdim=True)
    torch.testing.assert_close(network.model.conv1.weight, stem)
    torch.testing.assert_close(
        network.model.layer4[1].conv2.weight, imagenet.layer4[1].conv2.weight
    )


def test_a_network_without_pretrained_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="no pretrained weights of resnetblur18"):
        build(model="resnetblur18", pretrained=True)


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(ValueError, match="timm has no network 'resnet19'"):
        build(model="resnet19")
    with pytest.raises(ValueError, match="Linear has no published weights"):
        load_published_weights(torch.nn.Linear(1, 1))
