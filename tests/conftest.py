"""Fixtures shared by every test."""

import os
from pathlib import Path

import pytest
from places import REPOSITORY

# As experiments/run.py sets it, before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real recordings; skips, saying why, where there is none."""
    folder = Path(os.environ.get("ECG_REAL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "ptbxl").is_dir():
        pytest.skip(f"no real recordings at {folder}: set ECG_REAL_DATA to their folder")
    return folder
