"""A frontal chest X-ray from its findings: what the rays cross on their way, in mm of water.

A film shows the logarithm of what is left of the rays, so that thicknesses add: a chest of soft
tissue, less two lungs of air, plus heart, vessels and bones. The heart is as wide as the
cardiothoracic ratio says; the pulmonary artery's prominence bulges the second arch of the left
border and widens the hila; the vascular marking thickens the lungs' vessels, makes them seen
further out, and in the upper lobes too. Shapes and sizes are choices that look like chest X-rays.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Image = NDArray[np.floating[Any]]

BITS = 12
FILM_HEIGHT_MM = 430.0
_FILM_WIDTHS_MM = (350.0, 430.0)
_APEX_MM = 55.0  # of the lungs, below the film's upper edge
_MAGNIFICATION_AP = 1.08  # of the heart, which lies in front, away from the detector
_HILUM = {-1: 0.50, 1: 0.46}  # right and left: height in the lung, 0 at the apex, 1 at the base

_MAIN_VESSELS = 9  # in each lung
_GENERATIONS = 5  # of vessels; each divides into two of the next
_VESSEL_MM = {0: 2.2, 2: 1.1}  # blur of the vessels from this generation on
_POINTS = 24  # that a vessel is drawn of

_LETTERS = {
    "L": ("1000", "1000", "1000", "1000", "1000", "1111"),
    "R": ("1110", "1001", "1001", "1110", "1010", "1001"),
}


@dataclass(frozen=True, slots=True)
class Body:
    """What stays the same in all chest X-rays of a patient."""

    male: bool
    half_width_mm: float  # of the thorax between the ribs, at its widest
    lung_height_mm: float  # from apex to base
    wall_mm: float  # muscle and fat outside the ribs
    right_share: float  # of the heart's width, what lies right of the spine's middle
    aortic_knob_mm: float  # left of the spine's middle


def draw_body(rng: np.random.Generator, male: bool) -> Body:
    """Draw a patient's build, which depends on nothing but sex."""
    width, height, wall, share, knob = np.clip(rng.standard_normal(5), -2.5, 2.5).tolist()
    return Body(
        male=male,
        half_width_mm=(143 if male else 130) + 8 * width,
        lung_height_mm=(288 if male else 268) + 12 * height,
        wall_mm=28 + 7 * wall,
        right_share=0.34 + 0.025 * share,
        aortic_knob_mm=34 + 3.5 * knob,
    )


def simulate_cxr(
    rng: np.random.Generator,
    findings: Sequence[float],
    body: Body,
    *,
    height_px: int,
    anteroposterior: bool,
) -> NDArray[np.uint16]:
    """Take one chest X-ray.

    Args:
        findings: in the order of `patients.FILM`; heart width, pulmonary artery, vessels.
        height_px: of the film; it is FILM_HEIGHT_MM high, and as wide or narrower.
        anteroposterior: rays from the front, as at the bedside, which magnify the heart; else
            from the back.

    Returns:
        [height, width] of BITS bits, bone bright, the patient's left on the right-hand side.
    """
    ratio, artery, marking = np.clip(findings, (0.3, -3, -4), (0.72, 5, 5)).tolist()
    if anteroposterior:
        ratio *= _MAGNIFICATION_AP
    varied = np.clip(rng.standard_normal(8), -2.5, 2.5).tolist()
    shift, tilt, turn, breath, aeration, exposure, contrast, dose = varied
    scale = height_px / FILM_HEIGHT_MM  # px a mm
    width_px = round(float(rng.choice(_FILM_WIDTHS_MM)) * scale)
    lung_mm = body.lung_height_mm + 10 * breath - 18 * anteroposterior

    # Everything is drawn upright and separable where it can be, and leant over in the end.
    y = ((np.arange(height_px, dtype=np.float32) + 0.5) / scale)[:, None]
    x = ((np.arange(width_px, dtype=np.float32) + 0.5 - width_px / 2) / scale)[None]
    t = (y - _APEX_MM) / lung_mm  # 0 at the lungs' apex, 1 at their base

    air = _air(x, t, body.half_width_mm, lung_mm) * (1 + 0.05 * aeration)
    left, right = _heart_borders(t, body, ratio, artery)
    solid = _heart(x - 3 * turn, t, left, right)
    solid += _hila(x, t, artery)
    solid += _vessels(rng, air.shape, scale, lung_mm, marking)
    water = _chest_wall(x, t, body)
    water -= np.maximum(air - solid, 0)
    water += _bones(x, y, t, body.half_width_mm)
    _trachea(water, x, t)

    grain = 0.8 * np.exp(0.2 * dose) * (1 + np.square(water / 150))
    water += grain.astype(np.float32) * rng.standard_normal(water.shape, dtype=np.float32)
    # The characteristic curve of the film's processing.
    film = 60 + 3900 / (1 + np.exp((126 + 9 * exposure - water) / (34 + 4 * contrast)))
    film = _leant(film, (0.012 * tilt * (y[:, 0] - 200) + 7 * shift) * scale)
    _mark_side(rng, film, scale)
    return np.rint(film).astype(np.uint16)


