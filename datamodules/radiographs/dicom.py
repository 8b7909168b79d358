"""Reads chest X-rays in DICOM, as computed and digital radiography ship them.

Only the elements listed below are read, none of which says whose film it is, and every message
here is made of them: pydicom's own quote what they stumble over.
"""

import re
import unicodedata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.multival import MultiValue
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, JPEGExtended12Bit

from datamodules.radiographs.radiograph import RESTORE, Radiograph, RadiographError, quietly

NUMBERS = (
    "NumberOfFrames",
    "SamplesPerPixel",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleIntercept",
    "RescaleSlope",
    "WindowCenter",
    "WindowWidth",
)
ELEMENTS = (
    *NUMBERS,
    "Modality",
    "BodyPartExamined",
    "ViewPosition",
    "ViewCodeSequence",
    "PatientOrientation",
    "PhotometricInterpretation",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "VOILUTFunction",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "PixelData",
)
# Projection radiography, by its defined terms (PS3.3 C.7.3.1.1.1), retired and unofficial ones.
MODALITIES = ("CR", "DX", "DR", "RG", "XR")
CHEST = ("CHEST", "THORAX", "TORAX", "PECHO", "LUNG")
# Terms of PS3.3 (C.7.3.1.1.1, C.7.6.3.1.2, annex L) that a message may repeat.
_TERMS = (
    "AR AU BDUS BI BMD CT DOC ECG EEG EMG EPS ES FID GM HC HD IO IVOCT IVUS KER KO LEN LS MG MR NM"
    " OAM OCT OP OPM OPT OPV OSS OT PLAN PR PT PX REG RESP RF RTDOSE RTIMAGE RTPLAN RTRECORD"
    " RTSTRUCT RWV SC SEG SM SMR SR SRF STAIN TG US VA XA XC"
    " ABDOMEN ANKLE ARM BREAST CALCANEUS CLAVICLE COCCYX CSPINE ELBOW EXTREMITY FEMUR FINGER FOOT"
    " FOREARM HAND HEAD HIP HUMERUS JAW KNEE LEG LSPINE MANDIBLE NECK PATELLA PELVIS SCAPULA"
    " SHOULDER SKULL SPINE TIBIA TOE TSPINE UTERUS WHOLEBODY WRIST"
    " ARGB CMYK HSV RGB YBR_FULL YBR_FULL_422 YBR_ICT YBR_PARTIAL_420 YBR_RCT"
)
SHOWN = {*_TERMS.split(), "PALETTE COLOR"}
# Lateral, oblique and decubitus views: PS3.3 C.8.7.1.1.1 and C.8.11.5.1.1, CID 4010's meanings,
# and what else is written there.
NOT_FRONTAL = {
    *("LL", "RL", "LAT", "LATERAL", "LLAT", "RLAT", "LATERO", "MEDIO"),
    *("LLO", "RLO", "LAO", "RAO", "LPO", "RPO", "OBL", "OBLIQUE"),
    *("LLD", "RLD", "DECUB", "DECUBITUS"),
}
DECODERS = "pip install 'pylibjpeg[all]' (or python-gdcm)"
EXPORT = "Export the film again from the archive, as DICOM or PNG"


def read_dicom(path: Path) -> Radiograph:
    """Read a single-frame frontal chest X-ray, MONOCHROME1 or 2, of 8 to 16 bits.

    Stored values go through the modality LUT or rescaling and the first VOI LUT or window
    (PS3.3 C.11.1, C.11.2), whose output range becomes 0..1; where there is neither, the image's own
    minimum and maximum do. MONOCHROME1 is inverted, padding black. Where PatientOrientation says
    that rows run to the patient's right, or columns to the head, the image is turned over.

    Raises RadiographError for what is no such film, is torn, or lacks a decoder here.
    """
    with quietly():
        try:
            return _read(path)
        except RadiographError:
            raise
        except Exception as error:  # pydicom raises what its inner workings happen to raise
            raise RadiographError(
                path, f"the DICOM file is garbled or torn ({type(error).__name__})", RESTORE
            ) from None


