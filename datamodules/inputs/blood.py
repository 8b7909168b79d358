"""A natriuretic peptide in the blood, age and sex beside it or not."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pandera.pandas as pa
from numpy.typing import NDArray

from datamodules.inputs.input import InManifest
from datamodules.manifest import Column

# Column -> what people call it, and the molar mass over 1000: of 32 amino acids 3464 g/mol, of 76
# 8457.
MARKERS = {"bnp_pg_ml": ("BNP", 3.464), "nt_probnp_pg_ml": ("NT-proBNP", 8.457)}
ARGUMENTS = {"bnp_pg_ml": "bnp", "nt_probnp_pg_ml": "nt_probnp"}
# Heart failure without kidneys, the largest known, gave 20,000 and 100,000 (J Med Case Rep
# 2012;6:351), beyond what assays measure undiluted.
MOST = {"bnp_pg_ml": 100_000, "nt_probnp_pg_ml": 1_000_000}
# What their columns may be called once nothing but letters and digits is left.
NAMES = {"bnp_pg_ml": "bnp", "nt_probnp_pg_ml": "(?:nt)?probnp"}
ENDING = r"(?:value|level|result)?(?:[fpnum]?(?:g|mol)[dm]?l)?"


def _column(marker: str) -> Column:
    conversions = f"1 ng/L = 1 pg/mL, 1 ng/mL = 1000 pg/mL, 1 pmol/L = {MARKERS[marker][1]} pg/mL"
    most = MOST[marker]
    return Column(
        "number",
        (
            pa.Check.ge(0, error="is below 0; write pg/mL, or leave it empty"),
            pa.Check.le(most, error=f"is above {most:,}; write pg/mL, or leave it empty"),
            pa.Check(
                lambda values: not values[values > 0].median() < 1,
                error=f"half of the values are below 1: ng/mL? Write pg/mL ({conversions})",
            ),
        ),
        unit="pg/mL",
        conversions=conversions,
        also_called=re.compile(NAMES[marker] + ENDING),
    )


@dataclass(frozen=True)
class Blood(InManifest):
    """BNP or NT-proBNP, and what else is known, standardised: the network's input is (B, k).

    marker: "bnp_pg_ml" or "nt_probnp_pg_ml", the manifest's column; the two are never mixed. age,
    sex: whether they are features too. mean and deviation are those of the development
    institutions' training exams, fitted.
    """

    columns: ClassVar[Mapping[str, Column]] = {marker: _column(marker) for marker in MARKERS}

    marker: str
    age: bool
    sex: bool
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.marker not in MARKERS:
            raise ValueError(f"marker {self.marker!r} is not one of {', '.join(MARKERS)}")

    @property
    def label(self) -> str:
        others = [name for name, asked in (("age", self.age), ("sex", self.sex)) if asked]
        name = MARKERS[self.marker][0]
        return f"{name} with {' and '.join(others)}" if others else name

    @property
    def reads(self) -> tuple[str, ...]:
        asked = {self.marker: True, "age_years": self.age, "sex": self.sex}
        return tuple(name for name, is_asked in asked.items() if is_asked)

    @property
    def arguments(self) -> Mapping[str, str]:
        named = {**ARGUMENTS, "age_years": "age", "sex": "sex"}
        return {named[column]: column for column in self.reads}

    @property
    def measured(self) -> Mapping[str, str]:
        return {self.marker: f"{MARKERS[self.marker][0]} (pg/mL)"}

    def features(self, exams: pd.DataFrame) -> NDArray[np.float64]:
        """The natural logarithm of the marker in pg/mL, below 1 pg/mL that of 1; age in years; sex,
        1 for male and 0 for female. A column that the table lacks is absent in every row."""
        columns = exams.reindex(columns=list(self.reads))
        columns = columns.replace({"sex": {"male": 1.0, "female": 0.0}})
        features = columns.to_numpy(np.float64, na_value=np.nan, copy=True)
        features[:, 0] = np.log(np.maximum(features[:, 0], 1))
        return features

    def example(self) -> dict[str, Any]:
        """Of middling age."""
        values: dict[str, Any] = {self.marker: 300.0, "age_years": 65.0, "sex": "female"}
        return {column: values[column] for column in self.reads}

    def instead_of(self, argument: str) -> str:
        if argument not in ARGUMENTS.values():
            return ""
        own = f"{ARGUMENTS[self.marker]}="
        return (
            f"was trained on {own}, and BNP and NT-proBNP are never mixed. Give {own}, or neither."
        )

    def describe(self) -> str:
        return f"natural logarithm of {self.marker}, standardised on development training exams"
