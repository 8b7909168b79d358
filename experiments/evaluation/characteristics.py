"""Table 1: who the patients are, institution by institution."""

from collections.abc import Iterator, Mapping

import pandas as pd

from experiments.evaluation.predictions import DEVELOPMENT, EXTERNAL

# The manifest's numbers, as a table's reader knows them.
_QUANTITIES = {
    "age_years": "Age, years",
    "lvef_percent": "LVEF, %",
    "pasp_mmhg": "PASP, mmHg",
    "tr_velocity_m_s": "TR velocity, m/s",
    "bnp_pg_ml": "BNP, pg/mL",
    "nt_probnp_pg_ml": "NT-proBNP, pg/mL",
}
_SKEWED = ("bnp_pg_ml", "nt_probnp_pg_ml")  # a mean says little of them
_ABSENT = "-"


def unit_of(column: str) -> str:
    """The unit of a manifest's column of numbers; empty where it is not known."""
    return _QUANTITIES.get(column, "").partition(", ")[2]


def characteristics(
    exams: pd.DataFrame, targets: Mapping[str, str], *, classed: bool = True
) -> pd.DataFrame:
    """Table 1: a row a characteristic, a column an institution, as text.

    `exams` has a row an exam: institution, exam_id, patient_id, role ("development", "external"),
    targets (1, 0 or NaN; numbers where they are not `classed`), and any of the manifest's
    age_years, sex, lvef_percent, pasp_mmhg, tr_velocity_m_s, bnp_pg_ml and nt_probnp_pg_ml.
    `targets` are label -> column. Institutions keep their order, development ones first; where a
    role has several, they are also put together.

    Everything is counted in exams but the row "Patients". Numbers are mean (SD) and median [first
    to third quartile], BNP and NT-proBNP the latter alone; shares are of the exams whose value is
    known, and the missing ones of all.
    """
    columns = dict(_columns(exams))
    known = [name for name in _QUANTITIES if name in exams and exams[name].notna().any()]
    rows: list[tuple[str, list[str]]] = [
        ("Exams", [f"{len(part):,}" for part in columns.values()]),
        ("Patients", [f"{_patients(part):,}" for part in columns.values()]),
    ]
    for label, target in targets.items():
        if classed:
            positive = [_share(part[target] == 1, part, target) for part in columns.values()]
            rows.append((f"{label}: positive, n (%)", positive))
        elif label not in known:
            rows.append((f"{label}: mean (SD)", [_mean(p[target]) for p in columns.values()]))
        rows.append((f"{label}: not known", [_missing(p[target]) for p in columns.values()]))
    if "sex" in exams and exams["sex"].notna().any():
        for sex in sorted(exams["sex"].dropna().unique()):
            cells = [_share(p["sex"] == sex, p, "sex") for p in columns.values()]
            rows.append((f"Sex: {sex}, n (%)", cells))
        rows.append(("Sex: not recorded", [_missing(p["sex"]) for p in columns.values()]))
    for name in known:
        heading, values = _QUANTITIES[name], [part[name] for part in columns.values()]
        if name not in _SKEWED:
            rows.append((f"{heading}: mean (SD)", [_mean(v) for v in values]))
        rows.append((f"{heading}: median [IQR]", [_median(v) for v in values]))
        rows.append((f"{heading}: missing", [_missing(v) for v in values]))
    table = pd.DataFrame([cells for _, cells in rows], columns=list(columns))
    table.insert(0, "characteristic", [name for name, _ in rows])
    return table


def _columns(exams: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for role in (DEVELOPMENT, EXTERNAL):
        of_role = exams[exams["role"] == role]
        for institution, part in of_role.groupby("institution", sort=False):
            yield f"{institution} ({role})", part
        if of_role["institution"].nunique() > 1:
            yield f"all {role}", of_role


def _patients(exams: pd.DataFrame) -> int:
    """A patient id holds only within its institution."""
    return len(exams[["institution", "patient_id"]].drop_duplicates())


def _share(mask: pd.Series, exams: pd.DataFrame, column: str) -> str:
    known = int(exams[column].notna().sum())
    return f"{int(mask.sum()):,} ({100 * mask.sum() / known:.1f})" if known else _ABSENT


def _missing(values: pd.Series) -> str:
    absent = int(values.isna().sum())
    return f"{absent:,} ({100 * absent / len(values):.1f})" if absent else "0"


def _mean(values: pd.Series) -> str:
    if values.count() < 2:
        return _ABSENT
    return f"{values.mean():.{_digits(values)}f} ({values.std():.{_digits(values)}f})"


def _median(values: pd.Series) -> str:
    if not values.count():
        return _ABSENT
    low, middle, high = values.quantile([0.25, 0.5, 0.75])
    digits = _digits(values)
    return f"{middle:.{digits}f} [{low:.{digits}f}-{high:.{digits}f}]"


def _digits(values: pd.Series) -> int:
    """Decimals: two for numbers below ten, one for others, none from a hundred on."""
    size = values.abs().median()
    return 2 if size < 10 else 1 if size < 100 else 0
