"""Public data sets in their publishers' own layouts -> manifests, a table an institution."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from datamodules.errors import InputError
from datamodules.manifest import check_manifest
from datamodules.public import cinc, nih, ptbxl
from datamodules.public.codes import Codes
from datamodules.public.copies import join_copies

# What a source of each layout must say; LEAVE_OUT it may.
SETTINGS = {
    "ptbxl": ("folder", "codes", "likelihood_percent"),
    "cinc": ("folder", "codes"),
    "nih": ("folder", "table"),
}
LEAVE_OUT = "leave_out_patients_of"


def manifests(sources: Mapping[str, Mapping[str, Any]], root: Path) -> dict[str, pd.DataFrame]:
    """Institution -> its checked manifest, for every source; paths are relative to `root`.

    A source has a `layout` (`ptbxl`: an institution a site; `cinc` and `nih`: one institution,
    named after the source) and a `folder` in `root`. ECGs have `codes` (see Codes), PTB-XL also
    `likelihood_percent`; the column `abnormal` says what the codes make of the ECG: 1, 0, or empty
    where they leave it open. Chest X-rays have a `table` in `root`, and each finding is a column.

    A source of any layout may name another one in `leave_out_patients_of`: each of its institutions
    then goes without the patients of all institutions of that other one, as published, and an
    institution of which nobody is left is not there. Patients are told by their ids, so this is for
    sources that share their numbering: parts, or editions, of one data set.

    Raises InputError for a setting, folder, file or column that is missing, a source that is not
    there, an institution of two sources, and for every bad row.
    """
    for name, source in sources.items():
        _check_settings(name, source, sources)
    published = {name: _source(name, source, root) for name, source in sources.items()}
    tables: dict[str, pd.DataFrame] = {}
    for name, source in sources.items():
        for site in published[name]:
            if site in tables:
                raise InputError(
                    f"cohort.sources.{name}: its institution {site!r} is another source's, too. "
                    f"Leave one of the two sources out, say with '~cohort.sources.{name}'."
                )
        other = source.get(LEAVE_OUT)
        tables |= published[name] if other is None else _without(published, name, other)
    return tables


def _check_settings(
    name: str, source: Mapping[str, Any], sources: Mapping[str, Mapping[str, Any]]
) -> None:
    where = f"cohort.sources.{name}"
    layout = source.get("layout")
    if layout not in SETTINGS:
        raise InputError(
            f"{where}.layout: {layout!r} is not a layout. Write {' or '.join(SETTINGS)}."
        )
    known = ("layout", *SETTINGS[layout], LEAVE_OUT)
    absent = [setting for setting in SETTINGS[layout] if setting not in source]
    if absent:
        raise InputError(f"{where}: {', '.join(absent)} missing. Write {', '.join(known)}.")
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
    else:
        path = "ecg_path"
        codes = Codes.from_lists(source["codes"], where=f"{where}.codes")
        if layout == "ptbxl":
            exams = ptbxl.exams(
                folder, root, codes=codes, likelihood_percent=source["likelihood_percent"]
            )
        else:
            exams = cinc.exams(folder, root, institution=name, codes=codes)
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
