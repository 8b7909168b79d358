"""Reading GE MUSE XML."""

from collections.abc import Callable
from pathlib import Path
from pipes import refusal_of_pipe

import numpy as np
import pytest
from muse_files import STORED, recorded, write

from datamodules.recordings import LEADS, RecordingError, read_recording


def test_the_rhythm_with_derived_leads_exactly(tmp_path: Path) -> None:
    leads = recorded()
    recording = read_recording(write(tmp_path / "a.xml", leads))
    assert recording.sampling_rate_hz == 500
    assert recording.samples.shape == (12, 5000)
    assert recording.samples.dtype == np.int16
    of = dict(zip(LEADS, recording.samples.astype(np.int64), strict=True))
    for name in STORED:
        np.testing.assert_array_equal(of[name], leads[name])
    # Einthoven and Goldberger, in whole numbers: no rounding
    mv = dict(zip(LEADS, recording.signal_mv, strict=True))
    one, two = (leads[name].astype(np.int64) for name in ("I", "II"))
    np.testing.assert_array_equal(of["III"], two - one)
    for name, doubled in (("aVR", -one - two), ("aVL", 2 * one - two), ("aVF", 2 * two - one)):
        np.testing.assert_array_equal(of[name], doubled)
        np.testing.assert_allclose(mv[name], doubled / 2 * 4.88e-3, rtol=1e-12)
    np.testing.assert_allclose(mv["V6"], leads["V6"] * 4.88e-3, rtol=1e-12)
    np.testing.assert_allclose(mv["aVR"] + mv["aVL"] + mv["aVF"], 0, atol=1e-12)


def test_stored_leads_are_kept_and_others_left_out(tmp_path: Path) -> None:
    leads = {**recorded(), "aVF": recorded(2)["I"], "V3R": recorded(3)["I"]}
    turned = dict(reversed(leads.items()))
    recording = read_recording(write(tmp_path / "A.XML", turned))
    np.testing.assert_array_equal(recording.samples[LEADS.index("aVF")], leads["aVF"])
    np.testing.assert_allclose(recording.units_per_mv[LEADS.index("aVF")], 1000 / 4.88)
    np.testing.assert_array_equal(recording.samples[0], leads["I"])


def replaced(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text[:-20], "not whole XML"),
        (lambda text: "", "not whole XML"),
        (replaced("RestingECG", "AnnotatedECG"), "root element is AnnotatedECG, not RestingECG"),
        (
            replaced('SYSTEM "restecg.dtd"', '[<!ENTITY a "b">]'),
            "declares entities",
        ),
        (replaced(">Rhythm<", ">Median<"), "it holds no waveform of type Rhythm"),
        (replaced(">Median<", ">rhythm<"), "it holds 2 waveforms of type Rhythm"),
        (replaced("<SampleBase>500", "<SampleBase>"), "SampleBase '' is not a whole number"),
        (replaced("<SampleBase>500", "<SampleBase>0"), "is not a whole number of Hz"),
        (replaced(">V4<", ">V9<"), "lead V4 missing. Export the ECG with the leads I, II"),
        (replaced(">V4<", ">V5<"), "lead V5 stands in it twice"),
        (replaced("<LeadDataCRC32>", "<LeadDataCRC32>1"), "samples differ from their checksum"),
        (replaced("<WaveFormData>", "<WaveFormData>%"), "samples are not base64"),
        (replaced("<WaveFormData>", "<WaveFormData>AAAA"), "lead I announces 5000 samples"),
        (replaced("<LeadSampleSize>2", "<LeadSampleSize>4"), "lead I has samples of 4 bytes"),
        (replaced("MICROVOLTS", "MILLIVOLTS"), "lead I is in MILLIVOLTS, not in MICROVOLTS"),
        (replaced(">4.88<", ">0<"), "LeadAmplitudeUnitsPerBit '0' is not a positive number"),
        (
            replaced("<LeadOffsetFirstSample>0", "<LeadOffsetFirstSample>3"),
            "lead I begins 3 samples late",
        ),
    ],
)
def test_what_cannot_be_read_is_named(
    tmp_path: Path, change: Callable[[str], str], expected: str
) -> None:
    file = write(tmp_path / "a.xml")
    file.write_text(change(file.read_text(encoding="latin-1")), encoding="latin-1")
    with pytest.raises(RecordingError) as caught:
        read_recording(file)
    assert expected in str(caught.value)
    assert str(caught.value).startswith(f"{file}: ")


def test_leads_of_two_lengths(tmp_path: Path) -> None:
    leads = recorded()
    with pytest.raises(RecordingError, match="lead V2 has 4999 samples and lead I 5000"):
        read_recording(write(tmp_path / "a.xml", {**leads, "V2": leads["V2"][:-1]}))


def test_leads_too_large_to_add_up(tmp_path: Path) -> None:
    leads = recorded()
    huge = np.full(5000, 30_000, dtype=np.int16)
    with pytest.raises(RecordingError, match="so large that lead III cannot be computed"):
        read_recording(write(tmp_path / "a.xml", {**leads, "I": -huge, "II": huge}))


def test_no_file_and_no_pipe(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="there is no such file. Correct the path"):
        read_recording(tmp_path / "a.xml")
    pipe = tmp_path / "p.xml"
    assert "it is a pipe" in refusal_of_pipe(lambda: read_recording(pipe), pipe)
