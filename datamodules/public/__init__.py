"""Public data sets in their publishers' own layouts -> manifests, a table an institution."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from datamodules.errors import InputError
from datamodules.manifest import check_manifest
from datamodules.public import cinc, nih, ptbxl
from datamodules.public.codes import Codes
from datamodules.public.copies import join_copies

SETTINGS = {
    "ptbxl": ("folder", "codes", "likelihood_percent"),
    "cinc": ("folder", "codes"),
    "nih": ("folder", "table", "leave_out_patients_of"),
}


def manifests(sources: Mapping[str, Mapping[str, Any]], root: Path) -> dict[str, pd.DataFrame]:
    """Institution -> its checked manifest, for every source; paths are relative to `root`.

    A source has a `layout` (`ptbxl`: an institution a site; `cinc` and `nih`: one institution,
    named after the source) and a `folder` in `root`. ECGs have `codes` (see Codes), PTB-XL also
    `likelihood_percent`; the column `abnormal` says what the codes make of the ECG: 1, 0, or empty
    where they leave it open. Chest X-rays have a `table` in `root`, and each finding is a column;
    `leave_out_patients_of` (or None) names the source whose patients this one goes without.
    Raises InputError for a folder, file or column that is missing, and for every bad row.
    """
    tables: dict[str, pd.DataFrame] = {}
    for name, source in sources.items():
        tables |= _source(name, source, root)
    return {
        name: _without(table, name, sources.get(name, {}).get("leave_out_patients_of"), tables)
        for name, table in tables.items()
    }


def _source(name: str, source: Mapping[str, Any], root: Path) -> dict[str, pd.DataFrame]:
    where = f"cohort.sources.{name}"
    layout = source.get("layout")
    if layout not in SETTINGS:
        raise InputError(
            f"{where}.layout: {layout!r} is not a layout. Write {' or '.join(SETTINGS)}."
        )
    absent = [setting for setting in SETTINGS[layout] if setting not in source]
    if absent:
        raise InputError(
            f"{where}: {', '.join(absent)} missing. Write layout, {', '.join(SETTINGS[layout])}."
        )
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
    relative = PurePosixPath(source[setting])
    if relative.is_absolute() or ".." in relative.parts:
        raise InputError(
            f"{where}.{setting}: {source[setting]!r} leaves cohort.root. Name a {setting} inside "
            "it."
        )
    return root / relative


def _without(
    table: pd.DataFrame, name: str, other: str | None, tables: Mapping[str, pd.DataFrame]
) -> pd.DataFrame:
    """`table` without the patients of the source `other`."""
    if other is None:
        return table
    where = f"cohort.sources.{name}.leave_out_patients_of"
    if other not in tables or other == name:
        raise InputError(f"{where}: {other!r} is not another source. Name one, or write null.")
    left = table[~table["patient_id"].isin(tables[other]["patient_id"])]
    if left.empty:
        raise InputError(f"{where}: every patient of {name} is one of {other}, too. Leave one out.")
    return left
