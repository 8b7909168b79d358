import logging
import pickle
import re
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.data import get_testdata_file
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_windowing
from pydicom.pixels.decoders.base import Decoder
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import (
    MPEG2MPML,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    RLELossless,
)
from radiographs.films import film, pattern, table

from datamodules.radiographs import RadiographError, read_radiograph


def pixels(path: Path) -> NDArray[np.float32]:
    read = read_radiograph(path).pixels
    assert read.dtype == np.float32
    assert read.flags.c_contiguous
    assert read.min() >= 0
    assert read.max() <= 1
    return read


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "film.dcm"


@pytest.mark.parametrize("bits", [8, 10, 12, 15, 16])
def test_without_a_window_the_images_own_range_is_shown(path: Path, bits: int) -> None:
    stored = pattern(bits) // 2 + 5
    expected = (stored - stored.min()) / (stored.max() - stored.min())
    np.testing.assert_allclose(pixels(film(path, stored, bits=bits)), expected, atol=1e-6)


@pytest.mark.parametrize("window", [{}, {"WindowCenter": 1500, "WindowWidth": 2000}])
def test_monochrome1_is_monochrome2_inverted(path: Path, window: dict[str, Any]) -> None:
    one = pixels(film(path, **window))
    other = film(
        path.with_suffix(""),
        4095 - pattern(),
        PhotometricInterpretation="MONOCHROME1",
        **{name: 4095 - v if name == "WindowCenter" else v for name, v in window.items()},
    )
    # LINEAR windows are half a step off their centre, either way.
    np.testing.assert_allclose(pixels(other), one, atol=1.01 / 1999 if window else 1e-6)


def linear(x: Any, c: float, w: float) -> Any:
    """PS3.3 C.11.2.1.2.1, for ymin 0 and ymax 1."""
    if x <= c - 0.5 - (w - 1) / 2:
        return 0
    if x > c - 0.5 + (w - 1) / 2:
        return 1
    return (x - (c - 0.5)) / (w - 1) + 0.5


def linear_exact(x: Any, c: float, w: float) -> Any:
    """PS3.3 C.11.2.1.3.2."""
    if x <= c - w / 2:
        return 0
    if x > c + w / 2:
        return 1
    return (x - c) / w + 0.5


def sigmoid(x: Any, c: float, w: float) -> Any:
    """PS3.3 C.11.2.1.3.1."""
    return 1 / (1 + np.exp(-4 * (x - c) / w))


@pytest.mark.parametrize(
    ("function", "closed_form"),
    [(None, linear), ("LINEAR", linear), ("LINEAR_EXACT", linear_exact), ("SIGMOID", sigmoid)],
)
def test_windows_are_the_standards(path: Path, function: str | None, closed_form: Any) -> None:
    film(path, WindowCenter=[2048.5, 1], WindowWidth=[1000, 2], VOILUTFunction=function)
    expected = np.vectorize(closed_form, otypes=[float])(pattern().astype(float), 2048.5, 1000)
    shown = pixels(path)
    np.testing.assert_allclose(shown, expected, atol=1e-5)
    dataset = pydicom.dcmread(path)
    np.testing.assert_allclose(shown, apply_windowing(pattern(), dataset) / 4095, atol=1e-5)


@pytest.mark.parametrize(("function", "width"), [("LINEAR", 1), ("LINEAR", 0), ("SIGMOID", 0)])
def test_a_window_without_width_is_none(path: Path, function: str, width: float) -> None:
    film(path, WindowCenter=2000, WindowWidth=width, VOILUTFunction=function)
    np.testing.assert_allclose(pixels(path), pattern() / 4095, atol=1e-6)


def test_the_window_is_in_rescaled_units(path: Path) -> None:
    film(path, RescaleSlope=0.5, RescaleIntercept=-100, WindowCenter=400, WindowWidth=600)
    rescaled = 0.5 * pattern().astype(float) - 100
    expected = np.vectorize(linear, otypes=[float])(rescaled, 400, 600)
    np.testing.assert_allclose(pixels(path), expected, atol=1e-5)


def test_a_negative_slope_inverts(path: Path) -> None:
    film(path, RescaleSlope=-1, RescaleIntercept=4095)
    np.testing.assert_allclose(pixels(path), 1 - pattern() / 4095, atol=1e-6)


