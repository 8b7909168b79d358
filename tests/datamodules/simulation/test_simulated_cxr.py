from dataclasses import replace
from datetime import datetime

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, RLELossless
from sklearn.linear_model import Ridge

from datamodules.radiographs import read_radiograph, to_square
from datamodules.simulation.cxr import FILM_HEIGHT_MM, Body, draw_body, simulate_cxr, write_dicom

AVERAGE = Body(
    male=True,
    half_width_mm=143.0,
    lung_height_mm=288.0,
    wall_mm=28.0,
    right_share=0.34,
    aortic_knob_mm=34.0,
)
# The elements of type 1 and 2 of the modules that are mandatory in a DX image (PS3.3 A.26).
TYPE_1 = """SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID Modality
PresentationIntentType ImageLaterality ImageType PatientOrientation SamplesPerPixel
PhotometricInterpretation Rows Columns BitsAllocated BitsStored HighBit PixelRepresentation
PixelIntensityRelationship PixelIntensityRelationshipSign WindowCenter WindowWidth
RescaleIntercept RescaleSlope RescaleType PresentationLUTShape LossyImageCompression
BurnedInAnnotation ImagerPixelSpacing PixelData"""
TYPE_2 = """PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime StudyID
AccessionNumber ReferringPhysicianName SeriesNumber InstanceNumber Manufacturer
AnatomicRegionSequence AcquisitionContextSequence DetectorType"""


def take(seed=0, body=AVERAGE, *, findings=(0.47, 0.0, 0.0), height_px=320, anteroposterior=False):
    return simulate_cxr(
        np.random.default_rng(seed),
        findings,
        body,
        height_px=height_px,
        anteroposterior=anteroposterior,
    )


def write(path, film, **changes):
    write_dicom(
        path,
        film,
        **{
            "patient_id": "hollowmarsh-p000001",
            "exam_id": "hollowmarsh-p000001-e1",
            "seed": 7,
            "taken": datetime(2019, 3, 4, 10, 20, 30),
            "age_years": 71,
            "male": False,
            "anteroposterior": False,
            "photometric_interpretation": "MONOCHROME2",
            "transfer_syntax": "ExplicitVRLittleEndian",
        }
        | changes,
    )
    return path


def cardiothoracic_ratio(film):
    """As a reader measures it: the heart against the inside of the ribs, above the diaphragm."""
    mm = film.shape[0] / FILM_HEIGHT_MM
    profile = film[round(265 * mm) : round(285 * mm)].mean(axis=0)
    middle = len(profile) // 2
    heart = thorax = 0
    for direction in (-1, 1):
        side = profile[middle::direction]
        lung = round(20 * mm) + side[round(20 * mm) : round(135 * mm)].argmin()
        half_way = (side[lung] + np.median(side[: round(25 * mm)])) / 2
        heart += np.flatnonzero(side[:lung] > half_way).max()
        thorax += lung + np.diff(side[lung : round(165 * mm)]).argmax()
    return heart / thorax


