"""The institutions of configs/cohort/simulated.yaml, and a small one that is quick to write."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from datamodules.simulation import with_common

CONFIG = Path(__file__).resolve().parents[3] / "configs" / "cohort" / "simulated.yaml"


@pytest.fixture
def institutions() -> dict[str, dict[str, Any]]:
    cohort: Any = OmegaConf.to_container(OmegaConf.load(CONFIG))
    return with_common(cohort["every_institution"], cohort["institutions"])


@pytest.fixture
def small(institutions: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """One institution of 1 s ECGs at 100 Hz."""
    settings = institutions["brindlefen"]
    return {
        "hollowmarsh": settings
        | {"exams": 30, "seconds": 1, "sampling_rate_hz": 100, "low_pass_hz": 40}
    }
