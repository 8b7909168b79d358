"""GE MUSE XML files as the device writes them, made by the tests."""

import base64
from collections.abc import Mapping
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

STORED = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")


def recorded(seed: int = 1, samples: int = 5000) -> dict[str, NDArray[np.int16]]:
    """Eight leads of a random walk."""
    steps = np.random.default_rng(seed).integers(-3, 4, (len(STORED), samples))
    return dict(zip(STORED, steps.cumsum(axis=1).astype(np.int16), strict=True))


def lead_data(name: str, samples: NDArray[np.int16], microvolts: str = "4.88") -> str:
    raw = samples.astype("<i2").tobytes()
    text = base64.encodebytes(raw).decode()
    return f"""<LeadData>
         <LeadByteCountTotal>{len(raw)}</LeadByteCountTotal>
         <LeadTimeOffset>0</LeadTimeOffset>
         <LeadSampleCountTotal>{len(samples)}</LeadSampleCountTotal>
         <LeadAmplitudeUnitsPerBit>{microvolts}</LeadAmplitudeUnitsPerBit>
         <LeadAmplitudeUnits>MICROVOLTS</LeadAmplitudeUnits>
         <LeadHighLimit>32767</LeadHighLimit>
         <LeadLowLimit>-32768</LeadLowLimit>
         <LeadID>{name}</LeadID>
         <LeadOffsetFirstSample>0</LeadOffsetFirstSample>
         <FirstSampleBaseline>0</FirstSampleBaseline>
         <LeadSampleSize>2</LeadSampleSize>
         <LeadOff>FALSE</LeadOff>
         <BaselineSway>FALSE</BaselineSway>
         <LeadDataCRC32>{crc32(raw)}</LeadDataCRC32>
         <WaveFormData>
{text}         </WaveFormData>
      </LeadData>
"""


def waveform(kind: str, leads: Mapping[str, NDArray[np.int16]]) -> str:
    return f"""<Waveform>
      <WaveformType>{kind}</WaveformType>
      <WaveformStartTime>0</WaveformStartTime>
      <NumberofLeads>{len(leads)}</NumberofLeads>
      <SampleType>CONTINUOUS_SAMPLES</SampleType>
      <SampleBase>500</SampleBase>
      <SampleExponent>0</SampleExponent>
      {"".join(lead_data(name, samples) for name, samples in leads.items())}
   </Waveform>
"""


def whole(waveforms: str, patient: str = "<PatientID>023847</PatientID>", test: str = "") -> str:
    return f"""<?xml version="1.0" encoding="ISO-8859-1"?>\
<!DOCTYPE RestingECG SYSTEM "restecg.dtd"><RestingECG>
   <PatientDemographics>
      {patient}
   </PatientDemographics>
   <TestDemographics>{test}</TestDemographics>
   {waveforms}
</RestingECG>
"""


def write(path: Path, leads: Mapping[str, NDArray[np.int16]] | None = None, **said: str) -> Path:
    """A file with a median beat and, behind it, the recording."""
    leads = recorded() if leads is None else leads
    median = {name: samples[:600] for name, samples in leads.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        whole(waveform("Median", median) + waveform("Rhythm", leads), **said),
        encoding="iso-8859-1",
    )
    return path
