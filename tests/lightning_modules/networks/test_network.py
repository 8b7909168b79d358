from typing import Any

import pytest
import torch
from tiny import CNN, RESNET, VIT
from torch import Tensor, nn

from lightning_modules.networks.network import build_network, embedding


class WithoutPreLogits(nn.Linear):
    def forward_features(self, x: Tensor) -> Tensor:
        return x

    def forward_head(self, x: Tensor) -> Tensor:
        logits: Tensor = self(x)
        return logits


class Unpooled(WithoutPreLogits):
    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return x if pre_logits else self(x)


@pytest.mark.parametrize(
    ("network", "last", "width"),
    [(CNN, "head", 16), (VIT, "head", 16), (RESNET, "model.fc", 512)],
    ids=["resnet1d", "vit", "timm"],
)
def test_an_embedding_is_what_the_last_layer_sees(
    network: dict[str, Any], last: str, width: int
) -> None:
    torch.manual_seed(0)
    shape = network["shape"]
    made = build_network(network, shape, 3).eval()
    size = (1, shape["size"], shape["size"]) if "size" in shape else tuple(shape.values())
    inputs = torch.randn(4, *size)
    seen: list[Tensor] = []
    made.get_submodule(last).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    made(inputs)
    embedded = embedding(made, inputs)
    assert embedded.shape == (4, width)
    assert torch.equal(embedded, seen[0])


@pytest.mark.parametrize("network", [nn.Linear(2, 1), WithoutPreLogits(2, 1)])
def test_a_network_without_an_embedding_says_what_it_lacks(network: nn.Module) -> None:
    name = type(network).__name__
    with pytest.raises(ValueError, match=rf"{name} has no embedding: .*pre_logits=True"):
        embedding(network, torch.zeros(3, 2))


def test_an_embedding_is_a_row_of_numbers_an_exam() -> None:
    with pytest.raises(ValueError, match=r"Unpooled embeds as \(3, 5, 2\)"):
        embedding(Unpooled(2, 1), torch.zeros(3, 5, 2))
