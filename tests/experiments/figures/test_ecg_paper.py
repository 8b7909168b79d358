"""ECG paper to scale, and masked parts where they belong."""

import io
import time

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.image import imread

from datamodules.recordings import LEADS, read_recording
from experiments.figures.ecg_paper import ecg_figure, sheets_figure
from lightning_modules.pretraining.masked_autoencoder import MaskedAutoencoder
from lightning_modules.pretraining.pretraining import Sheet

RATE = 100
SAMPLES = 10 * RATE


def reconstruction_figure(original, visible, reconstruction, rate, title):
    example = {"original": original, "visible": visible, "reconstruction": reconstruction}
    return sheets_figure(MaskedAutoencoder.sheets(example), rate, title)


@pytest.fixture(scope="module")
def arrays():
    generator = np.random.default_rng(0)
    original = generator.normal(0, 0.3, (12, SAMPLES))
    patches = generator.permutation(120).reshape(12, 10) < 30
    return original, np.repeat(patches, 100, axis=1), generator.normal(0, 0.3, (12, SAMPLES))


@pytest.fixture(scope="module")
def figure(arrays):
    return reconstruction_figure(*arrays, RATE, "epoch 3")


def line(sheet, gid):
    return next(line for line in sheet.get_lines() if line.get_gid() == gid)


def size_mm(axes):
    window = axes.get_window_extent(FigureCanvasAgg(axes.figure).get_renderer())
    return window.width / axes.figure.dpi * 25.4, window.height / axes.figure.dpi * 25.4


def test_sheets_are_true_to_scale(figure):
    assert len(figure.axes) == 3
    for sheet in figure.axes:
        width, height = size_mm(sheet)
        assert sheet.get_xlim() == pytest.approx((0, width), abs=0.01)  # data units are mm
        assert sheet.get_ylim() == pytest.approx((0, height), abs=0.01)
        for lead in ("I", "V6"):
            if sheet is figure.axes[0]:
                x = line(sheet, f"original-{lead}").get_xdata()
                assert x[RATE] - x[0] == pytest.approx(25)  # 25 mm/s


def test_10_mm_are_1_mv_and_the_baseline_lies_on_a_line():
    square = np.zeros((12, SAMPLES))
    square[:, 400:410] = 1.0
    (sheet,) = ecg_figure(square + 0.4, RATE, "").axes  # an offset is not drawn
    for lead in LEADS:
        y = line(sheet, f"ecg-{lead}").get_ydata()
        assert y.max() - y.min() == pytest.approx(10)
        assert y.min() % 5 == pytest.approx(0)
    pulse = line(sheet, "calibration")
    assert np.ptp(pulse.get_ydata()) == pytest.approx(10)
    top = pulse.get_xdata()[pulse.get_ydata() == pulse.get_ydata().max()]
    assert np.ptp(top) == pytest.approx(5)  # 0.2 s


def test_grid_has_a_line_every_1_and_5_mm(figure):
    for sheet in figure.axes:
        grids = {c.get_gid(): c for c in sheet.collections if isinstance(c, LineCollection)}
        for gid, every in (("1 mm", 1), ("5 mm", 5)):
            segments = np.array(grids[gid].get_segments())
            upright = segments[segments[:, 0, 0] == segments[:, 1, 0]][:, 0, 0]
            np.testing.assert_allclose(np.diff(upright), every)
            assert upright[-1] == pytest.approx(sheet.get_xlim()[1])


def test_hidden_samples_are_not_drawn_and_visible_ones_are(figure, arrays):
    original, visible, reconstruction = arrays
    first, second, third = figure.axes
    centre = np.median(original, axis=1)
    for number, lead in enumerate(LEADS):
        whole = line(first, f"original-{lead}").get_ydata()
        seen = line(second, f"visible-{lead}").get_ydata()
        rebuilt = line(third, f"reconstruction-{lead}").get_ydata()
        assert np.isfinite(whole).all()
        np.testing.assert_array_equal(np.isnan(seen), ~visible[number])
        np.testing.assert_array_equal(np.isnan(rebuilt), visible[number])
        np.testing.assert_allclose(seen[visible[number]], whole[visible[number]])
        zero = whole - 10 * (original[number] - centre[number])
        expected = zero + 10 * (reconstruction[number] - centre[number])
        np.testing.assert_allclose(rebuilt[~visible[number]], expected[~visible[number]])
        np.testing.assert_allclose(line(third, f"visible-{lead}").get_ydata(), seen)


def test_hidden_patches_are_grey(figure, arrays):
    visible = arrays[1]
    sheet = figure.axes[1]
    for number, lead in enumerate(LEADS):
        grey = [patch for patch in sheet.patches if patch.get_gid() == f"hidden-{lead}"]
        hidden_mm = (~visible[number]).sum() / RATE * 25
        assert sum(patch.get_width() for patch in grey) == pytest.approx(hidden_mm)


def test_words(figure):
    words = [text.get_text() for text in figure.findobj(match=lambda a: hasattr(a, "get_text"))]
    assert all(words.count(lead) == 3 for lead in LEADS)
    assert "epoch 3" in words
    assert any("25 mm/s" in word and "10 mm/mV" in word for word in words)
    assert any("25%" in word for word in words)


def test_reconstruction_looks_different_in_grey(figure):
    third = figure.axes[2]
    seen, rebuilt = line(third, "visible-II"), line(third, "reconstruction-II")
    assert rebuilt.get_linewidth() > 1.5 * seen.get_linewidth()
    assert rebuilt.get_color() != seen.get_color()


def test_a_real_ecg_is_small_and_quick(real_data):
    recording = read_recording(real_data / "ptbxl/records500/00000/00001_hr")
    ecg = recording.signal_mv
    visible = np.zeros(ecg.shape, dtype=bool)
    visible[:, ::4] = False
    visible[:, 1000:2250] = True
    start = time.process_time()
    figure = reconstruction_figure(ecg, visible, ecg * 0.9, 500, "PTB-XL")
    png = io.BytesIO()
    figure.savefig(png)
    assert time.process_time() - start < 4
    assert png.tell() < 1.5e6
    drawn = line(figure.axes[0], "original-V2").get_ydata()
    np.testing.assert_allclose(np.diff(drawn), 10 * np.diff(ecg[7]), atol=1e-9)
    png.seek(0)
    assert imread(png).std() > 0.01


def test_wrong_shapes_are_refused(arrays):
    original = arrays[0]
    with pytest.raises(ValueError, match="is not like"):
        sheets_figure([Sheet("", {"one": original, "other": original[:, :-1]})], RATE, "")
    with pytest.raises(ValueError, match=r"\[12, T\]"):
        ecg_figure(original[:8], RATE, "")
