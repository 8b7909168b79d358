"""A folder in the exact layout of the public data sets, with random walks for ECGs."""

from pathlib import Path

import numpy as np
import pandas as pd
import wfdb

from datamodules.recordings import LEADS

SINUS, FIBRILLATION = "426783006", "164889003"


def write_public_folder(root: Path, exams: int = 24) -> Path:
    """PTB-XL's four sites and the Georgia, Chapman and Ningbo sets; every second ECG abnormal."""
    if root.exists():
        return root
    rows = []
    for ecg_id in range(1, 4 * exams + 1):
        name = f"records500/00000/{ecg_id:05d}_hr"
        _record(root / "ptbxl" / name, seed=ecg_id, wild=ecg_id % 2 == 1)
        rows.append(
            {
                "ecg_id": ecg_id,
                "patient_id": f"{20000 + ecg_id}.0",
                "age": "56.0",
                "sex": ecg_id % 2,
                "site": f"{ecg_id // 2 % 4}.0",
                "recording_date": "1990-01-01 10:00:00",
                "scp_codes": "{'AFIB': 0.0}" if ecg_id % 2 else "{'NORM': 100.0, 'SR': 0.0}",
                "filename_hr": name,
            }
        )
    pd.DataFrame(rows).to_csv(root / "ptbxl" / "ptbxl_database.csv", index=False)
    for source, letters in (("georgia", "E"), ("chapman", "JS"), ("ningbo", "JS5")):
        for number in range(exams):
            path = root / "cinc2021" / source / f"{letters}{number:05d}"
            wild = number % 2 == 1
            code = FIBRILLATION if wild else SINUS
            comments = ["Age: 60", "Sex: Male", f"Dx: {code}", "Rx: Unknown"]
            _record(path, seed=sum(map(ord, source)) * 1000 + number, wild=wild, comments=comments)
    return root


def _record(path: Path, *, seed: int, wild: bool, comments: list[str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    steps = rng.normal(size=(5000, len(LEADS))) * (0.06 if wild else 0.02)
    wfdb.wrsamp(
        path.name,
        fs=500,
        units=["mV"] * len(LEADS),
        sig_name=list(LEADS),
        p_signal=np.cumsum(steps, axis=0),
        fmt=["16"] * len(LEADS),
        adc_gain=[1000.0] * len(LEADS),
        baseline=[0] * len(LEADS),
        comments=comments or [],
        write_dir=str(path.parent),
    )
