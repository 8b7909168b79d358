import itertools

import numpy as np
import pytest
import torch

from lightning_modules.networks.fusion import FusionNetwork, ModalityDropout

NAN = float("nan")
MEAN, DEVIATION = [0.5, -1.0, 2.0], [2.0, 0.5, 1.5]


def build(**changes: object) -> FusionNetwork:
    torch.manual_seed(0)
    settings = {
        "mean": [[m] for m in MEAN],
        "deviation": [[d] for d in DEVIATION],
        "widths": [8, 4],
        "modality_dropout": 0.5,
        "outputs": 1,
    }
    return FusionNetwork(**{**settings, **changes}).eval()  # type: ignore[arg-type]


def test_it_is_three_layers_on_standardised_logits_and_indicators() -> None:
    network = build()
    logits = [[1.0, NAN, -3.0], [NAN, 0.25, NAN]]
    weights = [p.detach().double().numpy() for p in network.parameters()]
    for row, got in zip(logits, network(torch.tensor(logits)[..., None]), strict=True):
        scores = [
            0 if x != x else (x - m) / d for x, m, d in zip(row, MEAN, DEVIATION, strict=True)
        ]
        hidden = np.array(scores + [float(x == x) for x in row])
        for weight, bias in zip(weights[:4:2], weights[1:4:2], strict=True):
            hidden = np.maximum(weight @ hidden + bias, 0)
        assert got.item() == pytest.approx((weights[4] @ hidden + weights[5]).item(), abs=1e-6)


def test_each_subset_of_the_submodels_gives_an_answer_of_its_own() -> None:
    whole = torch.tensor([1.0, -2.0, 3.0])
    present = torch.tensor([p for p in itertools.product([True, False], repeat=3) if any(p)])
    answers = build()(whole.masked_fill(~present, NAN)[..., None]).squeeze(1)
    assert len(answers) == 7
    assert answers.isfinite().all()
    assert len(set(answers.tolist())) == 7


def test_a_missing_logit_is_not_one_at_the_mean() -> None:
    network = build()
    missing, at_mean = network(torch.tensor([[1.0, NAN, 0.0], [1.0, MEAN[1], 0.0]])[..., None])
    assert missing != at_mean


def test_missing_logits_leave_gradients_finite() -> None:
    network = build().train()
    logits = torch.randn(64, 3).masked_fill(torch.rand(64, 3) < 0.3, NAN)
    logits[:, 0] = 1.0
    logits.requires_grad_()
    network(logits[..., None]).square().mean().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("present", [1, 2, 3])
@pytest.mark.parametrize("probability", [0.0, 0.3, 0.9, 1.0])
def test_modality_dropout_leaves_one_and_drops_at_its_rate(
    probability: float, present: int
) -> None:
    torch.manual_seed(0)
    logits = torch.randn(40_000, 3)
    logits[:, present:] = NAN
    dropped = ModalityDropout(probability)(logits[..., None])[..., 0]
    there = ~dropped.isnan()
    assert there.any(1).all()
    assert not there[:, present:].any()
    torch.testing.assert_close(dropped[there], logits[there], rtol=0, atol=0)
    # All are drawn with probability p^k, and then one of the k stays.
    expected = probability - probability**present / present
    rates = 1 - there[:, :present].float().mean(0)
    np.testing.assert_allclose(rates, expected, atol=0.01)


def test_modality_dropout_is_of_training_alone() -> None:
    logits = torch.randn(100, 3)
    torch.testing.assert_close(ModalityDropout(0.9).eval()(logits[..., None])[..., 0], logits)


def test_three_layers_have_two_widths() -> None:
    with pytest.raises(ValueError, match=r"two widths between them, not \[8\]"):
        build(widths=[8])


def test_what_submodels_say_of_several_labels_comes_and_goes_together() -> None:
    """Of 2 submodels and 3 labels: 6 standardised values, and 2 indicators."""
    mean, deviation = np.arange(6.0).reshape(2, 3), np.arange(1.0, 7.0).reshape(2, 3)
    network = build(mean=mean.tolist(), deviation=deviation.tolist(), outputs=3)
    values = torch.tensor([[[1.0, -2.0, 0.5], [NAN, NAN, NAN]]])
    scores = (values[0, 0].numpy() - mean[0]) / deviation[0]
    hidden = np.concatenate([scores, np.zeros(3), [1.0, 0.0]])
    weights = [p.detach().double().numpy() for p in network.parameters()]
    for weight, bias in zip(weights[:4:2], weights[1:4:2], strict=True):
        hidden = np.maximum(weight @ hidden + bias, 0)
    expected = weights[4] @ hidden + weights[5]
    np.testing.assert_allclose(network(values)[0].detach(), expected, atol=1e-6)
    features = network.forward_features(values)
    np.testing.assert_allclose(features[0].detach(), hidden, atol=1e-6)
    assert network.forward_head(features, pre_logits=True) is features
    dropped = ModalityDropout(0.5)(torch.randn(1000, 2, 3)).isnan()
    assert (dropped.all(2) == dropped.any(2)).all()
