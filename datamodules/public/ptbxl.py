"""PTB-XL (https://physionet.org/content/ptb-xl/1.0.3/): its database table -> exams.

`exams` asks whether an ECG is abnormal, with an institution a site. `benchmark` is the published
one (Strodthoff et al., IEEE J Biomed Health Inform 2021;25:1519): six sets of labels, by fold.
"""

import ast
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from difflib import get_close_matches
from math import nan
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datamodules.errors import InputError, listing
from datamodules.manifest import check_manifest
from datamodules.public.codes import NO_FINDINGS, Codes, Findings
from datamodules.public.copies import join_copies

TABLE = "ptbxl_database.csv"
STATEMENTS = "scp_statements.csv"
COLUMNS = ("ecg_id", "patient_id", "age", "sex", "site", "recording_date", "scp_codes")
OVER_89 = 300  # stands for every age over 89, to keep people anonymous; 90 here
SEX = {"0": "male", "1": "female"}

INSTITUTION = "ptbxl"
SPLIT = "split"  # the column
FILES = {100: "filename_lr", 500: "filename_hr"}  # by sampling rate in Hz
SPLITS = {**dict.fromkeys("12345678", "train"), "9": "val", "10": "test"}  # by strat_fold
RANKS = {"train": 0, "val": 1, "test": 2}
RELEASES = {21_799: "1.0.3", 21_837: "1.0.1"}  # by number of records
SUPERCLASSES = ("norm", "mi", "sttc", "cd", "hyp")
SETS = ("superclasses", "subclasses", "diagnostic", "form", "rhythm", "all")
AGAIN = "Copy it again from PhysioNet."


@dataclass(frozen=True)
class Labels:
    """Labels that can be learned and, in `left_out` (label -> why), those that cannot, of a folder
    with so many `records`.
    """

    names: tuple[str, ...]
    left_out: Mapping[str, str]
    records: int

    @property
    def excerpt(self) -> str:
        """What the folder is where it is not all of PTB-XL, in words; else empty."""
        if self.records in RELEASES:
            return ""
        published = next(iter(RELEASES))
        return (
            f"{self.records:,} of PTB-XL's {published:,} records, an excerpt: no figure of it can "
            "be compared with a published one."
        )

    @property
    def notes(self) -> list[str]:
        """What limits a study of these labels, a sentence each."""
        told = [self.excerpt] if self.excerpt else []
        if self.left_out:
            told += [
                f"Labels left out, having {why}: "
                f"{', '.join(label for label, of in self.left_out.items() if of == why)}."
                for why in dict.fromkeys(self.left_out.values())
            ]
        return told


@dataclass(frozen=True)
class Benchmark:
    """PTB-XL's exams as one institution's checked manifest, with the `labels` as 0/1 columns, NaN
    where not known; `notes` say what limits it.
    """

    exams: pd.DataFrame
    labels: Labels
    notes: Sequence[str]


@dataclass(frozen=True)
class _Records:
    """The database table: its `text`, by line; what is common to all that is made of it
    (`exams`: patient_id, exam_id, ecg_time, age_years, sex, and site as a number in text); and the
    `statements` of each, code -> likelihood.
    """

    path: Path
    text: pd.DataFrame
    exams: pd.DataFrame
    statements: Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class _Statements:
    """scp_statements.csv: set -> its labels, and label -> the codes any of which makes it."""

    sets: Mapping[str, tuple[str, ...]]
    codes: Mapping[str, frozenset[str]]

    @property
    def every_code(self) -> frozenset[str]:
        return frozenset().union(*self.codes.values())

    def sets_of(self, label: str) -> list[str]:
        """The sets that say when a label by itself is known: the narrow ones that it is in."""
        return [name for name, labels in self.sets.items() if name != "all" and label in labels]


def exams(
    folder: Path,
    root: Path,
    *,
    codes: Codes,
    likelihood_percent: float,
    findings: Findings = NO_FINDINGS,
) -> pd.DataFrame:
    """The 500 Hz records of all sites; institution is `ptbxl_site<n>` (or `ptbxl_site_unknown`).

    A statement counts from `likelihood_percent` on, or where none is given (PTB-XL writes 0); one
    below leaves the ECG, or the finding, open, and so does NORM together with a pathological
    statement the ECG.
    Raises InputError, naming line and column, for what cannot be read.
    """
    records = _read(
        folder,
        ("filename_hr",),
        codes.unknown,
        "stands in none of the source's codes; add it to one of them",
    )
    base = folder.relative_to(root)
    table = records.exams
    known = [_sure(stated, likelihood_percent) for stated in records.statements]
    stated_findings = [
        findings.stated(sure, stated.keys() - sure)
        for sure, stated in zip(known, records.statements, strict=True)
    ]
    return pd.DataFrame(
        {
            "institution": "ptbxl_site" + table["site"].fillna("_unknown"),
            "patient_id": table["patient_id"],
            "exam_id": table["exam_id"],
            "ecg_path": [(base / name).as_posix() for name in records.text["filename_hr"]],
            "ecg_time": table["ecg_time"],
            "age_years": table["age_years"],
            "sex": table["sex"],
            "abnormal": [
                _abnormality(stated, codes, likelihood_percent) for stated in records.statements
            ],
        }
        | {name: [of[name] for of in stated_findings] for name in findings.codes},
        index=table.index,
    )


