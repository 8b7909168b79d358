"""The institutions of configs/cohort, and a small one that is quick to write."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from datamodules.simulation import with_common

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "cohort"


def _institutions(*names: str) -> dict[str, dict[str, Any]]:
    merged = OmegaConf.merge(*(OmegaConf.load(CONFIGS / f"{name}.yaml") for name in names))
    cohort: Any = OmegaConf.to_container(merged)
    return with_common(cohort["every_institution"], cohort["institutions"])


@pytest.fixture
def institutions() -> dict[str, dict[str, Any]]:
    return _institutions("simulated")


@pytest.fixture
def ph_institutions() -> dict[str, dict[str, Any]]:
    """Those of configs/cohort/simulated_ph.yaml, as Hydra merges it."""
    return _institutions("simulated", "simulated_ph")


@pytest.fixture
def small(institutions: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """One institution of 1 s ECGs at 100 Hz."""
    settings = institutions["brindlefen"]
    return {
        "hollowmarsh": settings
        | {"exams": 30, "seconds": 1, "sampling_rate_hz": 100, "low_pass_hz": 40}
    }