def write_dicom(
    path: Path,
    film: NDArray[np.uint16],
    *,
    patient_id: str,
    exam_id: str,
    seed: int,
    taken: datetime,
    age_years: int,
    male: bool,
    anteroposterior: bool,
    photometric_interpretation: str,
    transfer_syntax: str,
) -> None:
    """Write a film of `simulate_cxr` as a DICOM Digital X-Ray Image (PS3.3 A.26).

    The same arguments give the same bytes: unique identifiers are made of seed and exam.

    Args:
        photometric_interpretation: MONOCHROME2 as the film is, MONOCHROME1 with all values
            turned round; on a display both look the same.
        transfer_syntax: ExplicitVRLittleEndian or RLELossless.
    """
    # Imported here: cohorts without films do without.
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import (
        DigitalXRayImageStorageForPresentation,
        ExplicitVRLittleEndian,
        RLELossless,
        generate_uid,
    )

    inverted = photometric_interpretation == "MONOCHROME1"
    most = 2**BITS - 1
    low, high = np.percentile(film[::4, ::4], (0.5, 99.5)).round().astype(int).tolist()
    # Of the linear window function, which is symmetric about centre - 0.5 (PS3.3 C.11.2.1.2).
    centre, window = (low + high + 1) / 2, high - low + 1
    if inverted:
        film = most - film
        centre = most + 1 - centre

    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID = DigitalXRayImageStorageForPresentation
    for level in ("Study", "Series", "SOP"):
        uid = generate_uid(entropy_srcs=[str(seed), exam_id, level])
        setattr(image, f"{level}InstanceUID", uid)
    image.PatientName = f"SIMULATED^{exam_id}"
    image.PatientID = patient_id
    image.PatientBirthDate = ""
    image.PatientSex = "M" if male else "F"
    image.PatientAge = f"{age_years:03d}Y"
    image.StudyDate = image.ContentDate = taken.strftime("%Y%m%d")
    image.StudyTime = image.ContentTime = taken.strftime("%H%M%S")
    image.StudyID = image.AccessionNumber = image.ReferringPhysicianName = ""
    image.SeriesNumber = image.InstanceNumber = 1
    image.Manufacturer = "Simulated"

    image.Modality = "DX"
    image.PresentationIntentType = "FOR PRESENTATION"
    image.ImageType = ["ORIGINAL", "PRIMARY", ""]
    image.BodyPartExamined = "CHEST"
    chest = Dataset()
    chest.CodeValue, chest.CodingSchemeDesignator, chest.CodeMeaning = "43799004", "SCT", "Chest"
    image.AnatomicRegionSequence = [chest]
    image.ImageLaterality = "U"
    image.ViewPosition = "AP" if anteroposterior else "PA"
    image.PatientOrientation = ["L", "F"]
    image.PositionerType = image.DetectorType = ""
    image.AcquisitionContextSequence = []

    image.Rows, image.Columns = film.shape
    spacing = f"{FILM_HEIGHT_MM / film.shape[0]:.4f}"
    image.PixelSpacing = image.ImagerPixelSpacing = [spacing, spacing]
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = photometric_interpretation
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, BITS, BITS - 1
    image.PixelRepresentation = 0
    image.PixelIntensityRelationship = "LOG"
    image.PixelIntensityRelationshipSign = 1 if inverted else -1
    image.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    image.RescaleIntercept, image.RescaleSlope, image.RescaleType = 0, 1, "US"
    image.WindowCenter, image.WindowWidth = centre, window
    image.BurnedInAnnotation = "NO"
    image.LossyImageCompression = "00"
    image.PixelData = film.astype("<u2", copy=False).tobytes()
    if transfer_syntax == "RLELossless":
        image.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    image.save_as(path, enforce_file_format=True)


def _rod(u: Image) -> Image:
    """Thickness of a cylinder of radius and thickness 1 at the distance u from its axis."""
    return np.sqrt(np.maximum(1 - u * u, 0))


def _by_height(t: Image, heights: Sequence[float], values: Sequence[float]) -> Image:
    return np.interp(t, heights, values).astype(np.float32)


