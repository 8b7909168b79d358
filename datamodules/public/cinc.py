"""PhysioNet/CinC Challenge 2020 and 2021: a folder of WFDB records -> exams.

https://physionet.org/content/challenge-2021/1.0.3/: age, sex and SNOMED CT codes stand in comments
of each header, as `#Age: 83` or `# Age: 83`. Records without these, as set-a of the Challenge of
2011 (https://physionet.org/content/challenge-2011/1.0.0/), are exams without labels.
"""

import re
from math import nan
from pathlib import Path

import pandas as pd

from datamodules.errors import InputError, check_ordinary, listing
from datamodules.public.codes import NO_FINDINGS, Codes, Findings

COMMENT = re.compile(r"^#\s*(Age|Sex|Dx)\s*:[ \t]*(.*?)\s*$", flags=re.MULTILINE)
SEX = {"male": "male", "m": "male", "female": "female", "f": "female"}
UNKNOWN = ("", "nan", "unknown")


def exams(
    folder: Path, root: Path, *, institution: str, codes: Codes, findings: Findings = NO_FINDINGS
) -> pd.DataFrame:
    """All records in `folder` and below, as one institution, with a column a finding.

    Who a record's patient is was not published: each counts as its own. The date in the headers
    is the files', not the recordings', and is left out. Raises InputError, naming the header,
    where there are no such records and for what cannot be read.
    """
    headers = sorted(folder.rglob("*.hea"))
    if not headers:
        raise InputError(
            f"{folder}: there are no WFDB headers (*.hea) here. Copy the data set again, or name "
            "its folder."
        )
    problems: list[str] = []
    rows = []
    for header in headers:
        try:
            check_ordinary(header)
            text = header.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            problems.append(f"{header.name}: cannot be read ({error.strerror})")
            continue
        comments = dict(COMMENT.findall(text))
        age, sex = comments.get("Age", ""), comments.get("Sex", "").lower()
        if age.lower() not in UNKNOWN and not re.fullmatch(r"\d+(\.\d+)?", age):
            problems.append(f"{header.name}, #Age: {age!r} is not a number of years or NaN")
            age = ""
        if sex not in (*UNKNOWN, *SEX):
            problems.append(f"{header.name}, #Sex: {sex!r} is not Male, Female or Unknown")
        stated = {code.strip() for code in comments.get("Dx", "").split(",")}
        stated -= {"", "NaN", "Unknown"}
        problems.extend(
            f"{header.name}, #Dx: {code!r} stands in none of the source's codes; "
            "add it to one of them"
            for code in sorted(codes.unknown(stated))
        )
        rows.append(
            {
                "institution": institution,
                "patient_id": f"{institution}-{header.stem}",
                "exam_id": f"{institution}-{header.stem}",
                "ecg_path": header.relative_to(root).with_suffix("").as_posix(),
                "age_years": nan if age.lower() in UNKNOWN else float(age),
                "sex": SEX.get(sex),
                "abnormal": codes.abnormality(stated),
            }
            | findings.stated(stated)
        )
    if problems:
        raise InputError(f"{folder}:\n{listing(problems)}")
    return pd.DataFrame(rows, index=pd.Index([h.name for h in headers], name="header"))
