"""Simulated readers of a model's own predictions: a reader study whose true gain is known.

It shows that the analysis of a reader study recovers what is there, and helps to plan one. It says
nothing about real readers. What is made here is named "simulated" in its own tables.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar
from scipy.special import expit, logit, ndtr, ndtri
from scipy.stats import qmc

from datamodules.errors import InputError
from experiments.evaluation.mrmc import BOTH_RANDOM, METRICS
from experiments.evaluation.predictions import VAL
from experiments.evaluation.reader_study import ARMS, COLUMNS, ReaderStudy

PROBABILITY, YES_NO = "probability", "yes/no"

_SKILL = (0.501, 0.999)  # limits within which a reader's skill and trust are drawn
_TRUST = (0.0, 0.99)
_POPULATION = 10  # the truth is a mean over 2^10 readers of the population
_QUANTILES = 128  # and over at most so many cases a class, evenly from all of them
_CERTAIN = 1e-6  # a model's probability is at least so far from 0 and 1


@dataclass(frozen=True, slots=True)
class ReaderPopulation:
    """Whom the simulated readers are drawn from; normal distributions, cut off at their limits.

    A reader has evidence of a case: normal with variance 1 and mean +d/2 where the case is
    positive, else -d/2, of which log odds d x evidence follow (the equal-variance binormal model:
    Green & Swets, Signal Detection Theory and Psychophysics, 1966).

    - skill, skill_sd: the accuracy without the model, of a reader who leans to neither answer; it
      sets d = 2 probit(skill).
    - criterion_sd: how far readers lean to no (positive) or yes, in standard deviations of the
      evidence.
    - trust, trust_sd: the share that the model's log odds have in a reader's own when its
      probability is shown, 0 to 0.99; the rest is their own.
    - shared: the share of the evidence's variance that a case brings to all readers: its
      difficulty.
    - repeated: the share that the second reading of a case by the same reader draws anew.
    """

    skill: float
    skill_sd: float
    criterion_sd: float
    trust: float
    trust_sd: float
    shared: float
    repeated: float

    def __post_init__(self) -> None:
        if not 0.5 < self.skill < 1:
            raise InputError(f"a reader's skill of {self.skill:g} must be above 0.5 and below 1.")
        if not 0 <= self.trust <= _TRUST[1]:
            raise InputError(f"a reader's trust of {self.trust:g} must be from 0 to {_TRUST[1]}.")
        spreads = (self.skill_sd, self.criterion_sd, self.trust_sd, self.shared, self.repeated)
        if min(spreads) < 0 or self.shared + self.repeated > 1:
            raise InputError(
                "standard deviations of simulated readers must not be negative, and shared and "
                f"repeated are shares that make at most 1 together, not {self.shared:g} and "
                f"{self.repeated:g}."
            )


@dataclass(frozen=True, slots=True)
class SimulatedTruth:
    """What a simulated study should find.

    - expected: a row a metric with the true without, with and gain, for other readers of the
      population and other cases like these.
    - readers: a row a simulated reader: reader, skill, criterion, trust.
    - cases, positives: how many were drawn, out of `pool` patients.
    """

    expected: pd.DataFrame
    readers: pd.DataFrame
    cases: int
    positives: int
    pool: int


def simulate_readings(
    predictions: pd.DataFrame,
    population: ReaderPopulation,
    *,
    readers: int,
    cases: int,
    prevalence: float | None,
    threshold: float,
    answers: str,
    seed: int,
) -> tuple[pd.DataFrame, SimulatedTruth]:
    """A fully crossed table of readings (COLUMNS of reader_study), and its truth.

    `predictions` is a checked table of one model. Cases are drawn from its test and external
    exams, one a patient, without replacement; `prevalence` is the share of positive cases (None:
    as in the exams). Readers compare the model's probability with `threshold`, its operating
    threshold from development data, and answer yes where their log odds are above 0. `answers` are
    "probability" (that of these log odds) or "yes/no" (1 or 0).

    InputError where there are several models, or too few patients of a class.
    """
    if answers not in (PROBABILITY, YES_NO):
        raise ValueError(f"answers are {PROBABILITY!r} or {YES_NO!r}, not {answers!r}")
    generator = np.random.default_rng(seed)
    pool = _pool(predictions, threshold, seed)
    positives = _positives(pool, cases, prevalence)
    drawn = pd.concat(
        of_class.iloc[generator.permutation(len(of_class))[:number]]
        for of_class, number in _by_class(pool, positives, cases)
    )
    drawn = drawn.iloc[generator.permutation(cases)]
    target, model = drawn["target"].to_numpy(), drawn["evidence"].to_numpy()

    skill, criterion, trust = (
        part[:, None] for part in _readers(population, generator.normal(size=(readers, 3)))
    )
    separation = 2 * ndtri(skill)
    own_share = 1 - population.shared - population.repeated
    noise = np.sqrt(population.shared) * generator.normal(size=(1, 1, cases))
    noise = noise + np.sqrt(own_share) * generator.normal(size=(1, readers, cases))
    noise = noise + np.sqrt(population.repeated) * generator.normal(size=(2, readers, cases))
    evidence = separation * (target - 0.5) + noise - criterion
    without, with_model = separation * evidence
    with_model = (1 - trust) * with_model + trust * model
    log_odds = np.stack([without, with_model])
    reading = expit(log_odds) if answers == PROBABILITY else (log_odds > 0).astype(float)

    names = np.array([f"simulated reader {number + 1:02d}" for number in range(readers)])
    arm, reader, case = (index.ravel() for index in np.indices(reading.shape))
    table = pd.DataFrame(
        {
            "reader": names[reader],
            "case": drawn["case"].to_numpy()[case],
            "arm": np.array(ARMS)[arm],
            "reading": reading.ravel(),
            "truth": target[case],
        }
    )
    expected = _expected(pool, population, positives / cases)
    if answers == YES_NO:
        expected = expected[expected["metric"] != "auroc"]
    drawn_readers = {"reader": names, "skill": skill.ravel()}
    drawn_readers |= {"criterion": criterion.ravel(), "trust": trust.ravel()}
    return table[list(COLUMNS)], SimulatedTruth(
        expected, pd.DataFrame(drawn_readers), cases, positives, len(pool)
    )


def trust_reaching(
    predictions: pd.DataFrame,
    population: ReaderPopulation,
    accuracy: float,
    *,
    cases: int,
    prevalence: float | None,
    threshold: float,
    seed: int,
) -> float:
    """The least mean trust with which readers of the population reach `accuracy` with the model.

    The arguments are those of `simulate_readings`. InputError where no trust reaches it.
    """
    pool = _pool(predictions, threshold, seed)
    share = _positives(pool, cases, prevalence) / cases

    def reached(trust: float) -> float:
        expected = _shares(pool, replace(population, trust=trust), share)
        return float(expected["accuracy"][1])

    if reached(_TRUST[0]) >= accuracy:
        return _TRUST[0]
    best = minimize_scalar(lambda trust: -reached(trust), bounds=_TRUST, method="bounded").x
    if reached(best) < accuracy:
        raise InputError(
            f"readers of skill {population.skill:g} reach an accuracy of {reached(best):.3f} with "
            f"this model (trust {best:.2f}), not {accuracy:g}. Ask for less, or take a better "
            "model or more skilful readers."
        )
    return float(brentq(lambda trust: reached(trust) - accuracy, _TRUST[0], best, xtol=1e-6))


def recovery_table(truth: SimulatedTruth, study: ReaderStudy) -> pd.DataFrame:
    """Whether the analysis over readers and cases finds the simulated truth, a row a metric.

    Columns: metric, true_without, true_with, true_gain, gain, low, high, recovered (the interval
    holds the true gain; missing where it is not estimable).
    """
    found = study.mrmc[study.mrmc["analysis"] == BOTH_RANDOM]
    names = {name: f"true_{name}" for name in (*ARMS, "gain")}
    table = truth.expected.rename(columns=names).merge(
        found[["metric", "gain", "low", "high"]], on="metric"
    )
    inside = (table["low"] <= table["true_gain"]) & (table["true_gain"] <= table["high"])
    table["recovered"] = inside.astype("boolean").mask(table["low"].isna())
    return table


def _pool(predictions: pd.DataFrame, threshold: float, seed: int) -> pd.DataFrame:
    """One tested exam a patient: case, target, and evidence (the model's log odds above its
    threshold)."""
    models = predictions["model"].unique()
    if len(models) != 1:
        raise InputError(
            f"simulated readers are shown one model, and the predictions are of "
            f"{', '.join(map(str, models))}. Choose one."
        )
    if not 0 < threshold < 1:
        raise InputError(f"a model's threshold of {threshold:g} must be between 0 and 1.")
    tested = predictions[predictions["split"] != VAL]
    pool = tested.sample(frac=1, random_state=seed).drop_duplicates(["institution", "patient_id"])
    pool = pool.sort_index()
    probability = pool["probability"].clip(_CERTAIN, 1 - _CERTAIN)
    return pd.DataFrame(
        {
            "case": pool["institution"] + "/" + pool["exam_id"],
            "target": pool["target"],
            "evidence": logit(probability) - logit(threshold),
        }
    )


def _positives(pool: pd.DataFrame, cases: int, prevalence: float | None) -> int:
    """How many of the cases are positive; InputError where the pool has too few of a class."""
    share = pool["target"].mean() if prevalence is None else prevalence
    positives = 0 if pool.empty else round(share * cases)
    there = int(pool["target"].sum()), int((pool["target"] == 0).sum())
    if pool.empty or positives > there[0] or cases - positives > there[1]:
        raise InputError(
            f"{cases} cases, {positives} of them positive, are wanted for the simulated readers; "
            f"the tested exams are of {there[0]} positive and {there[1]} negative patients. "
            "Ask for fewer cases or another prevalence, or predict more exams."
        )
    return positives


def _by_class(pool: pd.DataFrame, positives: int, cases: int) -> Iterator[tuple[pd.DataFrame, int]]:
    """The pool's exams of a class, and how many to draw, positive ones first."""
    yield pool[pool["target"] == 1], positives
    yield pool[pool["target"] == 0], cases - positives