def _chest_wall(x: Image, t: Image, body: Body) -> Image:
    flank = body.half_width_mm + body.wall_mm
    outer = _by_height(
        t,
        [-0.30, -0.14, -0.05, 0.02, 0.14, 0.32, 0.55, 1.2],
        [58, 64, 0.75 * flank, flank + 45, flank + 52, flank + 12, flank, flank + 4],
    )
    depth = _by_height(t, [-0.2, 0.1, 0.5, 1.1], [130, 150, 190, 225])
    tissue = (depth + 1.2 * (body.wall_mm - 28)) * _rod(x / outer)
    if not body.male:
        up = np.square((t - 0.80) / 0.22)
        for side in (-1, 1):
            across = np.square((x - side * 0.52 * body.half_width_mm) / 64)
            tissue += 0.5 * body.wall_mm * np.sqrt(np.maximum(1 - across - up, 0))
    return tissue


def _cage(t: Image, half_width: float) -> Image:
    """Half width of the thorax between the ribs, in mm."""
    half: Image = half_width * np.sqrt(1 - (1 - np.clip(t, 1e-4, 1)) ** 2.8)
    return half


def _air(x: Image, t: Image, half_width: float, lung_mm: float) -> Image:
    depth = _by_height(t, [0.0, 0.4], [55, 165]) * (t > 0)
    air = depth * _rod(x / _cage(t, half_width))
    # The diaphragm's two domes, the right one higher, fall to the costophrenic angles. The
    # transition over some mm is logistic in t - floor, which is a product of both.
    across = np.abs(x) / half_width
    dome = np.maximum(1 - np.square((across - 0.42) / 0.58), 0)
    floor = 1 - np.where(x < 0, 0.145, 0.11).astype(np.float32) * dome
    steepness = lung_mm / 2.5
    air /= 1 + np.exp(np.clip(steepness * (t - 0.9), -40, 40)) * np.exp(steepness * (0.9 - floor))
    return air


def _heart_borders(t: Image, body: Body, ratio: float, artery: float) -> tuple[Image, Image]:
    """How far the heart and its vessels reach to the left and to the right of the middle, in mm."""
    width = 2 * body.half_width_mm * ratio

    def arch(centre: float, half: float, power: float) -> Image:
        reach: Image = np.maximum(1 - np.square((t - centre) / half), 0) ** power
        return reach

    vessels = _by_height(t, [0, 0.25, 1.1, 1.15], [16, 20, 20, 1])
    right = np.maximum(vessels + 2, body.right_share * width * arch(0.74, 0.36, 0.55))
    left = np.maximum.reduce(
        [
            vessels,
            body.aortic_knob_mm * arch(0.27, 0.12, 0.45),
            (30 + 6 * artery) * arch(0.42, 0.14, 0.40),
            (1 - body.right_share) * width * arch(0.79, 0.37, 0.62),
        ]
    )
    return left, right


def _heart(x: Image, t: Image, left: Image, right: Image) -> Image:
    depth = _by_height(t, [0, 0.3, 0.6, 0.85, 1.2], [60, 75, 125, 150, 140])
    # Blunter than an ellipse, so that its silhouette is sharp.
    heart: Image = depth * np.sqrt(_rod((x - (left - right) / 2) / ((left + right) / 2)))
    return heart


def _hila(x: Image, t: Image, artery: float) -> Image:
    thickness, width = 18 + 5 * artery, 11 + 1.5 * artery
    hila: Image = sum(
        thickness
        * np.exp(-np.square((x - side * (32 + artery)) / width))
        * np.exp(-np.square((t - height) / 0.07))
        for side, height in _HILUM.items()
    )
    return hila


