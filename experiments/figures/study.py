"""What is known of a study beyond its predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd
from matplotlib.figure import Figure

from experiments.figures.html import Block

EXTERNAL_VALIDATION = "external_validation"
LEAVE_SITE_OUT = "leave_site_out"
NAMED = 6  # labels, at most, that a title names


@dataclass(frozen=True)
class Cohort:
    """Who the exams were, training ones included.

    `exams`: institution, exam_id, patient_id, role, split, a column of targets for each of
    `targets` (label -> column), and the manifest's columns as `characteristics` takes them. `flow`:
    a row an institution, as `flow_figure` takes it. `left_out`: institution, exam_id, path and
    reason of each file that could not be used. `notes`: what else limits what is found in them.
    `excerpt`: what they are of a data set that is not all there.
    """

    exams: pd.DataFrame
    flow: pd.DataFrame
    left_out: pd.DataFrame
    targets: Mapping[str, str]
    notes: Sequence[str] = ()
    excerpt: str = ""


@dataclass(frozen=True)
class Subsets:
    """A fusion with each subset of its inputs: the `summarise` table, and model -> inputs."""

    summary: pd.DataFrame
    inputs: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Pretraining:
    """What models started from: a row each of `table` (held out, exams, and its numbers), by column
    the `words` for these numbers, a `summary`, and what the first made of one exam.
    """

    table: pd.DataFrame
    words: Mapping[str, str]
    summary: str
    figure: Figure | None
    caption: str


@dataclass(frozen=True)
class Study:
    """What is known of a study beyond its predictions; what is empty is left out of the report.

    `rule`: how the target follows from measurements. `protocol`: EXTERNAL_VALIDATION,
    LEAVE_SITE_OUT, or "" where only predictions were handed in. `models`: name -> what it is.
    `main`: the model that the answer is about (else the first). `fusion`: how models were fused.
    `splits`: shares of the development patients; `split_by`: whose splits else. `preprocessing`:
    input -> what is done to it.
    `simulated`: what is simulated and what that means, for the banner. `limits`: what a launch adds
    to the limits (a pretraining that ended on its plateau). `digests` and `versions`: of data and
    of software. `ceilings`: model -> institution -> the best possible AUROC, known in a simulation.
    `untested`: labels that no exam was tested for, which the report is not on. `readers`: the
    section on a reader study. `published`: published results for the same target:
    model, auroc (macro) and source.
    """

    name: str
    target: str
    rule: str = ""
    protocol: str = ""
    models: Mapping[str, str] = field(default_factory=dict)
    main: str = ""
    fusion: str = ""
    splits: Mapping[str, float] = field(default_factory=dict)
    split_by: str = ""
    preprocessing: Mapping[str, str] = field(default_factory=dict)
    simulated: str = ""
    limits: Sequence[str] = ()
    command: str = ""
    commit: str = ""
    digests: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    cohort: Cohort | None = None
    ceilings: Mapping[str, Mapping[str, float]] | None = None
    subsets: Subsets | None = None
    pretraining: Pretraining | None = None
    readers: Sequence[Block] = ()
    published: pd.DataFrame | None = None
    untested: Sequence[str] = ()

    @property
    def banners(self) -> dict[str, str]:
        """What must be seen first, below a word: what is simulated, or that this is an excerpt."""
        excerpt = "" if self.cohort is None else self.cohort.excerpt
        told = {"SIMULATED": self.simulated, "EXCERPT": excerpt}
        return {word: text for word, text in told.items() if text}

    def leading(self, models: Sequence[str]) -> str:
        """The model that the answer is about."""
        return self.main or models[0]


def titled(labels: Sequence[str]) -> str:
    """What a study of these labels is about, for titles: their names, or how many they are."""
    if len(labels) > NAMED:
        return f"{len(labels)} labels"
    *others, last = labels
    return f"{', '.join(others)} and {last}" if others else last