@pytest.mark.parametrize("window", [{}, {"WindowCenter": -200, "WindowWidth": 1500}])
@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian])
def test_signed_values(path: Path, window: dict[str, Any], syntax: str | None) -> None:
    stored = pattern().astype(np.int16) - 2048
    film(path, stored, **window, **({"syntax": syntax} if syntax else {}))
    expected = (
        np.vectorize(linear, otypes=[float])(stored.astype(float), -200, 1500)
        if window
        else (stored + 2048) / 4095
    )
    np.testing.assert_allclose(pixels(path), expected, atol=1e-5)


@pytest.mark.parametrize("vr", ["US", "OW"])
@pytest.mark.parametrize("bits", [8, 10, 16])
def test_a_voi_lut_goes_before_the_window(path: Path, vr: str, bits: int) -> None:
    curve = np.rint((np.arange(4000) / 3999) ** 2 * (2**bits - 1)).astype(np.uint16)
    item = table(curve, 50, bits, vr)
    film(path, VOILUTSequence=Sequence([item]), WindowCenter=1, WindowWidth=2)
    expected = curve[np.clip(pattern().astype(int) - 50, 0, 3999)] / (2**bits - 1)
    np.testing.assert_allclose(pixels(path), expected, atol=1e-6)


def test_a_modality_lut_replaces_rescaling(path: Path) -> None:
    curve = (60000 - 10 * np.arange(4096)).astype(np.uint16)
    film(
        path,
        ModalityLUTSequence=Sequence([table(curve, 0, 16)]),
        RescaleSlope=3,
        RescaleIntercept=1,
        WindowCenter=40000,
        WindowWidth=20000,
    )
    looked_up = apply_modality_lut(pattern(), pydicom.dcmread(path)).astype(float)
    expected = np.vectorize(linear, otypes=[float])(looked_up, 40000, 20000)
    np.testing.assert_allclose(pixels(path), expected, atol=1e-5)


def test_padding_is_black_and_not_in_the_range(path: Path) -> None:
    stored = np.clip(pattern(), 1000, 3000)
    stored[:5] = 4095
    film(path, stored, PixelPaddingValue=4095, PhotometricInterpretation="MONOCHROME1")
    expected = (3000 - stored.astype(float)) / 2000
    expected[:5] = 0
    np.testing.assert_allclose(pixels(path), expected, atol=1e-6)


def test_signed_padding_without_explicit_types(path: Path) -> None:
    stored = pattern().astype(np.int16) - 2048
    stored[:5], stored[5] = -2010, -1990
    syntax = ImplicitVRLittleEndian
    film(path, stored, syntax=syntax, PixelPaddingValue=-2010, PixelPaddingRangeLimit=-1990)
    inside = ~((stored >= -2010) & (stored <= -1990))
    low = stored[inside].min()
    expected = np.where(inside, (stored - low) / (2047 - low), 0)
    np.testing.assert_allclose(pixels(path), expected, atol=1e-6)


def test_bits_above_those_stored_are_masked(path: Path) -> None:
    film(path, pattern() | 0xA000)
    np.testing.assert_allclose(pixels(path), pattern() / 4095, atol=1e-6)


@pytest.mark.parametrize(
    ("syntax", "bits", "tolerance"),
    [
        (ImplicitVRLittleEndian, 12, 1e-6),
        (RLELossless, 12, 1e-6),
        (RLELossless, 8, 1e-6),
        (JPEG2000Lossless, 16, 1e-6),
        (JPEG2000Lossless, 8, 1e-6),
        (JPEGBaseline8Bit, 8, 0.03),
    ],
)
def test_compressed_films(path: Path, syntax: str, bits: int, tolerance: float) -> None:
    stored = pattern(bits)
    film(path, stored, bits=bits, syntax=syntax)
    np.testing.assert_allclose(pixels(path), stored / (2**bits - 1), atol=tolerance)


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (["L", "F"], lambda x: x),
        (["R", "F"], np.fliplr),
        (["L", "H"], np.flipud),
        (["RH", "HL"], lambda x: x[::-1, ::-1]),
        ("", lambda x: x),
    ],
)
def test_the_patients_right_comes_to_the_left(path: Path, orientation: Any, turned: Any) -> None:
    film(path, PatientOrientation=orientation)
    np.testing.assert_allclose(pixels(path), turned(pattern()) / 4095, atol=1e-6)


