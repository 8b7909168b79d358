"""The settings of a simulated institution: its patients, its gaps and its devices."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from math import isfinite
from typing import Any
from zlib import crc32

import numpy as np

from datamodules.errors import InputError, listing

STANDARD_LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


@dataclass(frozen=True, slots=True)
class Institution:
    """One simulated institution; every field is a key of `configs/cohort/simulated.yaml`."""

    exams: int  # ECGs, of one or several a patient
    repeat_fraction: float  # of patients, those with two to four exams
    echo_fraction: float  # of exams, those with an echocardiogram
    lvsd_prevalence: float  # of exams with an echo, those measured with LVEF < 40 %
    pulmonary_pressure_mmhg: float  # median true systolic pressure at a normal left ventricle
    age_mean_years: float
    age_sd_years: float
    female_fraction: float
    tr_missing_fraction: float  # of echos, those without a measurable tricuspid jet
    bnp_missing_fraction: float
    cxr_missing_fraction: float
    seconds: int
    sampling_rate_hz: int
    units_per_mv: float
    baseline: int  # digital value of 0 mV
    leads: tuple[str, ...]  # all twelve, in the order and the spelling of the files
    high_pass_hz: float
    low_pass_hz: float
    mains_hz: float
    mains_mv: float
    baseline_wander_mv: float
    muscle_mv: float
    chest_xrays: bool  # whether films are written
    ap_fraction: float  # of films, those taken from the front, as at the bedside
    film_height_px: tuple[int, int]  # least and most
    photometric_interpretation: str  # DICOM's word
    transfer_syntax: str  # pydicom's keyword for it


_RANGES: dict[str, tuple[float, float]] = {
    "exams": (1, 10_000_000),
    "repeat_fraction": (0, 1),
    "echo_fraction": (0, 1),
    "lvsd_prevalence": (0, 0.6),
    "pulmonary_pressure_mmhg": (15, 60),
    "age_mean_years": (18, 100),
    "age_sd_years": (0, 30),
    "female_fraction": (0, 1),
    "tr_missing_fraction": (0, 1),
    "bnp_missing_fraction": (0, 1),
    "cxr_missing_fraction": (0, 1),
    "seconds": (1, 60),
    "sampling_rate_hz": (100, 4000),
    "units_per_mv": (20, 10_000),
    "baseline": (-16_000, 16_000),
    "high_pass_hz": (0.01, 1),
    "low_pass_hz": (20, 500),
    "mains_hz": (45, 65),
    "mains_mv": (0, 1),
    "baseline_wander_mv": (0, 2),
    "muscle_mv": (0, 1),
    "ap_fraction": (0, 1),
}
_CHOICES: dict[str, tuple[str | bool, ...]] = {
    "chest_xrays": (True, False),
    "photometric_interpretation": ("MONOCHROME1", "MONOCHROME2"),
    "transfer_syntax": ("ExplicitVRLittleEndian", "RLELossless"),
}
_FILM_HEIGHT_PX = (100, 4000)


def with_common(
    common: Mapping[str, Any], institutions: Mapping[str, Mapping[str, Any] | None]
) -> dict[str, dict[str, Any]]:
    """Give every institution the common settings that it does not set itself; None sets none.

    Raises:
        InputError: an institution that is anything but its settings.
    """
    for name, own in institutions.items():
        if own is not None and not isinstance(own, Mapping):
            raise InputError(
                f"cohort.institutions.{name} = {own!r} is not an institution's settings: write "
                "{exams: 400}, say, or {} for the common ones."
            )
    return {name: {**common, **(own or {})} for name, own in institutions.items()}


def read_institutions(institutions: Mapping[str, Mapping[str, Any]]) -> dict[str, Institution]:
    """Check the settings of all institutions.

    Raises:
        InputError: a name that cannot be a file's, or a key that is missing, unknown, of another
            type or out of range; all such problems together.
    """
    problems: list[str] = []
    if not institutions:
        problems.append("no institution is given; name at least one")
    for name, settings in institutions.items():
        if not re.fullmatch(r"[a-z][a-z0-9_]*", str(name)):
            problems.append(
                f"{name!r} is no institution's name: use lower-case letters, digits and _"
            )
        problems += [f"{name}.{problem}" for problem in _problems(settings)]
    if problems:
        raise InputError(
            "The simulated cohort's settings cannot be used:\n"
            f"{listing(problems)}\n"
            "configs/cohort/simulated.yaml shows every key with a usable value."
        )
    return {name: _institution(settings) for name, settings in institutions.items()}


def generator(seed: int, name: str, *numbers: int) -> np.random.Generator:
    """Random numbers that depend on the seed, the institution's name and `numbers` alone.

    Trailing zeros in `numbers` are as good as absent: numpy pads a seed with zeros.
    """
    if seed < 0:
        raise InputError(f"seed = {seed} is below 0; give 0 or more.")
    return np.random.default_rng((seed, crc32(name.encode()), *numbers))


def _institution(settings: Mapping[str, Any]) -> Institution:
    whole = {field.name for field in fields(Institution) if field.type is int}
    values: dict[str, Any] = {
        key: int(settings[key]) if key in whole else float(settings[key]) for key in _RANGES
    }
    return Institution(
        **values,
        **{key: settings[key] for key in _CHOICES},
        leads=tuple(str(lead) for lead in settings["leads"]),
        film_height_px=(settings["film_height_px"][0], settings["film_height_px"][1]),
    )


def _problems(settings: Mapping[str, Any]) -> list[str]:
    keys = [field.name for field in fields(Institution)]
    found = [f"{key} is missing" for key in keys if key not in settings]
    for key in settings:
        if key not in keys:
            near = get_close_matches(str(key), keys, n=1)
            found.append(f"{key} is no setting" + (f"; did you mean {near[0]}?" if near else ""))
    for field in fields(Institution):
        if field.name in settings and field.name in _RANGES:
            found += _number_problems(field.name, settings[field.name], field.type is int)
    for key, choices in _CHOICES.items():
        if key in settings and settings[key] not in choices:
            words = " or ".join(json.dumps(choice).strip('"') for choice in choices)
            found.append(f"{key} = {settings[key]!r} is not {words}")
    if "leads" in settings:
        found += _lead_problems(settings["leads"])
    if "film_height_px" in settings:
        found += _height_problems(settings["film_height_px"])
    if not found and settings["low_pass_hz"] >= settings["sampling_rate_hz"] / 2:
        found.append(
            f"low_pass_hz = {settings['low_pass_hz']} is not below half of sampling_rate_hz "
            f"= {settings['sampling_rate_hz']}"
        )
    return found


def _number_problems(key: str, value: Any, whole: bool) -> list[str]:
    low, high = _RANGES[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return [f"{key} = {value!r} is not a number"]
    if not (isfinite(value) and low <= value <= high):
        return [f"{key} = {value!r} is not between {low:g} and {high:g}"]
    if whole and value != int(value):
        return [f"{key} = {value!r} is not a whole number"]
    return []


def _height_problems(heights: Any) -> list[str]:
    low, high = _FILM_HEIGHT_PX
    if (
        isinstance(heights, str)
        or not isinstance(heights, Sequence)
        or len(heights) != 2
        or not all(type(height) is int for height in heights)
        or not low <= heights[0] <= heights[1] <= high
    ):
        return [
            f"film_height_px = {heights!r} is not the least and the most height of a film, "
            f"whole numbers between {low} and {high}"
        ]
    return []


def _lead_problems(leads: Any) -> list[str]:
    if isinstance(leads, str) or not isinstance(leads, Sequence):
        return [f"leads = {leads!r} is not a list of lead names"]
    given = sorted(str(lead).upper() for lead in leads)
    if given != sorted(lead.upper() for lead in STANDARD_LEADS):
        return [
            f"leads = {list(leads)} does not name each of the twelve leads once: "
            + ", ".join(STANDARD_LEADS)
        ]
    return []