def _readers(
    population: ReaderPopulation, normal: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Skill, criterion and trust of readers [n] from standard normal numbers [n, 3]."""
    return (
        (population.skill + population.skill_sd * normal[:, 0]).clip(*_SKILL),
        population.criterion_sd * normal[:, 1],
        (population.trust + population.trust_sd * normal[:, 2]).clip(*_TRUST),
    )


def _standardised(
    pool: pd.DataFrame, population: ReaderPopulation
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Each arm's mean log odds of positive and of negative cases, [readers, cases of the class],
    in standard deviations of a reader's log odds of one case.

    Without the model these are d (truth - 1/2) - criterion for all cases; with the model's log odds
    m and trust w, m w / ((1 - w) d) more.
    """
    # evenly spread over the population, and so closer to its mean than as many drawn at random
    uniform = qmc.Sobol(3, scramble=True, seed=0).random_base2(_POPULATION)
    skill, criterion, trust = (part[:, None] for part in _readers(population, ndtri(uniform)))
    separation = 2 * ndtri(skill)
    added = []
    for target in (1, 0):
        model = pool.loc[pool["target"] == target, "evidence"].to_numpy()
        if model.size > _QUANTILES:
            model = np.quantile(model, (np.arange(_QUANTILES) + 0.5) / _QUANTILES)
        added.append(trust / ((1 - trust) * separation) * model)
    own = separation / 2 - criterion, -separation / 2 - criterion
    yield own
    yield own[0] + added[0], own[1] + added[1]


def _shares(
    pool: pd.DataFrame, population: ReaderPopulation, prevalence: float
) -> dict[str, NDArray[np.float64]]:
    """The population's expected accuracy, sensitivity and specificity in each arm [2]."""
    sensitivity, specificity = np.array(
        [
            (ndtr(positive).mean(), ndtr(-negative).mean())
            for positive, negative in _standardised(pool, population)
        ]
    ).T
    accuracy = prevalence * sensitivity + (1 - prevalence) * specificity
    return {"accuracy": accuracy, "sensitivity": sensitivity, "specificity": specificity}


def _expected(pool: pd.DataFrame, population: ReaderPopulation, prevalence: float) -> pd.DataFrame:
    """The table SimulatedTruth.expected.

    A positive case's log odds exceed a negative one's with the probability of a normal difference
    of variance 2; the AUROC is its mean over readers and pairs of cases.
    """
    values = _shares(pool, population, prevalence)
    values["auroc"] = np.array(
        [
            np.mean(
                [
                    ndtr((above[:, None] - below) / np.sqrt(2)).mean()
                    for above, below in zip(positive, negative, strict=True)
                ]
            )
            for positive, negative in _standardised(pool, population)
        ]
    )
    rows = [(metric, *values[metric], values[metric][1] - values[metric][0]) for metric in METRICS]
    return pd.DataFrame(rows, columns=["metric", *ARMS, "gain"])
