"""Who is trained on and who is tested on: splits by patient, folds by site, the leakage guard."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import blake2b

import numpy as np
import pandas as pd

from datamodules.errors import InputError, listing

# As many as a listing shows: two sites that both count their patients from 1 collide in every one.
DESCRIBED = 20
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Fold:
    """One leave-site-out fold: `external` is tested on, everything is fitted on `development`."""

    name: str
    development: tuple[str, ...]
    external: tuple[str, ...]


def assign_splits(patients: pd.Series, fractions: Mapping[str, float], seed: int) -> pd.Series:
    """The split of each exam, from its `patients` id: a name in `fractions`, on the same index.

    A patient's split is a hash of the seed and the id alone, so that adding or removing patients,
    exams or labels never moves anyone, and a patient of two institutions gets one split. That
    excludes exact stratification, which would have to look at the other patients: every stratum
    (label, institution, age) is balanced in expectation, to within binomial chance, and
    `check_balance` refuses the draw that leaves a split without one of the classes.

    Raises InputError unless the fractions lie in 0-1 and sum to 1, and ValueError for an exam
    without a patient id.
    """
    shares = np.array(list(fractions.values()), dtype=float)
    if not ((shares >= 0).all() and math.isclose(shares.sum(), 1, abs_tol=1e-9)):
        shown = ", ".join(f"{name} {share:g}" for name, share in fractions.items())
        raise InputError(f"The splits' fractions ({shown}) must lie in 0-1 and sum to 1.")
    # The last used split ends at 1 exactly, whatever the sum was rounded to.
    used = [
        (name, end)
        for name, end, share in zip(fractions, shares.cumsum(), shares, strict=True)
        if share
    ]
    ends = np.array([end for _, end in used[:-1]])
    codes, ids = pd.factorize(patients)
    if (codes < 0).any():
        raise ValueError("an exam has no patient id")
    split = ends.searchsorted([_uniform(str(id_), seed) for id_ in ids], side="right")
    names = np.array([name for name, _ in used], dtype=object)
    return pd.Series(names[split[codes]], index=patients.index, name="split", dtype="str")


def stated_splits(exams: pd.DataFrame, column: str, source: str) -> pd.Series:
    """The split of each exam as a manifest's `column` has it, on the same index.

    `source` names the manifest in messages, where a row goes by its index and the index's name.
    Raises InputError for a column that is not there, and for every row that holds no split. That a
    patient is in one split only is for `check_leakage` to say.
    """
    if column not in exams:
        near = get_close_matches(column, [str(name) for name in exams], 1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise InputError(
            f"splits.column={column}: {source} has no such column. {hint}Add it, with "
            f"{', '.join(SPLITS)} in its rows, or set splits.column=null to split by a hash of the "
            "patient_id."
        )
    split = exams[column]
    bad = split[~split.isin(SPLITS)]
    if len(bad):
        row = exams.index.name or "row"
        problems = [
            f"{row} {label}, column {column}: "
            + ("it is empty" if pd.isna(value) else f"{value!r} is not a split")
            for label, value in bad.items()
        ]
        raise InputError(
            f"{source}: every exam needs a split, {', '.join(SPLITS[:-1])} or {SPLITS[-1]}:\n"
            f"{listing(problems)}"
        )
    return split.astype("str").rename("split")


def _uniform(patient: str, seed: int) -> float:
    """A number in [0, 1) that only the seed and the patient decide, the same on every machine."""
    digest = blake2b(f"{seed}:{patient}".encode(), digest_size=8).digest()
    # 53 bits, all that a float holds, so that it never rounds up to 1.
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def draw_labels(
    exams: pd.DataFrame, targets: Sequence[str], wanted: int, seed: int, *, classed: bool
) -> pd.Series:
    """Which of the development `exams` keep their labels where only `wanted` training exams do.

    `exams` has institution, exam_id, split and the columns `targets` (NaN where not known); an exam
    of which any is known is a labelled one. They are taken in an order that a hash of the seed and
    the exam alone decides, so that the 20 of a seed are among its 50, and a label that is added or
    removed moves no other. The last ones taken make way, if need be, for the first exam of each
    class (`classed`) of each target: a class that fewer than one in `wanted` exams has is that much
    more frequent among them. Validation exams keep the same share of their labels, and by the same
    rule one of each class; test exams keep all.

    Raises InputError where there are fewer labelled training exams, or fewer are wanted than there
    are classes.
    """
    known = exams[list(targets)].notna().any(axis=1)
    rank = pd.Series(
        [
            _uniform(f"label:{institution}:{exam}", seed)
            for institution, exam in zip(exams["institution"], exams["exam_id"], strict=True)
        ],
        index=exams.index,
    )
    ordered = exams.loc[rank.sort_values(kind="stable").index]
    kept = pd.Series(~exams["split"].isin(SPLITS[:2]), index=exams.index)
    training, validation, _ = (
        ordered[known.loc[ordered.index] & (ordered["split"] == split)] for split in SPLITS
    )
    if wanted > len(training):
        raise InputError(
            f"labels={wanted}: there are {len(training)} labelled training exams. Give at most so "
            "many, or labels=null for all."
        )
    share = wanted / len(training)
    for table, most in ((training, wanted), (validation, round(share * len(validation)))):
        firsts: list[Hashable] = []
        if classed:
            for target in targets:
                of_classes = table[target].dropna().drop_duplicates()
                firsts += [row for row in of_classes.index if row not in firsts]
        if table is training and len(firsts) > wanted:
            raise InputError(
                f"labels={wanted}: an exam of each class takes {len(firsts)} of them. Give at "
                "least so many, or ask for fewer targets."
            )
        others = [row for row in table.index if row not in set(firsts)]
        kept[pd.Index([*firsts, *others[: max(0, most - len(firsts))]])] = True
    return kept


def balance(exams: pd.DataFrame, target: pd.Series) -> pd.DataFrame:
    """Patients, exams, labelled and positive exams of each split, by the split's name.

    `exams` has split and patient_id; `target` is 0, 1 or NaN on the same index.
    """
    table = exams[["split", "patient_id"]].assign(target=target)
    return table.groupby("split").agg(
        patients=("patient_id", "nunique"),
        exams=("patient_id", "size"),
        labelled=("target", "count"),
        positives=("target", lambda values: int(values.sum())),
    )


def check_balance(
    exams: pd.DataFrame, target: pd.Series, *, both_classes_in: Sequence[str]
) -> None:
    """Raise InputError where a split of `both_classes_in` has no positive or no negative exam."""
    name = target.name or "the target"
    counts = balance(exams, target).reindex(list(both_classes_in), fill_value=0)
    lacking = counts[(counts["positives"] == 0) | (counts["positives"] == counts["labelled"])]
    if not len(lacking):
        return
    if target.nunique() < 2:
        known = target.dropna()
        holds = f"only {known.iloc[0]:g}" if len(known) else "no value at all"
        raise InputError(
            f"{name}: the {len(exams)} development exams hold {holds}, and a model needs both 0 "
            "and 1 to learn from. Choose another target, or development institutions with both."
        )
    problems = [
        f"split {split}: {row['labelled']} labelled exams, {row['positives']} of them positive"
        for split, row in lacking.iterrows()
    ]
    raise InputError(
        f"{name}: a split lacks one of the two classes:\n{listing(problems)}\n"
        "Use more labelled exams, or other splits: their fractions, the seed, or the column that "
        "states them."
    )


def check_leakage(exams: pd.DataFrame, copies: Mapping[str, str]) -> None:
    """Raise one InputError with everything that would let a model be tested on what it learned.

    `exams`, of all institutions, has institution, role ("development" or "external"), split,
    patient_id and exam_id, and may have the columns of `copies`: hashes of what files hold (NaN
    where there is none) -> what these are called ("recordings"). Refused are a patient in two
    splits of development, a patient of both a development and an external institution, one file's
    values under two patients, and an exam_id twice within an institution. Patient ids hold across
    institutions.
    """
    development = exams[exams["role"] == "development"]
    same_exam = exams[exams.duplicated(["institution", "exam_id"])]
    findings = {
        "patients in two splits (assign splits by patient_id)": _with_several(
            development,
            "patient_id",
            "split",
            lambda patient, rows: (
                f"patient {patient!r}: {_joined(rows['split'])} "
                f"(institution {_joined(rows['institution'])})"
            ),
        ),
        "patients of both a development and an external institution (leave them out of one; if "
        "they are different people, put the institution's name before each patient_id)": (
            _with_several(
                exams,
                "patient_id",
                "role",
                lambda patient, rows: (
                    f"patient {patient!r}: "
                    + ", ".join(
                        f"{role} {_joined(of_role['institution'])}"
                        for role, of_role in rows.groupby("role")
                    )
                ),
            )
        ),
        **{
            f"{what} that stand under two patients (keep one exam, or give both one patient_id)": (
                _with_several(
                    exams,
                    digest,
                    "patient_id",
                    lambda _, rows: " = ".join(
                        f"{institution} {exam!r} (patient {patient!r})"
                        for institution, exam, patient in zip(
                            rows["institution"], rows["exam_id"], rows["patient_id"], strict=True
                        )
                    ),
                )
            )
            for digest, what in copies.items()
            if digest in exams
        },
        "exam_ids that stand twice in one institution (give each exam its own)": sorted(
            {
                f"{institution} {exam!r}"
                for institution, exam in zip(
                    same_exam["institution"], same_exam["exam_id"], strict=True
                )
            }
        ),
    }
    problems = [
        f"{len(offenders)} {what}:\n{listing(offenders)}"
        for what, offenders in findings.items()
        if offenders
    ]
    if problems:
        raise InputError("The cohort leaks:\n" + "\n".join(problems))


def _with_several(
    exams: pd.DataFrame, key: str, value: str, describe: Callable[[str, pd.DataFrame], str]
) -> list[str]:
    """Each `key` that comes with more than one `value`, described where a listing shows it."""
    pairs = exams[[key, value]].dropna().drop_duplicates()
    several = pairs.loc[pairs[key].duplicated(), key].unique().tolist()
    shown = exams[exams[key].isin(several[:DESCRIBED])]
    descriptions = {name: describe(str(name), rows) for name, rows in shown.groupby(key)}
    return [descriptions.get(name, name) for name in several]


def _joined(values: pd.Series) -> str:
    return " and ".join(sorted(set(values)))


def leave_site_out(institutions: Sequence[str]) -> list[Fold]:
    """One fold an institution, which is external while all others are development.

    Raises InputError for fewer than two institutions.
    """
    if len(institutions) < 2:
        raise InputError(
            f"Leave-site-out needs two institutions or more, and there is "
            f"{', '.join(institutions) or 'none'}. Put more manifests into cohort.root."
        )
    return [
        Fold(
            name=external,
            development=tuple(name for name in institutions if name != external),
            external=(external,),
        )
        for external in institutions
    ]
