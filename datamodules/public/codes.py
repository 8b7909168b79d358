"""What a publisher's diagnostic codes say: is this ECG abnormal, and does it show a finding?"""

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


@dataclass(frozen=True, slots=True)
class Findings:
    """Columns of 0 and 1 beside `abnormal`: each by the codes that state it."""

    codes: Mapping[str, frozenset[str]]

    @classmethod
    def from_lists(
        cls, lists: Mapping[str, Sequence[str | int]], codes: Codes, *, where: str
    ) -> "Findings":
        """InputError for a code that stands in none of `codes`; `where` names the lists."""
        found = cls({str(name): frozenset(map(str, of)) for name, of in lists.items()})
        for name, of in found.codes.items():
            unknown = sorted(codes.unknown(of))
            if unknown:
                raise InputError(
                    f"{where}.{name}: {', '.join(unknown)} stands in none of the source's codes. "
                    "Correct it, or add it to one of them."
                )
        return found

    def stated(self, sure: Set[str], doubtful: Set[str] = frozenset()) -> dict[str, float]:
        """1.0 with any of a finding's codes, else 0.0; NaN where it is in doubt, or nothing at all
        was stated."""
        if not sure | doubtful:
            return dict.fromkeys(self.codes, nan)
        return {
            name: 1.0 if sure & of else nan if doubtful & of else 0.0
            for name, of in self.codes.items()
        }


NO_FINDINGS = Findings({})
