"""The reviewer's report of a study, from its analysis and what else is known of it."""

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from experiments.evaluation.analysis import Analysis
from experiments.evaluation.predictions import EXAM
from experiments.figures import about, measured
from experiments.figures.html import Block, Report, Section, render
from experiments.figures.study import EXTERNAL_VALIDATION, LEAVE_SITE_OUT, Study
from experiments.figures.study_text import number_of

# In the report's order; a section without blocks is left out.
SECTIONS: dict[str, tuple[str, Callable[[Analysis, Study], list[Block]]]] = {
    "question": ("What was asked", about.question),
    "answer": ("Answer", about.answer),
    "cohort": ("Cohort", about.cohort),
    "protocol": ("Protocol", about.protocol),
    "pretraining": ("Pretraining", about.pretraining),
    "results": ("Results", measured.results),
    "operating": ("Operating points", measured.operating),
    "calibration": ("Calibration", measured.calibration),
    "decision": ("Decision curves", measured.decision),
    "subgroups": ("Subgroups", measured.subgroups),
    "subsets": ("Subsets of the inputs", measured.subsets),
    "readers": ("Reader study", lambda _, study: list(study.readers)),
    "limits": ("Limits", about.limits),
    "repeat": ("How to repeat it", about.repeat),
}

_KINDS = {
    EXTERNAL_VALIDATION: "Development and external validation",
    LEAVE_SITE_OUT: "Leave-site-out validation",
}


@dataclass(frozen=True)
class Evidence:
    """A rendered report, and by file name the tables and by name the figures that it shows."""

    html: str
    tables: dict[str, str]
    figures: dict[str, Figure]


def build(analysis: Analysis, study: Study) -> Evidence:
    """The report of a study; what its input does not allow is left out, and said so."""
    made = [Section(key, title, of(analysis, study)) for key, (title, of) in SECTIONS.items()]
    sections = [section for section in made if section.blocks]
    titles = {section.key: section.title for section in sections}
    checklist = about.checklist(analysis, study, titles)
    exams = analysis.predictions.drop_duplicates(list(EXAM))
    kind = _KINDS.get(study.protocol, "Evaluation of predictions that were handed in")
    report = Report(
        f"{study.target}: {study.name}",
        f"{kind}: {number_of(len(analysis.models), 'model')}, "
        f"{number_of(exams['institution'].nunique(), 'institution')}, "
        f"{number_of(len(exams), 'exam')} predicted",
        study.simulated,
        [*sections, Section("checklist", "TRIPOD+AI checklist", checklist)],
    )
    tables: dict[str, str] = {}
    for table in report.tables:
        tables |= table.files()
    tables["decision_curves.csv"] = analysis.decision.to_csv(index=False)
    tables["reliability.csv"] = analysis.reliability.to_csv(index=False)
    figures = {picture.name: picture.figure for picture in report.pictures}
    return Evidence(render(report), tables, figures)