def _vessels(
    rng: np.random.Generator, shape: tuple[int, int], scale: float, lung_mm: float, marking: float
) -> Image:
    """The vessels of both lungs, dividing from the hila outwards."""
    step = np.linspace(0, 1, _POINTS, endpoint=False)
    # One list of both lungs' vessels; angles from the horizontal, down is positive.
    side = np.repeat(list(_HILUM), _MAIN_VESSELS)
    angle = np.tile(np.linspace(-1.3, 1.4, _MAIN_VESSELS), 2) + 0.1 * rng.standard_normal(len(side))
    x = side * 28.0
    y = _APEX_MM + np.repeat(list(_HILUM.values()), _MAIN_VESSELS) * lung_mm + 14 * np.sin(angle)
    length = 0.16 * lung_mm * np.exp(0.15 * rng.standard_normal(len(side)))
    # In health the upper lobes' vessels are the thinner ones.
    thickness = np.where(angle < 0, np.clip(0.55 + 0.13 * marking, 0.15, 1.3), 1.0)
    drawn = {first: np.zeros(shape[0] * shape[1]) for first in _VESSEL_MM}
    for generation in range(_GENERATIONS):
        bend = angle[:, None] + 0.35 * rng.standard_normal(len(x))[:, None] * step
        xs = x[:, None] + (side * length)[:, None] * step * np.cos(bend)
        ys = y[:, None] + length[:, None] * step * np.sin(bend)
        column = np.clip((xs * scale + shape[1] / 2).astype(int), 0, shape[1] - 1)
        row = np.clip((ys * scale).astype(int), 0, shape[0] - 1)
        seen = np.exp(0.22 * marking - 0.15 * generation * max(0.0, 2 - marking))
        weight = np.repeat(seen * thickness * length / _POINTS, _POINTS)
        first = max(start for start in _VESSEL_MM if start <= generation)
        drawn[first] += np.bincount((row * shape[1] + column).ravel(), weight, drawn[first].size)
        side, x, y = (np.repeat(values, 2) for values in (side, xs[:, -1], ys[:, -1]))
        fork = np.tile([-0.35, 0.35], len(bend)) + 0.15 * rng.standard_normal(len(x))
        angle = np.repeat(bend[:, -1], 2) + fork
        length, thickness = np.repeat(0.74 * length, 2), np.repeat(0.74 * thickness, 2)
    image = np.zeros(shape, dtype=np.float32)
    lungs = slice(int(_APEX_MM * scale), int((_APEX_MM + lung_mm) * scale))
    for first, blur in _VESSEL_MM.items():
        lines = drawn[first].reshape(shape)[lungs].astype(np.float32)
        # A line of unit weight a mm comes out equally thick at every scale and blur.
        image[lungs] += 60 * blur * scale**2 * gaussian_filter(lines, blur * scale, truncate=2.5)
    return image


def _bones(x: Image, y: Image, t: Image, half_width: float) -> Image:
    across = np.abs(x) / half_width
    # cos(a - b), with a in y and b in x.
    bones = 19 * _stripes(y / 25, 0.8 * across + across**4, 0.1)
    bones += (
        11
        * _stripes(y / 29, -1.8 * across + 0.75 * across**2, 0.05)
        * np.clip((across - 0.38) * 6, 0, 1)
    )
    bones *= np.clip((1 - np.abs(x) / (_cage(t, half_width) + 4)) * 25, 0, 1)
    bones *= _by_height(t, [-0.05, 0.03, 1.0, 1.15], [0, 1, 1, 0])
    bones += 34 * _rod(x / 21) * np.where(np.sin(2 * np.pi * y / 24) > -0.5, 1.1, 0.85)
    collar = np.abs(x)
    centre = _APEX_MM + 36 - 0.30 * np.clip(collar - 22, 0, 140) + 9 * np.sin(collar / 26)
    rows = slice(0, int(np.searchsorted(t[:, 0], 0.3)))
    bones[rows] += 24 * _rod((y[rows] - centre) / 7) * (collar > 17)
    return bones


def _stripes(turns: Image, offset: Image, width: float) -> Image:
    """Bands along turns - offset = whole number; `turns` is a column and `offset` a row."""
    a, b = 2 * np.pi * turns, 2 * np.pi * offset
    wave = np.cos(a) * np.cos(b) + np.sin(a) * np.sin(b)
    bands: Image = np.clip(wave + width, 0, 0.6)
    return bands


def _trachea(water: Image, x: Image, t: Image) -> None:
    rows = slice(0, int(np.searchsorted(t[:, 0], 0.36)))
    columns = np.abs(x[0]) < 12
    water[rows, columns] -= 30 * _rod((x[:, columns] + 2) / 9)


def _leant(film: Image, by_px: Image) -> Image:
    """Each row moved to the right by so many px."""
    columns = np.arange(film.shape[1]) - np.rint(by_px).astype(int)[:, None]
    moved: Image = np.take_along_axis(film, np.clip(columns, 0, film.shape[1] - 1), axis=1)
    return moved


def _mark_side(rng: np.random.Generator, film: Image, scale: float) -> None:
    left = bool(rng.random() < 0.6)
    letter = np.array([[int(dot) for dot in row] for row in _LETTERS["L" if left else "R"]])
    letter = np.kron(letter, np.ones((round(3 * scale), round(3 * scale)))).astype(bool)
    row, column = (np.array([rng.uniform(10, 40), rng.uniform(8, 22)]) * scale).astype(int)
    if left:
        column = film.shape[1] - column - letter.shape[1]
    film[row : row + letter.shape[0], column : column + letter.shape[1]][letter] = 4000
