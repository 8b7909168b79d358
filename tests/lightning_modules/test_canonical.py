"""Generalised canonical correlation against closed forms."""

import numpy as np
import torch

from lightning_modules.canonical import canonical_variates


def covariance_of(values: np.ndarray) -> torch.Tensor:
    centred = values - values.mean(0)
    return torch.from_numpy(centred.T @ centred / len(values))


def test_of_two_views_it_is_hotellings_canonical_correlation() -> None:
    rng = np.random.default_rng(0)
    common = rng.standard_normal((500, 2))
    one = common @ rng.standard_normal((2, 4)) + rng.standard_normal((500, 4))
    other = common @ rng.standard_normal((2, 3)) + rng.standard_normal((500, 3))
    values = np.hstack([one, other])
    covariance = covariance_of(values)
    found = canonical_variates(
        covariance, [torch.arange(4), torch.arange(4, 7)], ridge=0.0, count=3
    )
    # Hotelling 1936: the correlations are the singular values of the whitened cross-covariance.
    s = covariance.numpy()
    whitened = (
        np.linalg.inv(np.linalg.cholesky(s[:4, :4]))
        @ s[:4, 4:]
        @ np.linalg.inv(np.linalg.cholesky(s[4:, 4:])).T
    )
    correlations = np.linalg.svd(whitened, compute_uv=False)
    np.testing.assert_allclose(found.shared, 1 + correlations, rtol=1e-8)


def test_variates_are_uncorrelated_and_of_variance_one() -> None:
    rng = np.random.default_rng(1)
    values = rng.standard_normal((300, 9)) @ rng.standard_normal((9, 9))
    covariance = covariance_of(values)
    views = [torch.arange(3), torch.arange(3, 6), torch.arange(6, 9)]
    found = canonical_variates(covariance, views, ridge=0.1, count=5)
    product = found.weights.T @ covariance @ found.weights
    np.testing.assert_allclose(product, np.eye(5), atol=1e-9)


def test_what_one_view_alone_has_comes_after_what_all_have() -> None:
    rng = np.random.default_rng(2)
    shared, alone = rng.standard_normal((2, 4000))
    views = [0.5 * shared + 0.5 * rng.standard_normal(4000) for _ in range(3)]
    values = np.column_stack([views[0], 9 * alone, views[1], views[2]])
    found = canonical_variates(
        covariance_of(values),
        [torch.tensor([0, 1]), torch.tensor([2]), torch.tensor([3])],
        ridge=0.0,
        count=2,
    )
    first = (values - values.mean(0)) @ found.weights[:, 0].numpy()
    assert abs(np.corrcoef(first, shared)[0, 1]) > 0.8
    assert abs(np.corrcoef(first, alone)[0, 1]) < 0.05


def test_a_view_that_does_not_vary_shares_nothing() -> None:
    rng = np.random.default_rng(3)
    values = np.hstack([rng.standard_normal((50, 3)), np.zeros((50, 2))])
    views = [torch.arange(2), torch.tensor([2]), torch.tensor([3, 4])]
    found = canonical_variates(covariance_of(values), views, ridge=0.02, count=5)
    assert found.weights.isfinite().all()
    assert (found.weights[3:] == 0).all()
    np.testing.assert_allclose(found.shared[3:], 0, atol=1e-12)
