"""Simulated institutions, written as the files that hospitals have and read like theirs.

What models do on them says nothing about hospitals: not how well, nor which is better.
"""

from datamodules.simulation.ceiling import MODALITIES, ceiling, lvef_ceiling, ph_ceiling
from datamodules.simulation.cohort import GENERATOR, simulate_cohort
from datamodules.simulation.institutions import with_common

__all__ = [
    "GENERATOR",
    "MODALITIES",
    "ceiling",
    "lvef_ceiling",
    "ph_ceiling",
    "simulate_cohort",
    "with_common",
]