def benchmark(root: Path, asked: Sequence[str], *, sampling_rate_hz: int) -> Benchmark:
    """The published benchmark on the folder `root`, as PhysioNet has it, complete or an excerpt.

    The exams are one institution's, with ecg_path (of the records at 100 or 500 Hz), site, device,
    `split` (folds 1-8 train, 9 val, 10 test) and a column for each label of `labels_of`. People
    with exams in two splits, found where one recording stands under two patients, keep those of
    the split furthest from training, so that the published test set stays whole. Raises InputError,
    naming file, line and column, for whatever is missing or cannot be read.
    """
    if sampling_rate_hz not in FILES:
        rates = " or ".join(map(str, FILES))
        raise InputError(
            f"cohort.sampling_rate_hz={sampling_rate_hz}: PTB-XL has its records at {rates} Hz. "
            f"Write {rates}; ecg.sampling_rate_hz is the network's own."
        )
    statements, records = _folder(root, (FILES[sampling_rate_hz], "device"))
    _check_records(root, sampling_rate_hz)
    labels, values = _labels(statements, records, asked)
    table = records.exams
    every = pd.DataFrame(
        {
            "institution": INSTITUTION,
            "patient_id": table["patient_id"],
            "exam_id": table["exam_id"],
            "ecg_path": records.text[FILES[sampling_rate_hz]],
            "ecg_time": table["ecg_time"],
            "age_years": table["age_years"],
            "sex": table["sex"],
            "site": "site" + table["site"],
            "device": records.text["device"].str.split().str.join(" ").replace("", None),
            "split": table["split"],
            **{label: values[label] for label in labels.names},
        },
        index=table.index,
    )
    every["patient_id"] = join_copies(every, root)
    rank = every["split"].map(RANKS)
    kept = rank == rank.groupby(every["patient_id"]).transform("max")
    notes = labels.notes
    if not kept.all():
        left_out = every[~kept]
        ids = ", ".join(left_out["exam_id"].head(20))
        notes.append(
            f"{len(left_out)} exams are left out ({ids}{', ...' if len(left_out) > 20 else ''}): "
            "their patients have exams in another fold too, under a second patient number or the "
            "same, and stay in the one that is tested on."
        )
    exams = check_manifest(every[kept], str(root / TABLE), needs=("ecg_path",))
    return Benchmark(exams, labels, notes)


def labels_of(root: Path, asked: Sequence[str]) -> Labels:
    """The labels that `asked` stands for in the folder `root`: sets (SETS) and single labels.

    Labels are in lower case: five superclasses, the 71 statements by their code, and subclasses as
    `subclass_<name>`; a set has its labels in the order of scp_statements.csv. As published, a
    statement counts whatever its likelihood, and a record without any label of a set is not part of
    it: all its labels are not known there. A label by itself is known where a record has any label
    of its sets (`all` aside). One without an exam of each class in the training folds is left out
    of a set, with the reason.

    Raises InputError for one that was asked by name, for a name that is
    neither (with the nearest ones), where nothing is left, and for a table that cannot be read.
    """
    return _labels(*_folder(root), asked)[0]


def _folder(root: Path, columns: Sequence[str] = ()) -> tuple[_Statements, _Records]:
    if not root.is_dir():
        raise InputError(
            f"{root}: there is no such folder. Set cohort.root to PTB-XL's own, which holds "
            f"{TABLE}, {STATEMENTS}, records100 and records500."
        )
    statements = _read_statements(root / STATEMENTS)
    codes = statements.every_code
    records = _read(
        root,
        ("strat_fold", *columns),
        lambda stated: set(stated - codes),
        f"does not stand in {STATEMENTS}; copy both tables again from PhysioNet",
        folds=True,
    )
    return statements, records


def _check_records(root: Path, sampling_rate_hz: int) -> None:
    if (root / f"records{sampling_rate_hz}").is_dir():
        return
    instead = "".join(
        f", or set cohort.sampling_rate_hz={rate}, whose records are here"
        for rate in FILES
        if (root / f"records{rate}").is_dir()
    )
    raise InputError(
        f"{root / f'records{sampling_rate_hz}'}: there is no such folder. Copy it from "
        f"PhysioNet{instead}."
    )


