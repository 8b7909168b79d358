"""Seeds of processes and steps, and how often a training is validated."""

import pytest

from experiments.stages.train import validation_interval
from experiments.stages.training import seed_of


def test_the_first_process_starts_with_the_seed_that_was_asked_for() -> None:
    assert seed_of(2026, 0, 0) == 2026


def test_no_two_processes_or_cuts_share_a_seed() -> None:
    steps = [*range(0, 200_000, 50), 1000, 2000]
    seeds = {seed_of(2026, rank, step) for rank in range(64) for step in set(steps)}
    assert len(seeds) == 64 * len(set(steps))
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert seed_of(2026, 1, 0) != seed_of(2026, 0, 1000)


@pytest.mark.parametrize(
    ("exams", "processes", "steps"),
    [(160, 1, 10), (160, 2, 5), (170, 4, 3), (16, 8, 1), (100_000, 2, 12)],
)
def test_an_epoch_is_shared_by_the_processes(exams: int, processes: int, steps: int) -> None:
    recipe = {"batch_size": 16, "validate_every_steps": 12}
    assert validation_interval(recipe, exams, processes) == steps
