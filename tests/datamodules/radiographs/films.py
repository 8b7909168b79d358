"""Chest X-rays as files, written by pydicom and Pillow."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import FileDataset
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

HEIGHT, WIDTH = 48, 40


def pattern(bits: int = 12, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint16]:
    """Every row and column different, all of 0 .. 2**bits - 1 spanned; no symmetry."""
    values = np.arange(height * width) / (height * width - 1)
    return np.rint(values**1.5 * (2**bits - 1)).astype(np.uint16).reshape(height, width)


def film(
    path: Path,
    stored: NDArray[Any] | None = None,
    *,
    bits: int = 12,
    syntax: str = ExplicitVRLittleEndian,
    **elements: Any,
) -> Path:
    """Write a DICOM film of the `stored` values; `elements` are added, None takes one away."""
    stored = pattern(bits) if stored is None else stored
    allocated = 8 if bits == 8 else 16
    signed = np.issubdtype(stored.dtype, np.signedinteger)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(syntax)
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    values = {
        "SOPClassUID": DigitalXRayImageStorageForPresentation,
        "SOPInstanceUID": "1.2.3.4",
        "Modality": "DX",
        "BodyPartExamined": "CHEST",
        "ViewPosition": "PA",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "BitsAllocated": allocated,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(signed),
        **elements,
    }
    for name, value in values.items():
        if value is not None:
            setattr(dataset, name, value)
    raw = stored.astype(f"{'i' if signed else 'u'}{allocated // 8}")
    if "PixelData" in elements:
        if elements["PixelData"] is not None and UID(syntax).is_compressed:
            dataset["PixelData"].is_undefined_length = True
    elif syntax == RLELossless:
        dataset.PixelData = raw.tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.compress(RLELossless, generate_instance_uid=False)
    elif syntax in (JPEGBaseline8Bit, JPEG2000Lossless):
        file = BytesIO()
        lossless = {"irreversible": False, "no_jp2": True}
        kind = ("JPEG", {"quality": 95}) if syntax == JPEGBaseline8Bit else ("JPEG2000", lossless)
        Image.fromarray(raw).save(file, kind[0], **kind[1])
        dataset.PixelData = encapsulate([file.getvalue()])
        dataset["PixelData"].is_undefined_length = True
    else:
        dataset.PixelData = raw.astype(raw.dtype.newbyteorder("<")).tobytes()
        dataset["PixelData"].VR = "OB" if allocated == 8 else "OW"
    dataset.save_as(path, enforce_file_format=True)
    return path


def table(entries: NDArray[Any], first: int, bits: int, vr: str = "US") -> Dataset:
    """An item of a modality or VOI LUT sequence."""
    item = Dataset()
    item.add_new("LUTDescriptor", "US" if first >= 0 else "SS", [len(entries) % 2**16, first, bits])
    if vr == "OW":
        kind = "u1" if bits == 8 else "<u2"
        item.add_new("LUTData", "OW", entries.astype(kind).tobytes())
    else:
        item.add_new("LUTData", vr, entries.tolist())
    return item