def _labels(
    statements: _Statements, records: _Records, asked: Sequence[str]
) -> tuple[Labels, dict[str, NDArray[np.float64]]]:
    wanted = _asked(statements, asked)
    values = _values(statements, records, wanted)
    training = (records.exams["split"] == "train").to_numpy()
    left_out = {
        label: f"no {kind} exam in the training folds"
        for label, of in values.items()
        for number, kind in ((0, "negative"), (1, "positive"))
        if not (of[training] == number).any()
    }
    by_name = [label for label in left_out if label in asked]
    if by_name:
        raise InputError(
            f"target={','.join(by_name)}: {records.path} has {left_out[by_name[0]]} (1 to 8), so "
            "there is nothing to learn. Ask for another label, or use more of PTB-XL."
        )
    names = tuple(label for label in values if label not in left_out)
    if not names:
        raise InputError(
            f"target={','.join(asked)}: {records.path} has no label with an exam of each class in "
            "the training folds (1 to 8). Ask for other labels, or use more of PTB-XL."
        )
    return Labels(names, left_out, len(records.exams)), values


def _asked(statements: _Statements, asked: Sequence[str]) -> dict[str, set[str]]:
    """The labels that `asked` stands for -> the sets that say when each is known."""
    wanted: dict[str, set[str]] = {}
    for name in asked:
        if name in statements.sets:
            for label in statements.sets[name]:
                wanted.setdefault(label, set()).add(name)
        elif name in statements.codes:
            wanted.setdefault(name, set()).update(statements.sets_of(name))
        else:
            known = [*statements.sets, *statements.codes]
            near = get_close_matches(name.lower(), known, 3, 0.5)
            hint = f"Did you mean {' or '.join(near)}? " if near else ""
            raise InputError(
                f"target={name}: PTB-XL has no such label. {hint}There are the sets "
                f"{', '.join(statements.sets)}, the superclasses {', '.join(SUPERCLASSES)}, the "
                f"codes of {STATEMENTS} in lower case, and its subclasses as subclass_<name>."
            )
    return wanted


def _values(
    statements: _Statements, records: _Records, wanted: Mapping[str, Set[str]]
) -> dict[str, NDArray[np.float64]]:
    codes = sorted(statements.every_code)
    place = {code: column for column, code in enumerate(codes)}
    stated = np.zeros((len(records.statements), len(codes)), dtype=bool)
    for row, of in enumerate(records.statements):
        stated[row, [place[code] for code in of]] = True

    def any_of(names: Set[str]) -> NDArray[np.bool_]:
        return np.asarray(stated[:, [place[code] for code in names]].any(axis=1))

    of_set = {
        name: any_of(frozenset().union(*(statements.codes[label] for label in labels)))
        for name, labels in statements.sets.items()
    }
    return {
        label: np.where(
            np.logical_or.reduce([of_set[name] for name in sets]),
            any_of(statements.codes[label]),
            nan,
        )
        for label, sets in wanted.items()
    }


def _read_statements(path: Path) -> _Statements:
    table = _read_table(path, "PTB-XL's table of statements")
    code, *_ = table.columns
    needed = ("diagnostic", "form", "rhythm", "diagnostic_class", "diagnostic_subclass")
    _require(path, table, needed)
    statements = [str(each).lower() for each in table[code]]
    codes = {label: frozenset({each}) for label, each in zip(statements, table[code], strict=True)}
    marked = {kind: pd.to_numeric(table[kind], errors="coerce") == 1 for kind in needed[:3]}
    sets: dict[str, tuple[str, ...]] = {}
    aggregates: dict[str, frozenset[str]] = {}
    for name, column, prefix in (
        ("superclasses", "diagnostic_class", ""),
        ("subclasses", "diagnostic_subclass", "subclass_"),
    ):
        diagnostic = table[marked["diagnostic"] & (table[column] != "")]
        of_class = {
            f"{prefix}{group.lower()}": frozenset(diagnostic.loc[diagnostic[column] == group, code])
            for group in diagnostic[column].unique()
        }
        if name == "superclasses":
            unknown = sorted(set(of_class) ^ set(SUPERCLASSES))
            if unknown:
                raise InputError(
                    f"{path}, column {column}: {', '.join(unknown)} is not as published "
                    f"({', '.join(SUPERCLASSES)}). {AGAIN}"
                )
            of_class = {label: of_class[label] for label in SUPERCLASSES}
        sets[name] = tuple(of_class)
        aggregates |= of_class
    for kind, is_of_kind in marked.items():
        sets[kind] = tuple(s for s, chosen in zip(statements, is_of_kind, strict=True) if chosen)
    sets["all"] = tuple(statements)
    return _Statements(sets, {**aggregates, **codes})


