import pytest
import torch
import yaml
from places import REPOSITORY
from timm.layers import PatchEmbed

from lightning_modules.networks.tokens import TimeTokens
from lightning_modules.networks.vit import ViT, position_embedding

TIME = {"_target_": "lightning_modules.networks.tokens.TimeTokens", "patch_samples": 50}


@pytest.mark.parametrize(
    ("name", "millions"), [("vit_base", 85.4), ("vit_large", 302.8), ("vit_huge", 630.3)]
)
def test_the_papers_encoders_have_the_papers_sizes(name: str, millions: float) -> None:
    network = yaml.safe_load((REPOSITORY / "configs/network" / f"{name}.yaml").read_text())
    with torch.device("meta"):
        encoder = ViT(
            leads=12,
            samples=5000,
            **{**network["settings"], "tokens": {**TIME, "patch_samples": 250}},
        )
    parameters = sum(p.numel() for p in encoder.parameters())
    assert parameters == pytest.approx(millions * 1e6, abs=0.05e6)
    assert encoder.patch_embed.num_patches == 240


def test_patch_embedding_is_what_timm_computes() -> None:
    timm = PatchEmbed(img_size=(12, 500), patch_size=(1, 50), in_chans=1, embed_dim=16)
    ours = TimeTokens(leads=12, samples=500, width=16, patch_samples=50)
    ours.proj.weight.data = timm.proj.weight.data.reshape(16, 50)
    ours.proj.bias.data = timm.proj.bias.data
    ecg = torch.randn(3, 12, 500)
    torch.testing.assert_close(ours(ours.cut(ecg)), timm(ecg[:, None]))


def test_patches_run_lead_by_lead() -> None:
    ecg = torch.arange(2 * 12 * 500.0).view(2, 12, 500)
    tokens = TimeTokens(leads=12, samples=500, width=16, patch_samples=50)
    patches = tokens.cut(ecg).values
    torch.testing.assert_close(patches[1, 3 * 10 + 7], ecg[1, 3, 350:400])


def test_positions_differ_and_nearby_times_are_nearer() -> None:
    embedding = position_embedding(12, 20, 64)[0]
    distance = torch.cdist(embedding, embedding)
    assert (distance + torch.eye(240) > 0.1).all()
    assert distance[0, 1] < distance[0, 5]


def test_a_wrong_length_is_refused_with_both_shapes() -> None:
    network = ViT(leads=12, samples=500, tokens=TIME, width=16, depth=1, heads=2, outputs=1)
    with pytest.raises(ValueError, match=r"\(12, 500\), not \(12, 400\)"):
        network(torch.zeros(1, 12, 400))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": {**TIME, "patch_samples": 60}}, "whole number"),
        ({"heads": 3}, "3 heads"),
        ({"pooling": "max"}, "mean, class_token"),
        ({"width": 18, "heads": 3}, "divisible by 4"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    sizes = {"leads": 12, "samples": 500, "tokens": TIME, "width": 16, "depth": 1, "heads": 2}
    with pytest.raises(ValueError, match=message):
        ViT(**{**sizes, **change})  # type: ignore[arg-type]
