"""Public data sets in their publishers' own layouts -> manifests, a table an institution."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from datamodules.errors import InputError
from datamodules.manifest import check_manifest
from datamodules.public import cinc, ptbxl
from datamodules.public.codes import Codes
from datamodules.public.copies import join_copies

SETTINGS = {
    "ptbxl": ("folder", "codes", "likelihood_percent"),
    "cinc": ("folder", "codes"),
}


def manifests(sources: Mapping[str, Mapping[str, Any]], root: Path) -> dict[str, pd.DataFrame]:
    """Institution -> its checked manifest, for every source; paths are relative to `root`.

    A source has a `layout` (`ptbxl`: an institution a site; `cinc`: one institution, named after
    the source), a `folder` in `root`, `codes` (see Codes) and, for PTB-XL, `likelihood_percent`.
    The column `abnormal` says what the codes make of the ECG: 1, 0, or empty where they leave it
    open. Raises InputError for a folder, file or column that is missing, and for every bad row.
    """
    tables: dict[str, pd.DataFrame] = {}
    for name, source in sources.items():
        tables |= _source(name, source, root)
    return {
        institution: check_manifest(table, f"{institution} in {root}", needs=("ecg_path",))
        for institution, table in tables.items()
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
    relative = PurePosixPath(source["folder"])
    if relative.is_absolute() or ".." in relative.parts:
        raise InputError(
            f"{where}.folder: {source['folder']!r} leaves cohort.root. Name a folder inside it."
        )
    folder = root / relative
    if not folder.is_dir():
        raise InputError(
            f"{folder}: there is no such folder. Set cohort.root to the folder that holds "
            f"{source['folder']!r}, or leave the data set out with '~{where}'."
        )
    codes = Codes.from_lists(source["codes"], where=f"{where}.codes")
    if layout == "ptbxl":
        exams = ptbxl.exams(
            folder, root, codes=codes, likelihood_percent=source["likelihood_percent"]
        )
    else:
        exams = cinc.exams(folder, root, institution=name, codes=codes)
    exams["patient_id"] = join_copies(exams, root)
    return {str(site): table for site, table in exams.groupby("institution", sort=True)}
