"""The patients drawn, and sums over their exams."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from experiments.evaluation.bootstrap import (
    clusters,
    percentiles,
    resampled_patients,
    resampled_sums,
)


def test_patients_are_numbered_within_their_institution():
    patient = ["p2", "p1", "p1", "p1", "p2"]
    cluster, sizes = clusters(patient, ["b", "a", "b", "a", "b"], 5)
    assert list(cluster) == [2, 0, 1, 0, 2]
    assert list(sizes) == [1, 2]
    with pytest.raises(ValueError, match="must be"):
        clusters(patient, None, 4)


def test_as_many_patients_are_drawn_as_each_institution_has():
    counts = np.concatenate(list(resampled_patients(50, np.array([20, 5]), 4000, 0)))
    assert counts.shape == (4000, 25)
    assert (counts[:, :20].sum(axis=1) == 20).all()
    assert (counts[:, 20:].sum(axis=1) == 5).all()
    # multinomial: each is drawn once on average, with a variance of 1 - 1/patients
    assert counts.mean(axis=0) == pytest.approx(np.ones(25), abs=0.1)
    assert counts[:, :20].var() == pytest.approx(1 - 1 / 20, rel=0.05)
    assert counts[:, 20:].var() == pytest.approx(1 - 1 / 5, rel=0.05)


@pytest.mark.parametrize("sparse", [False, True])
def test_sums_are_those_of_the_patients_drawn(sparse):
    generator = np.random.default_rng(1)
    cluster, sizes = clusters(generator.integers(0, 30, 200), generator.integers(0, 2, 200), 200)
    columns = generator.normal(size=(200, 3)) * (generator.random((200, 3)) < 0.5)
    sums = resampled_sums(csr_array(columns) if sparse else columns, cluster, sizes, 40, 7)
    counts = np.concatenate(list(resampled_patients(200, sizes, 40, 7)))
    np.testing.assert_allclose(sums, counts[:, cluster] @ columns)


def test_many_exams_are_drawn_in_chunks():
    sizes = np.array([1000])
    chunks = list(resampled_patients(100_000, sizes, 7, 0))
    assert [len(chunk) for chunk in chunks] == [2, 2, 2, 1]
    whole = next(resampled_patients(1000, sizes, 7, 0))
    np.testing.assert_array_equal(np.concatenate(chunks), whole)


def test_percentiles_leave_out_what_is_not_defined():
    values = np.array([[0.0, np.nan], [1.0, np.nan], [np.nan, np.nan], [0.5, np.nan]])
    low, high = percentiles(values, confidence=0.5)
    assert (low[0], high[0]) == (0.25, 0.75)
    assert np.isnan([low[1], high[1]]).all()
