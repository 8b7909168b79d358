"""What a publisher's diagnostic codes say about one question: is this ECG abnormal?"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, fields
from math import nan

from datamodules.errors import InputError


@dataclass(frozen=True, slots=True)
class Codes:
    """Every code of a source, in one of four sets.

    normal: says that the ECG is normal. neutral: leaves a normal ECG normal (sinus rhythm).
    abnormal: a pathological finding. undecided: can be found in healthy hearts, or says nothing.
    """

    normal: frozenset[str]
    neutral: frozenset[str]
    abnormal: frozenset[str]
    undecided: frozenset[str]

    @classmethod
    def from_lists(cls, lists: Mapping[str, Sequence[str | int]], *, where: str) -> "Codes":
        """Codes from four lists; InputError if a list is missing or a code stands in two.

        `where` names the lists in messages.
        """
        names = [field.name for field in fields(cls)]
        if set(lists) != set(names):
            raise InputError(f"{where}: has {', '.join(lists)}. Write {', '.join(names)}.")
        sets = {name: frozenset(map(str, lists[name])) for name in names}
        twice = [
            f"{code!r} stands in {' and '.join(n for n in names if code in sets[n])}"
            for code in sorted(frozenset().union(*sets.values()))
            if sum(code in sets[n] for n in names) > 1
        ]
        if twice:
            raise InputError(f"{where}: {'; '.join(twice)}. Keep each code in one list.")
        return cls(**sets)

    def unknown(self, stated: Set[str]) -> set[str]:
        """The codes among `stated` that stand in no list."""
        return set(stated - self.normal - self.neutral - self.abnormal - self.undecided)

    def abnormality(self, stated: Set[str], *, in_doubt: bool = False) -> float:
        """1.0 with any abnormal code, 0.0 with a normal code and otherwise neutral ones, else NaN.

        `in_doubt` says that something more was stated that may be abnormal: no ECG is normal then.
        """
        if stated & self.abnormal:
            return 1.0
        if stated & self.normal and stated <= self.normal | self.neutral and not in_doubt:
            return 0.0
        return nan
