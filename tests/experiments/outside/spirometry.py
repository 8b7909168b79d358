"""A fourth input, as a person writes one: a spirometry table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datamodules.inputs.input import InManifest
from datamodules.manifest import Column, within


@dataclass(frozen=True)
class Spirometry(InManifest):
    """FEV1 and FVC in litres, standardised: the network's input is (B, 2)."""

    columns: ClassVar[Mapping[str, Column]] = {
        "fev1_l": Column("number", (within(0.1, 8, "write litres"),), unit="L"),
        "fvc_l": Column("number", (within(0.1, 10, "write litres"),), unit="L"),
    }

    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None

    @property
    def label(self) -> str:
        return "spirometry"

    @property
    def reads(self) -> tuple[str, ...]:
        return ("fev1_l", "fvc_l")

    @property
    def arguments(self) -> Mapping[str, str]:
        return {"fev1": "fev1_l", "fvc": "fvc_l"}

    @property
    def measured(self) -> Mapping[str, str]:
        return {"fev1_l": "FEV1 (L)", "fvc_l": "FVC (L)"}

    def features(self, exams: pd.DataFrame) -> NDArray[np.float64]:
        return exams.reindex(columns=list(self.reads)).to_numpy(np.float64, na_value=np.nan)

    def describe(self) -> str:
        return "FEV1 and FVC, standardised on development training exams"
