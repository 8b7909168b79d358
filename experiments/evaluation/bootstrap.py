"""The patient-clustered bootstrap, stratified by institution, on which every interval of clustered
exams rests.

Whole patients are drawn with replacement (Field & Welsh, J R Stat Soc B 2007;69:369), within each
stratum where there are several. What is drawn depends on the patients, the strata and the seed
alone, so that all statistics of one test set, and all models, share the same resamples.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

_CHUNK_EXAMS = 250_000  # exams resampled at once: what stays in the processor's cache is fastest


def clusters(
    patient: ArrayLike, strata: ArrayLike | None, n: int
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Each exam's patient as a number [n], patients of a stratum in a row, and how many patients
    each stratum has. Where those add up to n, every patient has one exam.

    A patient id holds only within its stratum.
    """
    patients = np.asarray(patient)
    stratum = np.zeros(n, dtype=np.int64) if strata is None else np.asarray(strata)
    if patients.shape != (n,) or stratum.shape != (n,):
        raise ValueError(f"patient {patients.shape} and strata {stratum.shape} must be [{n}]")
    patient_number, stratum_number = (
        pd.factorize(values, sort=True, use_na_sentinel=False)[0] for values in (patients, stratum)
    )
    return renumbered(patient_number, stratum_number)


def renumbered(
    patient: NDArray[np.integer], stratum: NDArray[np.integer]
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """`clusters` where patients and strata are numbers from 0 on, of which some may be missing."""
    patients = int(patient.max(initial=0)) + 1
    pairs, cluster = np.unique(stratum * patients + patient, return_inverse=True)
    sizes = np.bincount(pairs // patients)
    return cluster, sizes[sizes > 0]


def resampled_patients(
    n: int, stratum_sizes: NDArray[np.integer], resamples: int, seed: int
) -> Iterator[NDArray[np.int64]]:
    """How often each patient is drawn: chunks [rows, patients], until there are `resamples` rows.

    `n` is the number of exams, `stratum_sizes` that of `clusters`.
    """
    generator = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_EXAMS // n)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        counts = []
        for size in stratum_sizes:
            drawn = generator.integers(size, size=(rows, size))
            drawn += np.arange(rows)[:, None] * size
            counts.append(np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size))
        yield np.concatenate(counts, axis=1)


def resampled_sums(
    columns: NDArray[np.float64] | csr_array,
    cluster: NDArray[np.integer],
    stratum_sizes: NDArray[np.integer],
    resamples: int,
    seed: int,
) -> NDArray[np.float64]:
    """The sums [resamples, k] of `columns` [n, k] (dense or sparse) over the exams drawn."""
    n, patients = columns.shape[0], int(stratum_sizes.sum())
    of_patient = csr_array((np.ones(n), (cluster, np.arange(n))), shape=(patients, n)) @ columns
    drawn = resampled_patients(n, stratum_sizes, resamples, seed)
    return np.concatenate([counts.astype(np.float64) @ of_patient for counts in drawn])


def indicator(number: NDArray[np.integer], count: int) -> csr_array:
    """[n, count], one in the column that each exam's `number` [n] names."""
    n = number.size
    return csr_array((np.ones(n), (np.arange(n), number)), shape=(n, count))


def percentiles(
    resampled: NDArray[np.float64], *, confidence: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The percentile interval (low, high) of statistics [resamples, ...].

    Resamples in which a statistic is not defined (NaN) are left out; NaN where none is left.
    """
    tail = (1 - confidence) / 2
    defined = ~np.isnan(resampled).all(axis=0)
    filled = np.where(defined, resampled, 0.0)
    with np.errstate(invalid="ignore"):  # between two infinite values
        low, high = np.nanquantile(filled, [tail, 1 - tail], axis=0)
    return np.where(defined, low, np.nan), np.where(defined, high, np.nan)
