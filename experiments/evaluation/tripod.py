"""The TRIPOD+AI checklist: what a report of this kind answers, and what is left to its author.

Collins et al., BMJ 2024;385:e078378, table 2: 27 items, some in parts. Topics are paraphrased here;
the published wording is what counts in a submission.
"""

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

SOURCE = "Collins et al., BMJ 2024;385:e078378"
ANSWERED = "in this report"
PARTLY = "partly in this report"
AUTHOR = "left to the author"


class Item(NamedTuple):
    """An item of the checklist; `applies` is D (development), E (evaluation) or D;E."""

    number: str
    section: str
    applies: str
    topic: str


ITEMS = (
    Item("1", "Title", "D;E", "development or evaluation, population and outcome named"),
    Item("2", "Abstract", "D;E", "the checklist for abstracts"),
    Item("3a", "Background", "D;E", "healthcare context, rationale, existing models"),
    Item("3b", "Background", "D;E", "target population, purpose in the care pathway, users"),
    Item("3c", "Background", "D;E", "known health inequalities"),
    Item("4", "Objectives", "D;E", "objectives: development, validation or both"),
    Item("5a", "Data", "D;E", "sources of development and evaluation data, representativeness"),
    Item("5b", "Data", "D;E", "dates of accrual and follow-up"),
    Item("6a", "Participants", "D;E", "setting, number and location of centres"),
    Item("6b", "Participants", "D;E", "eligibility criteria"),
    Item("6c", "Participants", "D;E", "treatments received"),
    Item("7", "Data preparation", "D;E", "pre-processing and quality checks"),
    Item("8a", "Outcome", "D;E", "definition, how and when assessed, rationale"),
    Item("8b", "Outcome", "D;E", "who assessed it, where that takes judgement"),
    Item("8c", "Outcome", "D;E", "blinding of its assessment"),
    Item("9a", "Predictors", "D", "choice and pre-selection"),
    Item("9b", "Predictors", "D;E", "definition, how and when measured, blinding"),
    Item("9c", "Predictors", "D;E", "who assessed them, where that takes judgement"),
    Item("10", "Sample size", "D;E", "how it was arrived at, and whether it is enough"),
    Item("11", "Missing data", "D;E", "handling, and reasons for leaving data out"),
    Item("12a", "Analytical methods", "D", "how data were used and partitioned"),
    Item("12b", "Analytical methods", "D", "how predictors were handled"),
    Item("12c", "Analytical methods", "D", "type of model, building, tuning, internal validation"),
    Item("12d", "Analytical methods", "D;E", "heterogeneity between centres: how quantified"),
    Item("12e", "Analytical methods", "D;E", "measures and plots of performance, comparisons"),
    Item("12f", "Analytical methods", "E", "updating, such as recalibration"),
    Item("12g", "Analytical methods", "E", "how predictions were calculated"),
    Item("13", "Class imbalance", "D;E", "methods used, and recalibration after them"),
    Item("14", "Fairness", "D;E", "approaches to fairness and their rationale"),
    Item("15", "Model output", "D", "output, and how thresholds were identified"),
    Item("16", "Training versus evaluation", "D;E", "differences between the two kinds of data"),
    Item("17", "Ethical approval", "D;E", "committee and consent, or its waiver"),
    Item("18a", "Open science", "D;E", "funding and role of the funders"),
    Item("18b", "Open science", "D;E", "conflicts of interest"),
    Item("18c", "Open science", "D;E", "where the protocol is"),
    Item("18d", "Open science", "D;E", "registration"),
    Item("18e", "Open science", "D;E", "availability of the data"),
    Item("18f", "Open science", "D;E", "availability of the analytical code"),
    Item("19", "Patient and public involvement", "D;E", "involvement, or its absence"),
    Item("20a", "Participants (results)", "D;E", "flow, with and without the outcome"),
    Item("20b", "Participants (results)", "D;E", "characteristics by data source, missing data"),
    Item("20c", "Participants (results)", "E", "evaluation data compared with development data"),
    Item("21", "Model development (results)", "D;E", "participants and events in each analysis"),
    Item("22", "Model specification", "D", "the full model, and how to get and use it"),
    Item("23a", "Model performance", "D;E", "performance with intervals, also in subgroups"),
    Item("23b", "Model performance", "D;E", "heterogeneity between centres"),
    Item("24", "Model updating", "E", "the updated model and its performance"),
    Item("25", "Interpretation", "D;E", "overall, with fairness and earlier studies"),
    Item("26", "Limitations", "D;E", "limitations and their effects"),
    Item("27a", "Usability", "D", "poor or absent input when the model is used"),
    Item("27b", "Usability", "D", "what users have to do and to know"),
    Item("27c", "Usability", "D;E", "next steps, applicability and generalisability"),
)


class Answer(NamedTuple):
    """What a report says of an item: the section where, and what in a line or two.

    `complete` is False where the author has to add something.
    """

    section: str
    text: str
    complete: bool = True


def checklist(answers: Mapping[str, Answer]) -> pd.DataFrame:
    """A row an item, with item, section, applies, topic, status (ANSWERED, PARTLY or AUTHOR), where
    and answer. `answers` goes by item number; KeyError for one that the checklist does not have.
    """
    numbers = [item.number for item in ITEMS]
    for number in answers:
        if number not in numbers:
            raise KeyError(f"TRIPOD+AI has no item {number!r}")
    rows = []
    for item in ITEMS:
        answer = answers.get(item.number)
        status = AUTHOR if answer is None else ANSWERED if answer.complete else PARTLY
        where, text = ("", "") if answer is None else (answer.section, answer.text)
        rows.append((item.number, item.section, item.applies, item.topic, status, where, text))
    columns = ["item", "section", "applies", "topic", "status", "where", "answer"]
    return pd.DataFrame(rows, columns=columns)
