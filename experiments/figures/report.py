"""The reviewer's report of a study, from its analysis and what else is known of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from experiments.evaluation.analysis import Analysis, Several
from experiments.evaluation.predictions import EXAM
from experiments.figures import about, labels, measured
from experiments.figures.html import Block, Report, Section, render
from experiments.figures.published import published
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
    "published": ("Published results", published),
    "operating": ("Operating points", measured.operating),
    "calibration": ("Calibration", measured.calibration),
    "decision": ("Decision curves", measured.decision),
    "subgroups": ("Subgroups", measured.subgroups),
    "subsets": ("Subsets of the inputs", measured.subsets),
    "readers": ("Reader study", lambda _, study: list(study.readers)),
    "limits": ("Limits", about.limits),
    "repeat": ("How to repeat it", about.repeat),
}

# Of several labels these are told by label.
BY_LABEL = ("operating", "calibration", "decision", "subgroups")

KINDS = {
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
    sections = [Section(key, title, of(analysis, study)) for key, (title, of) in SECTIONS.items()]
    return _evidence(analysis, study, sections, {})


def build_several(several: Several, study: Study) -> Evidence:
    """The report of several labels: their macro average, all of them, and each where they are few.

    Every label's full statistics are among the tables.
    """
    own = {
        "answer": labels.answer,
        "results": labels.results,
        "limits": labels.limits,
    }
    overall, sections = several.overall, list[Section]()
    for key, (title, of) in SECTIONS.items():
        if key in BY_LABEL:
            continue
        blocks = own[key](several, study) if key in own else of(overall, study)
        sections.append(Section(key, title, blocks))
        if key == "results":
            sections.append(Section("labels", "Labels", labels.labels(several, study)))
            sections += labels.sections(several, study)
    files = {
        f"{name}.csv": table.to_csv(index=False) for name, table in labels.tables(several).items()
    }
    return _evidence(overall, study, sections, files)


def _evidence(
    analysis: Analysis, study: Study, made: Sequence[Section], files: Mapping[str, str]
) -> Evidence:
    """`files` are further tables."""
    sections = [section for section in made if section.blocks]
    titles = {section.key: section.title for section in sections}
    if files:  # what no section of its own tells, the one on labels does
        titles = dict.fromkeys(labels.told(analysis), titles["labels"]) | titles
    checklist = about.checklist(analysis, study, titles)
    exams = analysis.predictions.drop_duplicates(list(EXAM))
    kind = KINDS.get(study.protocol, "Evaluation of predictions that were handed in")
    if study.protocol == EXTERNAL_VALIDATION and not analysis.external:
        kind = "Development and internal test"
    report = Report(
        f"{study.target}: {study.name}",
        f"{kind}: {number_of(len(analysis.models), 'model')}, "
        f"{number_of(exams['institution'].nunique(), 'institution')}, "
        f"{number_of(len(exams), 'exam')} predicted",
        study.banners,
        [*sections, Section("checklist", "TRIPOD+AI checklist", checklist)],
    )
    tables: dict[str, str] = {}
    for table in report.tables:
        tables |= table.files()
    tables["decision_curves.csv"] = analysis.decision.to_csv(index=False)
    tables["reliability.csv"] = analysis.reliability.to_csv(index=False)
    figures = {picture.name: picture.figure for picture in report.pictures}
    return Evidence(render(report), {**tables, **files}, figures)
