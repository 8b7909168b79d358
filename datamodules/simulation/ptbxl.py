"""A folder as PTB-XL is published, of noise: for benchmarks of its size, and for tests."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datamodules.recordings import LEADS

# Code, kinds (diagnostic, form, rhythm), superclass, subclass, and the records of version 1.0.1
# that have it (Wagner et al., Sci Data 2020;7:154), in the order of scp_statements.csv.
STATEMENTS = """
NDT df STTC STTC 1829,NST_ df STTC NST_ 770,DIG df STTC STTC 181,LNGQT df STTC STTC 118,
NORM d NORM NORM 9528,IMI d MI IMI 2685,ASMI d MI AMI 2363,LVH d HYP LVH 2137,
LAFB d CD LAFB/LPFB 1626,ISC_ d STTC ISC_ 1275,IRBBB d CD IRBBB 1118,1AVB d CD _AVB 797,
IVCD d CD IVCD 789,ISCAL d STTC ISCA 660,CRBBB d CD CRBBB 542,CLBBB d CD CLBBB 536,
ILMI d MI IMI 479,LAO/LAE d HYP LAO/LAE 427,AMI d MI AMI 354,ALMI d MI AMI 290,
ISCIN d STTC ISCI 219,INJAS d MI AMI 215,LMI d MI LMI 201,ISCIL d STTC ISCI 179,
LPFB d CD LAFB/LPFB 177,ISCAS d STTC ISCA 170,INJAL d MI AMI 148,ISCLA d STTC ISCA 142,
RVH d HYP RVH 126,ANEUR d STTC STTC 104,RAO/RAE d HYP RAO/RAE 99,EL d STTC STTC 97,
WPW d CD WPW 80,ILBBB d CD ILBBB 77,IPLMI d MI IMI 51,ISCAN d STTC ISCA 44,IPMI d MI IMI 33,
SEHYP d HYP SEHYP 30,INJIN d MI IMI 18,INJLA d MI AMI 17,PMI d MI PMI 17,3AVB d CD _AVB 16,
INJIL d MI IMI 15,2AVB d CD _AVB 14,ABQRS f - - 3389,PVC f - - 1146,STD_ f - - 1009,
VCLVH f - - 875,QWAVE f - - 548,LOWT f - - 438,NT_ f - - 424,PAC f - - 398,LPR f - - 340,
INVT f - - 294,LVOLT f - - 182,HVOLT f - - 62,TAB_ f - - 35,STE_ f - - 28,PRC(S) f - - 10,
SR r - - 16782,AFIB r - - 1514,STACH r - - 826,SARRH r - - 772,SBRAD r - - 637,PACE r - - 296,
SVARR r - - 157,BIGU r - - 82,AFLT r - - 73,SVTAC r - - 27,PSVT r - - 24,TRIGU r - - 20
"""
RECORDS = 21_837  # of version 1.0.1
SECONDS = 10
UNITS_PER_MV = 1000
NAMES = {100: ("lr", "filename_lr"), 500: ("hr", "filename_hr")}


def write_ptbxl(
    root: Path, *, records: int, sampling_rates_hz: tuple[int, ...] = (100,), seed: int = 0
) -> None:
    """`records` of noise with both tables, the statements drawn about as often as published.

    Patients have one to three records; a patient's are all in one of ten folds of about one size.
    """
    rng = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)
    statements = _statements()
    statements.drop(columns="records").to_csv(root / "scp_statements.csv", index_label="")
    patients = np.repeat(np.arange(records), rng.choice([1, 2, 3], records, p=[0.9, 0.08, 0.02]))
    patients = patients[:records]
    fold_of = rng.permutation(records) % 10 + 1
    numbers = range(1, records + 1)
    names = {
        column: [f"records{rate}/{n // 1000 * 1000:05d}/{n:05d}_{short}" for n in numbers]
        for rate, (short, column) in NAMES.items()
    }
    table = pd.DataFrame(
        {
            "ecg_id": numbers,
            "patient_id": patients + 10_000.0,
            "age": rng.integers(18, 90, records).astype(float),
            "sex": rng.integers(0, 2, records),
            "site": rng.integers(0, 50, records).astype(float),
            "device": rng.choice(["CS-12   E", "AT-6 C"], records),
            "recording_date": "1990-01-01 10:00:00",
            "scp_codes": _stated(statements, records, rng),
            "strat_fold": fold_of[patients],
            **names,
        }
    )
    table.to_csv(root / "ptbxl_database.csv", index=False)
    for rate in sampling_rates_hz:
        for name in table[NAMES[rate][1]]:
            _write_record(root / name, rate, rng)


def _statements() -> pd.DataFrame:
    """scp_statements.csv, by code, as far as a benchmark reads it, and how often each is."""
    rows = []
    for text in STATEMENTS.replace("\n", "").split(","):
        code, kinds, superclass, subclass, count = text.split()
        rows.append(
            {
                "code": code,
                "description": code,
                **{
                    kind: 1.0 if kind[0] in kinds else None
                    for kind in ("diagnostic", "form", "rhythm")
                },
                "diagnostic_class": None if superclass == "-" else superclass,
                "diagnostic_subclass": None if subclass == "-" else subclass,
                "records": int(count),
            }
        )
    return pd.DataFrame(rows).set_index("code")


def _stated(statements: pd.DataFrame, records: int, rng: np.random.Generator) -> list[str]:
    """scp_codes of each record: normal, or pathological statements; one rhythm, mostly."""
    share = statements["records"].to_numpy() / RECORDS
    codes = statements.index.to_numpy()
    rhythm = (statements["rhythm"] == 1).to_numpy()
    diagnostic = (statements["diagnostic"] == 1).to_numpy() & (codes != "NORM")
    normal = rng.random(records) < share[codes == "NORM"]
    chosen: NDArray[np.bool_] = rng.random((records, len(codes))) < share / (1 - diagnostic * 0.436)
    chosen[:, codes == "NORM"] = normal[:, None]
    chosen &= ~(normal[:, None] & diagnostic)
    chosen &= ~rhythm
    of_rhythm = rng.choice(np.flatnonzero(rhythm), records, p=share[rhythm] / share[rhythm].sum())
    told = rng.random(records) < share[rhythm].sum()
    chosen[np.flatnonzero(told), of_rhythm[told]] = True
    chosen[~chosen.any(axis=1), np.flatnonzero(codes == "SR")] = True
    kinds = (statements["diagnostic"] == 1).to_numpy()
    return [
        str({str(codes[n]): 100.0 if kinds[n] else 0.0 for n in np.flatnonzero(row)})
        for row in chosen
    ]


def _write_record(path: Path, sampling_rate_hz: int, rng: np.random.Generator) -> None:
    """WFDB format 16, as PTB-XL's own; the signals are random walks that return to 0."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = SECONDS * sampling_rate_hz
    steps = rng.integers(-40, 41, (samples, len(LEADS)))
    signals = np.clip(np.cumsum(steps - steps.mean(axis=0), axis=0), -5000, 5000).astype("<i2")
    path.with_suffix(".dat").write_bytes(signals.tobytes())
    sums = signals.sum(axis=0, dtype=np.int64)
    lines = [f"{path.name} {len(LEADS)} {sampling_rate_hz} {samples}"]
    lines += [
        f"{path.name}.dat 16 {UNITS_PER_MV}.0(0)/mV 16 0 {first} {np.int64(total).astype('<i2')} 0 "
        f"{lead.upper() if lead.startswith('a') else lead}"
        for lead, first, total in zip(LEADS, signals[0], sums, strict=True)
    ]
    path.with_suffix(".hea").write_text("\n".join(lines) + "\n")