def _read(path: Path) -> Radiograph:
    dataset = dcmread(path, specific_tags=list(ELEMENTS))
    for name in ELEMENTS:
        try:
            _first(dataset, name) if name in NUMBERS else dataset.get(name)
        except Exception:  # whatever pydicom's conversion raises
            raise RadiographError(path, f"its element {name} is malformed", EXPORT) from None
    _check_is_chest_film(path, dataset)
    syntax = _check_decoder(path, dataset)
    try:
        stored = dataset.pixel_array
    except Exception:  # as above
        raise RadiographError(
            path,
            f"its pixels ({syntax.name}) cannot be decoded: they are torn, or not what "
            "the file's header says",
            f"{RESTORE}; if it is whole, try another decoder: {DECODERS}"
            if syntax.is_compressed
            else RESTORE,
        ) from None
    pixels = _displayed(path, dataset, stored)
    rows, columns = _orientation(dataset)
    if rows.startswith("R"):
        pixels = pixels[:, ::-1]
    if columns.startswith("H"):
        pixels = pixels[::-1]
    return Radiograph(np.ascontiguousarray(pixels))


def _check_is_chest_film(path: Path, dataset: Dataset) -> None:
    modality = _text(dataset, "Modality")
    if modality and modality not in MODALITIES:
        raise RadiographError(
            path,
            f"its modality is {_shown(modality)}, not that of an X-ray film "
            f"({', '.join(MODALITIES)})",
            "Correct the path, or leave the exam's chest X-ray empty",
        )
    if not dataset.get("PixelData"):
        raise RadiographError(
            path,
            "the DICOM file holds no pixels, or is torn before them",
            f"{RESTORE}, or correct the path if it was never an image",
        )
    part = unicodedata.normalize("NFKD", _text(dataset, "BodyPartExamined"))
    if part and not any(name in _letters(part) for name in CHEST):
        raise RadiographError(
            path,
            f"its body part is {_shown(part)}, not the chest",
            "Correct the path, or the element BodyPartExamined if it is a chest X-ray",
        )
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise RadiographError(
            path, f"it has {frames} frames", "Export the frontal film as a file of its own"
        )
    views = [_text(dataset, "ViewPosition")]
    views += [_text(code, "CodeMeaning") for code in dataset.get("ViewCodeSequence") or ()]
    for view in views:
        if sideways := NOT_FRONTAL & set(re.split(r"[^A-Z]+", view)):
            raise RadiographError(
                path,
                f"its view is {' '.join(sorted(sideways))}, not frontal (PA or AP)",
                "Give the exam's frontal film, or correct the element ViewPosition",
            )
    if any(direction[:1] in ("A", "P") for direction in _orientation(dataset)):
        raise RadiographError(
            path,
            "its rows or columns run from front to back (PatientOrientation): a lateral view",
            "Give the exam's frontal film, or correct the element PatientOrientation",
        )
    photometric = _text(dataset, "PhotometricInterpretation")
    if photometric not in ("MONOCHROME1", "MONOCHROME2") or dataset.get("SamplesPerPixel", 1) != 1:
        raise RadiographError(
            path,
            f"its photometric interpretation is {_shown(photometric)} with "
            f"{int(dataset.get('SamplesPerPixel', 1))} samples a pixel, not MONOCHROME1 or 2",
            "Export the original film, not a coloured or annotated copy",
        )
    allocated, bits = int(dataset.BitsAllocated), int(dataset.BitsStored)
    if allocated not in (8, 16) or not 8 <= bits <= allocated:
        raise RadiographError(
            path,
            f"it has {bits} bits a pixel in {allocated}, not 8 to 16 in 8 or 16",
            EXPORT,
        )


def _check_decoder(path: Path, dataset: Dataset) -> UID:
    """The transfer syntax, one that can be decoded here."""
    syntax = UID(dataset.file_meta.get("TransferSyntaxUID", ""))
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        name = "missing or unknown" if syntax.name == syntax else f"{syntax.name}, no still image's"
        raise RadiographError(path, f"its transfer syntax is {name}", EXPORT) from None
    # Pillow decodes 8 bits of JPEG Extended, and says so only when it is given 12.
    too_deep = syntax == JPEGExtended12Bit and dataset.BitsStored > 8
    if not decoder.is_available or (too_deep and decoder.available_plugins == ("pillow",)):
        raise RadiographError(
            path,
            f"no decoder for its transfer syntax ({syntax.name}) is installed",
            f"Install one: {DECODERS}; or export the film uncompressed",
        )
    return syntax


