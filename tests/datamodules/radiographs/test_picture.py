import logging
import traceback
import warnings
from pathlib import Path
from pipes import refusal_of_pipe

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from radiographs.films import pattern

from datamodules.radiographs import RadiographError, read_radiograph


def written(path: Path, picture: Image.Image, **settings: object) -> Path:
    picture.save(path, **settings)
    return path


def grey(bits: int = 8) -> Image.Image:
    return Image.fromarray(pattern(bits).astype(np.uint8 if bits == 8 else np.uint16))


def pixels(path: Path) -> NDArray[np.float32]:
    read = read_radiograph(path).pixels
    assert read.dtype == np.float32
    return read


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
def test_a_grey_picture_in_any_mode(tmp_path: Path, mode: str) -> None:
    path = written(tmp_path / "film.png", grey().convert(mode))
    with Image.open(path) as again:
        assert again.mode == mode
    np.testing.assert_allclose(pixels(path), pattern(8) / 255, atol=1e-6)


def test_a_picture_of_fewer_levels_is_not_stretched(tmp_path: Path) -> None:
    path = written(tmp_path / "film.png", Image.fromarray((pattern(8) // 2).astype(np.uint8)))
    np.testing.assert_allclose(pixels(path), pattern(8) // 2 / 255, atol=1e-6)


@pytest.mark.parametrize("bits", [12, 16])
def test_16_bits_are_stretched_over_their_own_range(tmp_path: Path, bits: int) -> None:
    path = written(tmp_path / "film.png", grey(bits))
    np.testing.assert_allclose(pixels(path), pattern(bits) / (2**bits - 1), atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_under_any_name(tmp_path: Path, mode: str) -> None:
    path = written(tmp_path / "film", grey().convert(mode), format="JPEG", quality=95)
    np.testing.assert_allclose(pixels(path), pattern(8) / 255, atol=0.03)


def test_the_exif_orientation_is_respected(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the first row is the right side
    path = written(tmp_path / "film.png", grey(), exif=exif)
    np.testing.assert_allclose(pixels(path), np.rot90(pattern(8), -1) / 255, atol=1e-6)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_coloured_picture_is_refused(tmp_path: Path, mode: str) -> None:
    coloured = np.repeat(pattern(8).astype(np.uint8)[..., None], 3, axis=2)
    coloured[20:30, 20:30] = 200, 40, 40
    path = written(tmp_path / "film.png", Image.fromarray(coloured).convert(mode))
    with pytest.raises(RadiographError, match="coloured, as no X-ray is"):
        read_radiograph(path)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_torn_pictures_are_refused(tmp_path: Path, suffix: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 60)).astype(np.uint8)
    path = written(tmp_path / f"film.{suffix}", Image.fromarray(noise))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(RadiographError, match="torn or garbled") as error:
        read_radiograph(path)
    assert "Copy the file again" in str(error.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"exam,ecg\n1,2\n", "neither DICOM, PNG nor JPEG"),
        (b"GIF89a" + bytes(300), "neither DICOM, PNG nor JPEG"),
        (bytes(128) + b"DICM", "holds no pixels, or is torn"),
        (bytes(128) + b"DICM" + b"\xff" * 500, "garbled or torn|holds no pixels, or is torn"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "film.dcm"
    path.write_bytes(content)
    with pytest.raises(RadiographError, match=reason):
        read_radiograph(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "film.png"
    assert "it is a pipe" in refusal_of_pipe(lambda: read_radiograph(path), path)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(RadiographError, match="there is no such file. Correct the path"):
        read_radiograph(tmp_path / "none.png")
    with pytest.raises(RadiographError, match="cannot be read"):
        read_radiograph(tmp_path)


def test_what_a_picture_says_of_its_patient_stays_in_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    exif = Image.Exif()
    exif[0x010E] = "Tsukishima Planted, 4711"
    text = PngImagePlugin.PngInfo()
    text.add_text("Patient", "Tsukishima Planted, 4711")
    path = written(tmp_path / "film.png", grey(), exif=exif, pnginfo=text)
    torn = tmp_path / "torn.png"
    torn.write_bytes(path.read_bytes()[:-300])
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="PIL")
    said = ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pixels(path)
        try:
            pixels(torn)
        except RadiographError as error:
            said = "".join(traceback.format_exception(error))
    printed = capfd.readouterr()
    said += caplog.text + printed.out + printed.err + "".join(str(w.message) for w in caught)
    assert "torn or garbled" in said
    assert "Tsukishima" not in said
    assert "4711" not in said


def test_real_films(real_data: Path) -> None:
    names = sorted((real_data / "cxr" / "nih_1024").glob("*.png"))
    assert len(names) == 54
    listed = pd.read_csv(real_data / "cxr" / "nih_1024.csv")["Image Index"]
    assert set(listed) == {name.name for name in names}
    for name in names:
        with Image.open(name) as picture:
            np.testing.assert_array_equal(np.rint(pixels(name) * 255), np.asarray(picture))
    for name in sorted((real_data / "cxr" / "nih_64px").rglob("*.png"))[::100]:
        assert pixels(name).shape == (64, 64)
