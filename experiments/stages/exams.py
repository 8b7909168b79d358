"""The exams of a study, packed, as its stages are given them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from datamodules.inputs.input import Input
from datamodules.store import Store


def target_column(label: str) -> str:
    """The column of a site's exams that holds a label's target."""
    return f"target {label}"


@dataclass(frozen=True)
class Site:
    """One institution, read, checked and packed.

    `exams`: the manifest's rows that have an input of the study, with split, the `target_column` of
    each of `labels` and, for each input, its row in the store (`ecg_row`; 0 where the input stands
    in the manifest), -1 where the exam lacks it, and `ecg_values`, a hash of what its file holds.
    `inputs` are the study's, any of which an exam may lack where there are several; `stores` holds
    what is packed, by input. `flow`: how many exams came in and how many went where. `notes` say
    what limits what is found on it; `excerpt`, if not all of a public data set is there, what is.
    """

    name: str
    exams: pd.DataFrame
    inputs: Mapping[str, Input]
    stores: Mapping[str, Store]
    flow: Mapping[str, int]
    labels: tuple[str, ...]
    notes: Sequence[str] = ()
    excerpt: str = ""

    @property
    def labelled(self) -> pd.Series:
        """Which exams have a target of any label."""
        targets = self.exams[[target_column(label) for label in self.labels]]
        return targets.notna().any(axis=1)

    def exams_with(self, input: str) -> pd.DataFrame:
        """The exams that have the input, with `row` in its store and the hash of its `values`."""
        row = self.exams[f"{input}_row"]
        table = self.exams.assign(row=row)
        if f"{input}_values" in table:
            table["values"] = table[f"{input}_values"]
        return table[row >= 0]

    def digest_of(self, input: str, *columns: str) -> str:
        """Of everything that a model of this input depends on here, with `columns` as labels."""
        exams = self.exams_with(input)
        values = [] if input in self.stores else list(self.inputs[input].reads)
        told = ["exam_id", "patient_id", "split", *values, *columns]
        table = exams.reindex(columns=told).to_csv(index=False)
        content = self.stores[input].digest if input in self.stores else ""
        return hashlib.sha256(f"{self.name}\n{content}\n{table}".encode()).hexdigest()

    @cached_property
    def digest(self) -> str:
        """Of everything that training or testing on this institution depends on."""
        targets = [target_column(label) for label in self.labels]
        text = "".join(self.digest_of(input, *targets) for input in self.inputs)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def copies(self) -> dict[str, str]:
        """The columns of `exams` with hashes of what files hold -> what the files are called."""
        contents = {name: input.contents for name, input in self.inputs.items()}
        return {f"{name}_values": of.files for name, of in contents.items() if of is not None}

    @property
    def left_out(self) -> pd.DataFrame:
        """institution, exam_id, path and reason of each file that could not be used."""
        tables = [
            store.skipped.set_axis(["exam_id", "path", "reason"], axis=1)
            for store in self.stores.values()
        ]
        columns = ["exam_id", "path", "reason"]
        table = pd.concat(tables) if tables else pd.DataFrame(columns=columns)
        return table[columns].assign(institution=self.name)


@dataclass(frozen=True)
class Exams:
    """The exams of some institutions that have one input, as a stage is given them; told by its
    digest, with the targets of `labels` if any."""

    sites: tuple[Site, ...]
    reads: str
    labels: tuple[str, ...] = ()

    @property
    def read_by(self) -> list[Input]:
        """Whose code they are read by; that of the study's other inputs is no matter here."""
        return [site.inputs[self.reads] for site in self.sites]

    @cached_property
    def digest(self) -> list[str]:
        columns = self.targets
        return [site.digest_of(self.reads, *columns) for site in self.sites]

    @property
    def targets(self) -> list[str]:
        """The columns of targets, in the order of the labels."""
        return [target_column(label) for label in self.labels]


@dataclass(frozen=True)
class Table:
    """A table that a stage is given, told by its digest."""

    frame: pd.DataFrame

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.frame.to_csv(index=False).encode()).hexdigest()