def _read_table(path: Path, what: str) -> pd.DataFrame:
    """Everything as text: these tables' numbers come as 15709.0, and ids must not."""
    if not path.is_file():
        raise InputError(f"{path}: {what} is missing. {AGAIN}")
    try:
        table = pd.read_csv(path, dtype="str", keep_default_na=False)
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: cannot be read as a table ({error}). {AGAIN}") from error
    table.index = pd.RangeIndex(2, len(table) + 2, name="line")
    return table


def _require(path: Path, table: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in table]
    if missing:
        raise InputError(
            f"{path}: column {', '.join(missing)} missing. Copy the table again from PhysioNet."
        )


def _read(
    folder: Path,
    columns: Sequence[str],
    unknown: Callable[[Set[str]], set[str]],
    remedy: str,
    *,
    folds: bool = False,
) -> _Records:
    """The table with COLUMNS and `columns`; `unknown` finds codes that are not, which `remedy`
    mends. With `folds`, `exams` has a split.
    """
    path = folder / TABLE
    table = _read_table(path, "PTB-XL's table")
    _require(path, table, (*COLUMNS, *columns))
    if table.empty:
        raise InputError(f"{path}: there are no records in it. {AGAIN}")
    problems: list[str] = []

    def whole_numbers(column: str, *, absent: bool) -> pd.Series:
        """The column without its `.0`; None where empty."""
        numbers = pd.to_numeric(table[column], errors="coerce")
        bad = (numbers % 1 != 0) & ~((table[column] == "") & absent)
        problems.extend(
            f"line {line}, column {column}: {value!r} is not a whole number"
            for line, value in table.loc[bad, column].items()
        )
        return pd.Series(
            [None if np.isnan(n) or n % 1 else str(int(n)) for n in numbers],
            index=table.index,
            dtype=object,
        )

    ecg_ids = whole_numbers("ecg_id", absent=False)
    patients = whole_numbers("patient_id", absent=False)
    sites = whole_numbers("site", absent=True)
    ages = whole_numbers("age", absent=True).astype("float64")
    sex = whole_numbers("sex", absent=True)
    problems.extend(
        f"line {line}, column sex: {value!r} is not 0 (male) or 1 (female)"
        for line, value in table.loc[sex.notna() & ~sex.isin(list(SEX)), "sex"].items()
    )
    times = pd.to_datetime(table["recording_date"], format="ISO8601", errors="coerce")
    problems.extend(
        f"line {line}, column recording_date: {value!r} is not a time"
        for line, value in table.loc[times.isna(), "recording_date"].items()
        if value
    )
    statements: list[dict[str, float]] = []
    for line, text in table["scp_codes"].items():
        try:
            stated = {str(code): float(given) for code, given in ast.literal_eval(text).items()}
        except (ValueError, SyntaxError, AttributeError, TypeError):
            problems.append(
                f"line {line}, column scp_codes: {text!r} is not a {{code: likelihood}}"
            )
            stated = {}
        problems.extend(
            f"line {line}, column scp_codes: {code!r} {remedy}"
            for code in sorted(unknown(stated.keys()))
        )
        statements.append(stated)
    made = {
        "patient_id": "ptbxl-" + patients,
        "exam_id": "ptbxl-" + ecg_ids.str.zfill(5),
        "ecg_time": times,
        "age_years": ages.replace(OVER_89, 90),
        "sex": sex.map(SEX),
        "site": sites,
    }
    if folds:
        fold = whole_numbers("strat_fold", absent=False)
        made["split"] = fold.map(SPLITS)
        problems.extend(
            f"line {line}, column strat_fold: {value!r} is not a fold, 1 to 10"
            for line, value in table.loc[fold.notna() & ~fold.isin(SPLITS), "strat_fold"].items()
        )
    if problems:
        raise InputError(f"{path}:\n{listing(problems)}")
    return _Records(path, table, pd.DataFrame(made, index=table.index), statements)


def _abnormality(statements: Mapping[str, float], codes: Codes, likelihood_percent: float) -> float:
    sure = _sure(statements, likelihood_percent)
    if sure & codes.normal and sure & codes.abnormal:
        return nan
    return codes.abnormality(sure, in_doubt=len(sure) < len(statements))


def _sure(statements: Mapping[str, float], likelihood_percent: float) -> set[str]:
    return {code for code, given in statements.items() if given == 0 or given >= likelihood_percent}
