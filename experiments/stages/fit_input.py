"""What is fitted on training exams before any network: normalisation, and the inputs' ranges."""

from dataclasses import dataclass
from typing import ClassVar

from datamodules.inputs.input import Fitted, Input
from experiments.stages.exams import Exams
from experiments.stages.stage import Lab, Place, Record, Stage, run_stage
from experiments.stages.training import data_module


@dataclass(frozen=True)
class FitInput(Stage):
    """An input, fitted on development training exams without their targets."""

    kind: ClassVar[str] = "input"
    alone: ClassVar[bool] = True
    tracked: ClassVar[bool] = False

    input: Input
    exams: Exams

    @property
    def name(self) -> str:
        return f"fit {self.exams.reads}"

    def make(self, place: Place) -> Record:
        data = data_module(place.lab, self.input, self.exams, batch_size=place.lab.batch)
        fitted = data.fit_input()
        return {
            "input": fitted.input.as_dict(),
            "ranges": fitted.ranges,
            "statistics": fitted.statistics,
        }


def fit_input(input: Input, exams: Exams, lab: Lab) -> Fitted:
    """The input fitted on the exams' training ones; reused if made before."""
    record = run_stage(FitInput(input, exams), lab, None).record
    return Fitted(
        type(input).from_dict(record["input"]),
        {name: (low, high) for name, (low, high) in record["ranges"].items()},
        record["statistics"],
    )
