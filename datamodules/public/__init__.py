"""Public data sets in their publishers' own layouts -> manifests, a table an institution."""

from collections.abc import Mapping
from difflib import get_close_matches
from math import nan
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from datamodules.errors import InputError
from datamodules.manifest import check_manifest
from datamodules.public import cinc, muse, nih, ptbxl
from datamodules.public.codes import Codes, Findings
from datamodules.public.copies import join_copies

# What a source of each layout must say; OPTIONS it may, and FINDINGS where it has codes.
SETTINGS = {
    "ptbxl": ("folder", "codes", "likelihood_percent"),
    "cinc": ("folder", "codes"),
    "muse": ("folder",),
    "nih": ("folder", "table"),
}
LEAVE_OUT, OPTIONAL, FINDINGS = "leave_out_patients_of", "optional", "findings"


def manifests(sources: Mapping[str, Mapping[str, Any]], root: Path) -> dict[str, pd.DataFrame]:
    """Institution -> its checked manifest, for every source; paths are relative to `root`.

    A source has a `layout` (`ptbxl`: an institution a site; `cinc`, `muse` and `nih`: one
    institution, named after the source) and a `folder` in `root`. WFDB records have `codes` (see
    Codes), PTB-XL also `likelihood_percent`; the column `abnormal` says what the codes make of the
    ECG: 1, 0, or empty where they leave it open. `findings` name further columns, each with the
    codes that state it (see Findings); a source of ECGs without them has these columns empty. MUSE
    files have no labels. Chest X-rays have a `table` in `root`, and each finding is a column.

    An `optional` source whose folder is not there is left out.

    A source of any layout may name another one in `leave_out_patients_of`: each of its institutions
    then goes without the patients of all institutions of that other one, as published, and an
    institution of which nobody is left is not there. Patients are told by their ids, so this is for
    sources that share their numbering: parts, or editions, of one data set.

    Raises InputError for a setting, folder, file or column that is missing, a source that is not
    there, an institution of two sources, and for every bad row.
    """
    for name, source in sources.items():
        _check_settings(name, source, sources)
    missing = absent(sources, root)
    at_hand = {name: source for name, source in sources.items() if name not in missing}
    published = {name: _source(name, source, root) for name, source in at_hand.items()}
    columns = dict.fromkeys(c for source in at_hand.values() for c in source.get(FINDINGS) or {})
    for name, source in at_hand.items():
        if source["layout"] != "nih":
            empty = {
                column: nan for column in columns if column not in (source.get(FINDINGS) or {})
            }
            published[name] = {s: table.assign(**empty) for s, table in published[name].items()}
    tables: dict[str, pd.DataFrame] = {}
    for name, source in at_hand.items():
        for site in published[name]:
            if site in tables:
                raise InputError(
                    f"cohort.sources.{name}: its institution {site!r} is another source's, too. "
                    f"Leave one of the two sources out, say with '~cohort.sources.{name}'."
                )
        other = source.get(LEAVE_OUT)
        if other is None or other in missing:
            tables |= published[name]
        else:
            tables |= _without(published, name, other)
    if not tables:
        raise InputError(f"{root}: none of {', '.join(sources)} is here. Set cohort.root.")
    return tables


def absent(sources: Mapping[str, Mapping[str, Any]], root: Path) -> list[str]:
    """The optional sources whose folder is not in `root`."""
    return [
        name
        for name, source in sources.items()
        if source.get(OPTIONAL) and not (root / str(source.get("folder"))).is_dir()
    ]


def _check_settings(
    name: str, source: Mapping[str, Any], sources: Mapping[str, Mapping[str, Any]]
) -> None:
    where = f"cohort.sources.{name}"
    layout = source.get("layout")
    if layout not in SETTINGS:
        raise InputError(
            f"{where}.layout: {layout!r} is not a layout. Write {' or '.join(SETTINGS)}."
        )
    coded = (FINDINGS,) if "codes" in SETTINGS[layout] else ()
    known = ("layout", *SETTINGS[layout], *coded, LEAVE_OUT, OPTIONAL)
    lacking = [setting for setting in SETTINGS[layout] if setting not in source]
    if lacking:
        raise InputError(f"{where}: {', '.join(lacking)} missing. Write {', '.join(known)}.")
    for setting in source:
        if setting not in known:
            near = get_close_matches(str(setting), known, 1)
            raise InputError(
                f"{where}.{setting}: a source of layout {layout} has no such setting. "
                f"{f'Did you mean {near[0]}? ' if near else ''}It has {', '.join(known)}."
            )
    other = source.get(LEAVE_OUT)
    if other is not None and (other not in sources or other == name):
        others = " or ".join(each for each in sources if each != name)
        raise InputError(
            f"{where}.{LEAVE_OUT}: {other!r} is not another source. "
            f"Write {f'{others}, or ' if others else ''}null."
        )


def _source(name: str, source: Mapping[str, Any], root: Path) -> dict[str, pd.DataFrame]:
    where, layout = f"cohort.sources.{name}", source["layout"]
    folder = _inside("folder", source, where, root)
    if not folder.is_dir():
        raise InputError(
            f"{folder}: there is no such folder. Set cohort.root to the folder that holds "
            f"{source['folder']!r}, or leave the data set out with '~{where}'."
        )
    if layout == "nih":
        path = "cxr_path"
        table = _inside("table", source, where, root)
        exams = nih.exams(table, folder, root, institution=name)
    elif layout == "muse":
        path = "ecg_path"
        exams = muse.exams(folder, root, institution=name)
    else:
        path = "ecg_path"
        codes = Codes.from_lists(source["codes"], where=f"{where}.codes")
        findings = Findings.from_lists(
            source.get(FINDINGS) or {}, codes, where=f"{where}.{FINDINGS}"
        )
        if layout == "ptbxl":
            exams = ptbxl.exams(
                folder,
                root,
                codes=codes,
                likelihood_percent=source["likelihood_percent"],
                findings=findings,
            )
        else:
            exams = cinc.exams(folder, root, institution=name, codes=codes, findings=findings)
        exams["patient_id"] = join_copies(exams, root)
    return {
        str(site): check_manifest(table, f"{site} in {root}", needs=(path,))
        for site, table in exams.groupby("institution", sort=True)
    }


def _inside(setting: str, source: Mapping[str, Any], where: str, root: Path) -> Path:
    relative = PurePosixPath(str(source[setting]))  # YAML reads a folder 2021 as a number
    if relative.is_absolute() or ".." in relative.parts:
        raise InputError(
            f"{where}.{setting}: {source[setting]!r} leaves cohort.root. Name a {setting} inside "
            "it."
        )
    return root / relative


def _without(
    published: Mapping[str, Mapping[str, pd.DataFrame]], name: str, other: str
) -> dict[str, pd.DataFrame]:
    """The institutions of the source `name` without the patients of the source `other`."""
    theirs = pd.concat([table["patient_id"] for table in published[other].values()])
    left = {
        site: table[~table["patient_id"].isin(theirs)] for site, table in published[name].items()
    }
    left = {site: table for site, table in left.items() if len(table)}
    if not left:
        raise InputError(
            f"cohort.sources.{name}.{LEAVE_OUT}: every patient of {name} is one of {other}, too. "
            "Leave one out."
        )
    return left