def test_a_film_has_twelve_bits_its_height_and_nothing_saturated():
    for height in (240, 311, 420):
        film = take(height_px=height)
        assert film.dtype == np.uint16
        assert film.shape[0] == height
        assert 0.7 * height < film.shape[1] <= height
        assert film.max() < 4096
        assert np.unique(film).size > 1000
        lungs = film[int(0.35 * height) : int(0.5 * height)]
        assert lungs[:, film.shape[1] // 4].mean() < 0.6 * lungs[:, film.shape[1] // 2].mean()
    assert {take(seed).shape for seed in range(12)} == {(320, 320), (320, 260)}


def test_films_are_reproducible_and_differ():
    assert np.array_equal(take(1), take(1))
    assert not np.array_equal(take(1), take(2))


def test_the_cardiothoracic_ratio_can_be_measured():
    drawn = np.linspace(0.38, 0.62, 25)
    measured = [
        cardiothoracic_ratio(take(seed, findings=(ratio, 0, 0))) for seed, ratio in enumerate(drawn)
    ]
    assert np.corrcoef(drawn, measured)[0, 1] > 0.97
    assert np.polyfit(drawn, measured, 1)[0] == pytest.approx(1, abs=0.12)
    assert np.abs(measured - drawn).mean() < 0.03


def test_a_film_from_the_front_magnifies_the_heart():
    # A shallower breath, at the bedside, lets the lungs of this body end where the others' do.
    lying = replace(AVERAGE, lung_height_mm=AVERAGE.lung_height_mm + 18)
    for seed in range(3):
        front, back = (
            cardiothoracic_ratio(take(seed, body, findings=(0.45, 0, 0), anteroposterior=view))
            for body, view in ((lying, True), (AVERAGE, False))
        )
        assert 1.03 < front / back < 1.15


def added(findings, seed=3):
    """Where the film becomes brighter, and the coordinates of its pixels in mm."""
    before, after = take(seed).astype(float), take(seed, findings=findings).astype(float)
    rows, columns = np.indices(before.shape) * FILM_HEIGHT_MM / before.shape[0]
    return after - before, rows, columns - columns.max() / 2


def test_the_pulmonary_artery_bulges_the_left_border_and_widens_the_hila():
    difference, y, x = added((0.47, 3.0, 0.0))
    middle_third = (y > 110) & (y < 245) & (np.abs(x) < 85)
    assert difference[middle_third].clip(0).sum() > 0.99 * difference.clip(0).sum()
    artery = (y > 150) & (y < 190)
    assert difference[artery & (x > 35) & (x < 55)].mean() > 300
    assert difference[artery & (x > 35)].clip(0).sum() > difference[artery & (x < -35)].sum()
    assert (difference[(y > 190) & (y < 215) & (x < -25) & (x > -50)]).mean() > 50


def test_vascular_marking_thickens_the_vessels_out_to_the_ribs_and_up_to_the_apex():
    difference, y, x = added((0.47, 0.0, 3.0))
    inside = (np.abs(x) < 150) & (y > 45) & (y < 340)
    assert difference[inside].clip(0).sum() > 0.99 * difference.clip(0).sum()
    for region in (
        (np.abs(x) > 90) & (np.abs(x) < 120) & (y > 180) & (y < 260),
        (np.abs(x) > 30) & (np.abs(x) < 80) & (y > 90) & (y < 150),
    ):
        changed = difference[region]
        assert changed.mean() > 60
        assert changed.std() > changed.mean()  # lines, not a veil
    upper, lower = (y > 80) & (y < 150), (y > 220) & (y < 290)
    lungs = (np.abs(x) > 30) & (np.abs(x) < 110)

    def share(marking):
        film = take(3, findings=(0.47, 0.0, marking)).astype(float)
        none = take(3, findings=(0.47, 0.0, -4.0)).astype(float)
        gained = (film - none).clip(0)
        return gained[lungs & upper].sum() / gained[lungs & lower].sum()

    assert share(3.0) > 1.2 * share(0.0)  # redistribution to the upper lobes


@pytest.fixture(scope="module")
def films():
    """600 films of as many patients, as 32 x 32 pixels, and their findings."""
    rng = np.random.default_rng(0)
    findings = rng.normal((0.48, 0.3, 0.3), (0.05, 1.3, 1.2), (600, 3))
    small = []
    for finding in findings:
        body = draw_body(rng, bool(rng.random() < 0.5))
        film = simulate_cxr(rng, finding, body, height_px=128, anteroposterior=False)
        small.append(to_square((film / 4095).astype(np.float32), 32))
    return np.array(small, dtype=float).reshape(len(small), -1), findings


def test_a_simple_reader_finds_the_findings_and_the_mean_grey_does_not_give_them_away(films):
    pixels, findings = films
    grey = pixels.mean(axis=1)
    standard = (pixels - grey[:, None]) / pixels.std(axis=1)[:, None]
    train, test = slice(0, 450), slice(450, None)
    for column, at_least in enumerate((0.8, 0.75, 0.5)):
        read = Ridge(alpha=30).fit(standard[train], findings[train, column]).predict(standard[test])
        found = np.corrcoef(read, findings[test, column])[0, 1]
        assert at_least < found < 0.98, column
        assert abs(np.corrcoef(grey[test], findings[test, column])[0, 1]) < 0.6 * found, column


@pytest.mark.parametrize("transfer_syntax", ["ExplicitVRLittleEndian", "RLELossless"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_the_file_is_a_digital_x_ray_image(tmp_path, transfer_syntax, photometric):
    film = take(height_px=240)
    path = write(
        tmp_path / "film.dcm",
        film,
        photometric_interpretation=photometric,
        transfer_syntax=transfer_syntax,
    )
    image = pydicom.dcmread(path)
    assert image.file_meta.TransferSyntaxUID == getattr(pydicom.uid, transfer_syntax)
    assert image.SOPClassUID.name == "Digital X-Ray Image Storage - For Presentation"
    assert image.file_meta.MediaStorageSOPInstanceUID == image.SOPInstanceUID
    assert not [e for e in TYPE_1.split() if e not in image or image[e].is_empty]
    assert not [e for e in TYPE_2.split() if e not in image]
    assert (image.Modality, image.BodyPartExamined, image.ViewPosition) == ("DX", "CHEST", "PA")
    assert (image.PatientName, image.PatientID) == (
        "SIMULATED^hollowmarsh-p000001-e1",
        "hollowmarsh-p000001",
    )
    assert (image.PatientSex, image.PatientAge, image.StudyDate) == ("F", "071Y", "20190304")
    assert (image.BitsStored, image.HighBit, image.Rows) == (12, 11, 240)
    assert image.PixelSpacing[0] == pytest.approx(FILM_HEIGHT_MM / 240, abs=1e-3)
    stored = image.pixel_array
    assert np.array_equal(stored if photometric == "MONOCHROME2" else 4095 - stored, film)


def test_both_photometric_interpretations_and_syntaxes_show_the_same_thorax(tmp_path):
    film = take(height_px=240)
    shown = [
        read_radiograph(
            write(
                tmp_path / f"{photometric}.{syntax}.dcm",
                film,
                photometric_interpretation=photometric,
                transfer_syntax=syntax,
            )
        ).pixels
        for photometric in ("MONOCHROME1", "MONOCHROME2")
        for syntax in ("ExplicitVRLittleEndian", "RLELossless")
    ]
    for other in shown[1:]:
        assert np.abs(other - shown[0]).max() < 1e-6
    spine, lung = shown[0][120, 115:125].mean(), shown[0][90:120, 60].mean()
    assert spine > 0.6 > 0.3 > lung
    # The window leaves little of the film out.
    assert 0.001 < np.isin(shown[0], (0, 1)).mean() < 0.05


def test_compression_saves_and_both_syntaxes_are_what_they_say(tmp_path):
    film = take(height_px=240)
    plain = write(tmp_path / "plain.dcm", film)
    packed = write(tmp_path / "packed.dcm", film, transfer_syntax="RLELossless")
    assert packed.stat().st_size < 0.9 * plain.stat().st_size
    metas = [pydicom.dcmread(path).file_meta.TransferSyntaxUID for path in (plain, packed)]
    assert metas == [ExplicitVRLittleEndian, RLELossless]


def test_the_same_exam_gives_the_same_bytes_and_identifiers_are_its_own(tmp_path):
    film = take(height_px=200)
    for syntax in ("ExplicitVRLittleEndian", "RLELossless"):
        one, again = (
            write(tmp_path / name, film, transfer_syntax=syntax).read_bytes() for name in "ab"
        )
        assert one == again
    images = [
        pydicom.dcmread(write(tmp_path / "c", film, **changes))
        for changes in ({}, {"seed": 8}, {"exam_id": "hollowmarsh-p000001-e2"})
    ]
    for level in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        assert len({image[level].value for image in images}) == 3
    assert pydicom.dcmread(write(tmp_path / "d", film, anteroposterior=True)).ViewPosition == "AP"