def _displayed(path: Path, dataset: Dataset, stored: NDArray[np.integer]) -> NDArray[np.float32]:
    """Stored values [height, width] -> 0..1, brighter higher."""
    padding = _padding(dataset, stored)
    try:
        values = _modality_values(dataset, stored)
        pixels = _windowed(dataset, values)
    except Exception:  # what numpy makes of a table or window that is none
        raise RadiographError(
            path, "its modality LUT, VOI LUT or window cannot be applied", EXPORT
        ) from None
    if pixels is None:
        shown = values if padding is None else values[~padding]
        low, high = (shown.min(), shown.max()) if shown.size else (0, 0)
        pixels = np.clip((values - low) / np.float32(high - low or 1), 0, 1)
    if _text(dataset, "PhotometricInterpretation") == "MONOCHROME1":
        pixels = 1 - pixels
    if padding is not None:
        pixels[padding] = 0
    return pixels


def _padding(dataset: Dataset, stored: NDArray[np.integer]) -> NDArray[np.bool_] | None:
    """Where the stored values stand for no image at all (PS3.3 C.7.5.1.1.2)."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((value, value if limit is None else limit))
    inside: NDArray[np.bool_] = (stored >= low) & (stored <= high)
    return inside


def _modality_values(dataset: Dataset, stored: NDArray[np.integer]) -> NDArray[np.float32]:
    """Through the modality LUT or rescaling (PS3.3 C.11.1)."""
    values = stored.astype(np.float32)
    tables = dataset.get("ModalityLUTSequence")
    if tables:
        return _looked_up(values, tables[0], dataset)
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    return values * np.float32(1 if slope is None else slope) + np.float32(intercept or 0)


def _windowed(dataset: Dataset, values: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Through the first VOI LUT or window (PS3.3 C.11.2), 0..1; None where there is neither.

    A window without width is none: some devices write it so.
    """
    tables = dataset.get("VOILUTSequence")
    if tables:
        bits = tables[0].LUTDescriptor[2]
        return _looked_up(values, tables[0], dataset) / np.float32(2**bits - 1)
    function = _text(dataset, "VOILUTFunction") or "LINEAR"
    centre, width = _first(dataset, "WindowCenter"), _first(dataset, "WindowWidth")
    if centre is None or width is None or width <= (1 if function == "LINEAR" else 0):
        return None
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    elif function not in ("LINEAR_EXACT", "SIGMOID"):
        raise ValueError
    from_centre = (values - np.float32(centre)) / np.float32(width)
    if function == "SIGMOID":
        pixels: NDArray[np.float32] = 1 / (1 + np.exp(-4 * from_centre))
    else:
        pixels = np.clip(from_centre + np.float32(0.5), 0, 1)
    return pixels


def _looked_up(values: NDArray[np.float32], item: Dataset, dataset: Dataset) -> NDArray[np.float32]:
    """The table's entry for each value, those beyond its ends at its ends (PS3.3 C.11.1.1.1).

    Not by pydicom, whose `apply_voi` counts entries in the output's 8 bits.
    """
    entries, first, bits = item.LUTDescriptor
    entries = entries or 2**16
    table = item.LUTData
    if isinstance(table, bytes):  # OW: words, or two entries of 8 bits a word
        order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
        packed = bits == 8 and len(table) < 2 * entries
        table = np.frombuffer(table, dtype="u1" if packed else f"{order}u2")
    table = np.asarray(table, dtype=np.float32)[:entries]
    places = np.clip(np.rint(values) - first, 0, len(table) - 1).astype(np.intp)
    found: NDArray[np.float32] = table[places]
    return found


def _first(dataset: Dataset, name: str) -> float | None:
    """A number, the first of several; ValueError or TypeError where it is none."""
    value = dataset.get(name)
    if isinstance(value, MultiValue):
        value = value[0] if value else None
    return None if value is None else float(value)


def _orientation(dataset: Dataset) -> tuple[str, str]:
    """Where to in the patient the rows and the columns run, as letters (PS3.3 C.7.6.1.1.1)."""
    value = dataset.get("PatientOrientation")
    if not isinstance(value, MultiValue) or len(value) != 2:
        return "", ""
    return str(value[0]).upper(), str(value[1]).upper()


def _text(dataset: Dataset, name: str) -> str:
    return str(dataset.get(name) or "").strip().upper()


def _letters(text: str) -> str:
    return re.sub(r"[^A-Z]", "", text)


def _shown(text: str) -> str:
    """A defined term of DICOM as it is; anything else may be what must not be shown."""
    return text if text in SHOWN else "unclear"
