"""A table in the three forms in which a paper's author needs it: CSV, LaTeX and HTML."""

import re
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "%": r"\%", "&": r"\&", "#": r"\#",
    "_": r"\_", "$": r"\$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip
_NUMBER = re.compile(r"$|[-+<]?\s?\d|p [<=]|not estimable|-$")


@dataclass(frozen=True)
class Table:
    """`shown` is for people, all cells as they are to be read; `values` (if any) is what the CSV
    holds instead. `folded`: a report shows it on demand only.
    """

    name: str
    caption: str
    shown: pd.DataFrame
    values: pd.DataFrame | None = None
    folded: bool = False

    def files(self) -> dict[str, str]:
        """File name -> content: `name`.csv and `name`.tex (booktabs)."""
        values = self.shown if self.values is None else self.values
        return {f"{self.name}.csv": values.to_csv(index=False), f"{self.name}.tex": self.latex()}

    def latex(self) -> str:
        escaped = self._text.map(_escaped).set_axis([_escaped(c) for c in self.columns], axis=1)
        return escaped.to_latex(
            index=False, escape=False, caption=_escaped(self.caption), label=f"tab:{self.name}",
            column_format="".join("r" if right else "l" for right in self.right_aligned),
        )  # fmt: skip

    @property
    def columns(self) -> list[str]:
        return [str(column) for column in self.shown.columns]

    @cached_property
    def rows(self) -> list[list[str]]:
        return self._text.to_numpy().tolist()

    @cached_property
    def right_aligned(self) -> list[bool]:
        """A column each: whether all its cells begin like numbers; the first one names the rows."""
        columns = [cells for _, cells in self._text.items()]
        return [n > 0 and all(map(_NUMBER.match, cells)) for n, cells in enumerate(columns)]

    @cached_property
    def _text(self) -> pd.DataFrame:
        cells = [["" if pd.isna(c) else str(c) for c in row] for row in self.shown.to_numpy(object)]
        return pd.DataFrame(cells, columns=self.columns, dtype=str)


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)