@pytest.mark.parametrize("name", ["BodyPartExamined", "ViewPosition", "Modality"])
def test_what_is_not_said_is_not_held_against_a_film(path: Path, name: str) -> None:
    pixels(film(path, **{name: None}))
    pixels(film(path, **{name: ""}))


@pytest.mark.parametrize(
    ("part", "view"),
    [("THORAX", "AP"), ("PORT CHEST", "PA"), ("Tórax", "AP SUPINE"), ("Chest/Abdomen", "FRONTAL")],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")  # written so here
def test_other_ways_to_say_frontal_chest(path: Path, part: str, view: str) -> None:
    pixels(film(path, SpecificCharacterSet="ISO_IR 192", BodyPartExamined=part, ViewPosition=view))


def view_code(meaning: str) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "R-1", "SRT", meaning
    return Sequence([item])


def test_a_frontal_view_code(path: Path) -> None:
    pixels(film(path, ViewCodeSequence=view_code("postero-anterior")))


@pytest.mark.parametrize(
    ("elements", "reason", "remedy"),
    [
        ({"Modality": "CT"}, "modality is CT", "leave the exam's chest X-ray empty"),
        ({"Modality": "MR"}, "modality is MR", "Correct the path"),
        ({"Modality": "ECG", "PixelData": None}, "modality is ECG", "Correct the path"),
        ({"PixelData": None}, "holds no pixels", "Copy the file again"),
        ({"BodyPartExamined": "SKULL"}, "body part is SKULL", "correct|Correct"),
        ({"BodyPartExamined": "HAND", "ViewPosition": "AP"}, "body part is HAND", "Correct"),
        ({"NumberOfFrames": 2}, "2 frames", "frontal film"),
        ({"ViewPosition": "LL"}, "view is LL, not frontal", "frontal film"),
        ({"ViewPosition": "RL"}, "view is RL", "frontal film"),
        ({"ViewPosition": "LATERAL"}, "view is LATERAL", "frontal film"),
        ({"ViewPosition": "LAO"}, "view is LAO", "frontal film"),
        ({"ViewCodeSequence": view_code("left lateral")}, "view is LATERAL, not frontal", "film"),
        ({"PatientOrientation": ["A", "F"]}, "run from front to back", "frontal film"),
        ({"BodyPartExamined": "DOE JOHN"}, "body part is unclear", "Correct|correct"),
        ({"ViewPosition": "DOE JOHN LAT"}, "view is LAT, not", "frontal film"),
        ({"PhotometricInterpretation": "RGB"}, "interpretation is RGB", "original film"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR", "original film"),
        ({"BitsStored": 4, "HighBit": 3}, "4 bits a pixel in 16", "Export"),
        ({"Rows": 49}, "cannot be decoded: they are torn", "Copy the file again"),
        ({"Rows": None}, "cannot be decoded", "Copy the file again"),
        ({"WindowCenter": 9, "WindowWidth": 9, "VOILUTFunction": "CUBIC"}, "window cannot", "Exp"),
        ({"VOILUTSequence": Sequence([Dataset()])}, "VOI LUT or window cannot be", "Export"),
        (
            {"WindowCenter": -5000, "WindowWidth": 100},
            "every pixel of the image",
            "export it again",
        ),
    ],
)
def test_what_is_refused(path: Path, elements: dict[str, Any], reason: str, remedy: str) -> None:
    film(path, **elements)
    with pytest.raises(RadiographError, match=reason) as error:
        read_radiograph(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert re.search(remedy, message.split(". ", 1)[1])
    assert str(pickle.loads(pickle.dumps(error.value))) == message


@pytest.mark.parametrize("name", ["WindowCenter", "NumberOfFrames", "Rows"])
def test_an_element_that_is_no_number_is_named(path: Path, name: str) -> None:
    with pytest.raises(RadiographError, match=f"its element {name} is malformed"):
        read_radiograph(planted(path, name))


def test_the_view_of_a_ct_is_not_looked_at(path: Path) -> None:
    with pytest.raises(RadiographError, match="modality is CT"):
        read_radiograph(film(path, Modality="CT", ViewPosition="LL", NumberOfFrames=9))


@pytest.mark.parametrize("height", [31, 32])
def test_thumbnails_are_refused(path: Path, height: int) -> None:
    film(path, pattern(height=height))
    if height < 32:
        with pytest.raises(RadiographError, match="40 x 31 pixels, fewer than 32 on a side"):
            read_radiograph(path)
    else:
        assert pixels(path).shape == (32, 40)


@pytest.mark.parametrize("value", [0, 7, 4095])
@pytest.mark.parametrize("window", [{}, {"WindowCenter": 2000, "WindowWidth": 4000}])
def test_constant_films_are_refused(path: Path, value: int, window: dict[str, int]) -> None:
    film(path, np.full((40, 40), value, dtype=np.uint16), **window)
    with pytest.raises(RadiographError, match="every pixel of the image"):
        read_radiograph(path)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
def test_torn_films_are_refused(path: Path, syntax: str, share: float) -> None:
    rng = np.random.default_rng(0)
    film(path, rng.integers(0, 2**16, (40, 40)).astype(np.uint16), bits=16, syntax=syntax)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(RadiographError, match="torn|garbled") as error:
        read_radiograph(path)
    assert "Copy the file again from its source" in str(error.value)


def compressed(path: Path, syntax: str, bits: int = 12) -> Path:
    return film(path, bits=bits, syntax=syntax, PixelData=encapsulate([b"\0\1\2\3"]))


def test_a_missing_decoder_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compressed(path, JPEGLosslessSV1)
    monkeypatch.setattr(Decoder, "is_available", False)
    with pytest.raises(RadiographError, match="no decoder for its transfer syntax") as error:
        read_radiograph(path)
    assert "JPEG Lossless, Non-Hierarchical, First-Order Prediction" in str(error.value)
    assert "pip install 'pylibjpeg[all]'" in str(error.value)


def test_pillow_is_no_decoder_of_12_bit_jpeg(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Decoder, "is_available", True)
    monkeypatch.setattr(Decoder, "available_plugins", ("pillow",))
    with pytest.raises(RadiographError, match="no decoder for its transfer syntax .JPEG Extended"):
        read_radiograph(compressed(path, JPEGExtended12Bit))
    with pytest.raises(RadiographError, match="cannot be decoded"):
        read_radiograph(compressed(path, JPEGExtended12Bit, bits=8))


def test_a_transfer_syntax_of_films_that_move(path: Path) -> None:
    with pytest.raises(RadiographError, match="transfer syntax is MPEG2 .*, no still image's"):
        read_radiograph(compressed(path, MPEG2MPML))


def test_a_file_without_transfer_syntax(path: Path) -> None:
    dataset = pydicom.dcmread(film(path))
    del dataset.file_meta.TransferSyntaxUID
    dataset.save_as(path, implicit_vr=False, little_endian=True)
    with pytest.raises(RadiographError, match="its transfer syntax is missing or unknown"):
        read_radiograph(path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("CT_small.dcm", "modality is CT"),
        ("MR_small.dcm", "modality is MR"),
        ("waveform_ecg.dcm", "modality is ECG"),
        ("rtdose.dcm", "modality is RTDOSE"),
        ("test-SR.dcm", "modality is SR"),
        ("examples_palette.dcm", "modality is|PALETTE COLOR"),
        ("SC_rgb_jpeg.dcm", "modality is|RGB|YBR"),
        ("693_J2KI.dcm", "modality is"),
    ],
)
def test_pydicoms_own_files_of_other_kinds(name: str, reason: str) -> None:
    with pytest.raises(RadiographError, match=reason):
        read_radiograph(Path(get_testdata_file(name)))


# What a film says of its patient; the malformed ones make pydicom quote them.
IDENTITY = {
    "PatientName": "Tsukishima^Planted",
    "PatientID": "PLANTED-4711",
    "PatientBirthDate": "19491231",
    "PatientAddress": "Planted Street 9",
    "OtherPatientIDs": "PLANTED-ALIAS",
    "ReferringPhysicianName": "Kusuriya^Planted",
    "AccessionNumber": "PLANTED-ACC",
    "StudyDate": "20210304",
    "ImageComments": "planted comment",
}
MALFORMED = {
    "PatientBirthDate": ("DA", b"born PLANTED 1949 "),
    "PatientName": ("PN", b"Planted=Tsukishima=a=b=c=d"),
    "PatientID": ("LO", b"PLANTED-" + b"4711" * 20),
    "StudyInstanceUID": ("UI", b"1.2.PLANTED.4711"),
    "PatientSize": ("DS", b"PLANTED tall"),
    "InstanceNumber": ("IS", b"PLANTED 4711"),
    "PatientAge": ("AS", b"PLANTED "),
    "SpecificCharacterSet": ("CS", b"PLANTED_SET "),
    # Elements that are read.
    "WindowCenter": ("DS", b"PLANTED "),
    "NumberOfFrames": ("IS", b"PLANTED "),
    "ViewPosition": ("CS", b"planted^LL"),
    "BodyPartExamined": ("CS", b"planted^tsukishima"),
    "Modality": ("CS", b"Planted^T "),
    "Rows": ("US", b"PLANTED"),
    "PhotometricInterpretation": ("CS", b"planted^rgb "),
}


def planted(path: Path, malformed: str | None, **elements: Any) -> Path:
    """A film with an identity; one element malformed in the bytes, which pydicom does not write."""
    identity = {**IDENTITY, **elements}
    if malformed is None:
        return film(path, **identity)
    vr, value = MALFORMED[malformed]
    value += b" " * (len(value) % 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        film(path, **{**identity, malformed: None})
        dataset = pydicom.dcmread(path)
        tag = tag_for_keyword(malformed)
        dataset[tag] = RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)
        dataset.save_as(path)
    assert value in path.read_bytes()
    return path


@pytest.mark.parametrize("breakage", [None, "modality", "view", "torn", "decoder", "window"])
@pytest.mark.parametrize("malformed", [None, *MALFORMED])
def test_nothing_that_identifies_the_patient_gets_out(
    path: Path,
    malformed: str | None,
    breakage: str | None,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    elements: dict[str, Any] = {
        "modality": {"Modality": "CT"},
        "view": {"ViewPosition": "LL"},
        "decoder": {"syntax": JPEGLosslessSV1, "PixelData": encapsulate([b"planted!"])},
        "window": {"VOILUTSequence": Sequence([Dataset()])},
    }.get(breakage or "", {})
    planted(path, malformed, **elements)
    if breakage == "torn":
        path.write_bytes(path.read_bytes()[:-99])
    caplog.clear()
    capfd.readouterr()
    caplog.set_level(logging.DEBUG)
    for name in ("pydicom", "PIL"):
        caplog.set_level(logging.DEBUG, logger=name)
    said = ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            pixels(path)
        except RadiographError as error:
            said = "".join(traceback.format_exception(error))
    printed = capfd.readouterr()
    said += caplog.text + printed.out + printed.err + "".join(str(w.message) for w in caught)
    said = said.replace(str(path), "").lower()
    assert bool(said) == (breakage is not None or malformed in REFUSED)
    for secret in ("planted", "tsukishima", "kusuriya", "4711", "19491231", "20210304"):
        assert secret not in said


# Elements that are read, and without which nothing can be shown.
REFUSED = {
    "WindowCenter",
    "NumberOfFrames",
    "Rows",
    "ViewPosition",
    "BodyPartExamined",
    "Modality",
    "PhotometricInterpretation",
}


def test_pydicom_does_quote_them_by_itself(path: Path) -> None:
    """Else the test above would test nothing."""
    planted(path, "StudyInstanceUID")
    with pytest.warns(UserWarning, match="PLANTED"):
        str(pydicom.dcmread(path))


def test_log_levels_and_warnings_are_put_back(path: Path) -> None:
    levels = [logging.getLogger(name).level for name in ("pydicom", "PIL")]
    filters = list(warnings.filters)
    with pytest.raises(RadiographError):
        read_radiograph(film(path, Modality="CT"))
    assert [logging.getLogger(name).level for name in ("pydicom", "PIL")] == levels
    assert warnings.filters == filters


def test_a_real_film(real_data: Path, path: Path) -> None:
    """8 bits in JPEG baseline, no window. The set's MONOCHROME1 file holds the same bytes under the
    other name, so that it is the negative; the inverted values give the same image."""
    folder = real_data / "cxr" / "dicom"
    (name,) = folder.glob("1.2.276*.dcm")
    stored = pydicom.dcmread(name).pixel_array
    shown = pixels(name)
    np.testing.assert_allclose(shown, stored / np.float32(254), atol=1e-6)
    assert (stored.min(), stored.max()) == (0, 254)
    relabelled = folder / "Fake_MONOHR1.dcm"
    assert pydicom.dcmread(relabelled).PixelData == pydicom.dcmread(name).PixelData
    np.testing.assert_allclose(pixels(relabelled), 1 - shown, atol=1e-6)
    film(path, 254 - stored, bits=8, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_allclose(pixels(path), shown, atol=1e-6)
