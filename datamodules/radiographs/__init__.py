"""One reader a file format, all giving the same Radiograph: a frontal chest X-ray, bone white."""

from pathlib import Path

from datamodules.errors import check_ordinary
from datamodules.radiographs.radiograph import (
    RESTORE,
    Radiograph,
    RadiographError,
    check_radiograph,
)
from datamodules.radiographs.square import content_box, to_square

__all__ = ["Radiograph", "RadiographError", "content_box", "read_radiograph", "to_square"]

PREAMBLE = 128  # bytes before a DICOM file says DICM (PS3.10)


def read_radiograph(path: Path) -> Radiograph:
    """Read one chest X-ray from a DICOM, PNG or JPEG file, told apart by what is in it.

    Its pixels are [height, width] of the film, 0 (black) to 1 (white). Raises RadiographError if it
    is not a whole, readable, frontal chest X-ray. No message holds more of a DICOM file than its
    technical elements.
    """
    try:
        check_ordinary(path)
        with path.open("rb") as file:
            start = file.read(PREAMBLE + 4)
    except FileNotFoundError:
        raise RadiographError(
            path, "there is no such file", "Correct the path: DICOM, PNG or JPEG is expected"
        ) from None
    except OSError as error:
        raise RadiographError(
            path, f"cannot be read ({error.strerror})", "Put a readable file in its place"
        ) from None
    # Each imports its own library, half a second, only where it is needed.
    if start[PREAMBLE:] == b"DICM":
        from datamodules.radiographs.dicom import read_dicom

        radiograph = read_dicom(path)
    elif start.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
        from datamodules.radiographs.picture import read_picture

        radiograph = read_picture(path)
    elif not start:
        raise RadiographError(path, "the file is empty", RESTORE)
    else:
        raise RadiographError(
            path,
            "the file is neither DICOM, PNG nor JPEG",
            "Correct the path, or export the chest X-ray in one of these formats",
        )
    check_radiograph(radiograph, path)
    return radiograph
