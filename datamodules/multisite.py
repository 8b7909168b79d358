"""Development institutions against external ones."""

from collections.abc import Sequence

import pandas as pd

from datamodules.institution import ExamDataModule, InstitutionDataModule
from datamodules.splits import check_leakage

SETTINGS = ("reads", "input", "augmentation", "loading", "targets")


class MultiSiteDataModule(ExamDataModule):
    """Trains on development institutions, and predicts their held-out patients and external ones.

    The institutions' own settings hold, and must agree. Raises InputError where a patient, or a
    file's values under two patients, would leak, and ValueError where settings differ.
    """

    def __init__(
        self,
        development: Sequence[InstitutionDataModule],
        external: Sequence[InstitutionDataModule],
    ) -> None:
        sites = [*development, *external]
        settings = {name: getattr(sites[0], name) for name in SETTINGS}
        for site in sites:
            for name, value in settings.items():
                if getattr(site, name) != value:
                    raise ValueError(
                        f"{site.institution} and {sites[0].institution} differ in {name}"
                    )
        exams = pd.concat(
            [
                *(site.exams.assign(role="development") for site in development),
                *(site.exams.assign(role="external", split="external") for site in external),
            ]
        )
        contents = sites[0].input.contents
        check_leakage(exams, {} if contents is None else {"values": contents.files})
        stores = {site.institution: site.store for site in sites}
        super().__init__(exams, stores, **settings)
