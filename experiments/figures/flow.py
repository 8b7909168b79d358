"""Cohort flow: what came in, what was left out and why, and what each exam served for."""

import re
import textwrap
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from experiments.evaluation.predictions import DEVELOPMENT, EXTERNAL, TEST, TRAIN, VAL
from experiments.figures import style

# mm
_COLUMN = 35.0  # an institution's box
_GAP = 3.0
_MARGIN = 4.0
_TOP = 12.0  # title
_LINE = 3.9  # of text
_PAD = 2.4  # in a box, above and below its text
_DOWN = 9.0  # between boxes above each other
_HEAD = 7.0  # a role's name
_MAIN = 66.0  # the boxes of all exams, at least
_SIDE = 100.0  # the boxes of exams that are left out
_ACROSS = 14.0  # between the two
_PER_ROW = 7  # institutions beside each other
_REASONS = 5  # told; further ones are counted
_WRAP = 68  # letters a line in a side box

_SPLITS = {TRAIN: "training", VAL: "validation", TEST: "test"}
_ROLES = {DEVELOPMENT: "Development", EXTERNAL: "External"}
_FILL = "#f3f3f3"


def flow_figure(
    flow: pd.DataFrame,
    exams: pd.DataFrame,
    left_out: pd.DataFrame,
    *,
    target: str,
    title: str,
    classed: bool = True,
) -> Figure:
    """All exams from the manifests to the analysis, then a box an institution.

    `flow` has a row an institution: institution, "in manifest", "packed" (with a usable input),
    "with target" and, of a study with several inputs, "with ecg" and so on. `exams` has the packed
    ones: institution, patient_id, role, split, target and analysed (False where an exam lacks an
    input that the models are compared with). `left_out` has a row a file that could not be used,
    with its reason; equal reasons are counted, and so are those that differ in numbers only.
    Positive exams are counted where the target is `classed`.
    """
    totals = flow[["in manifest", "packed", "with target"]].sum()
    unusable = int(totals["in manifest"] - totals["packed"])
    unknown = int(totals["packed"] - totals["with target"])
    labelled = exams[exams["target"].notna()]
    patients = len(labelled[["institution", "patient_id"]].drop_duplicates())
    main = [
        ["Exams in the manifests", f"{int(totals['in manifest']):,}"],
        ["Exams with a usable input", f"{int(totals['packed']):,}"],
        [
            f"Exams whose {target} is known",
            f"{int(totals['with target']):,} exams of {patients:,} patients"
            + f", {int((labelled['target'] == 1).sum()):,} positive" * classed,
        ],
    ]
    reasons = _reasons(left_out)
    side = [
        [f"Without a usable input: {unusable:,}"],
        [f"{target} not known: {unknown:,}"],
    ]
    if reasons:
        side[0] += [f"files left out: {len(left_out):,}", *reasons]
    boxes = _institutions(flow, exams, classed)

    steps = [max(len(a), len(b)) for a, b in zip(main, [*side, []], strict=True)]
    heights = [count * _LINE + 2 * _PAD for count in steps]
    rows = _rows(flow, exams)
    box_heights = [max(len(boxes[name]) for _, name in row) * _LINE + 2 * _PAD for row in rows]
    longest = max(map(len, rows), default=0)
    across = max(
        _MAIN, 2 * _PAD + 1.1 * style.widest(text for box in main for text in box)
    )  # bold is wider
    width = 2 * _MARGIN + max(across + _ACROSS + _SIDE, longest * (_COLUMN + _GAP) - _GAP)
    height = _TOP + sum(heights) + len(heights) * _DOWN + _MARGIN
    height += sum(_HEAD + box_height + _GAP for box_height in box_heights)
    with style.look():
        figure = style.new_figure(width, height)
        axes = style.axes_mm(figure, 0, 0, width, height)
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.axis("off")
        axes.text(_MARGIN, 6, title, size=10, weight="bold", va="center")
        y = _TOP
        for number, (box, tall) in enumerate(zip(main, heights, strict=True)):
            own = len(box) * _LINE + 2 * _PAD
            top = y + (tall - own) / 2
            _box(axes, _MARGIN, top, across, box, bold=1)
            if number < len(side):
                other = len(side[number]) * _LINE + 2 * _PAD
                _box(axes, _MARGIN + across + _ACROSS, y + (tall - other) / 2, _SIDE, side[number])
                middle = y + tall / 2
                _arrow(axes, (_MARGIN + across, middle), (_MARGIN + across + _ACROSS, middle))
                below = heights[number + 1]
                next_own = len(main[number + 1]) * _LINE + 2 * _PAD
                end = y + tall + _DOWN + (below - next_own) / 2
            else:
                end = y + tall + _DOWN - 1
            _arrow(axes, (_MARGIN + across / 2, top + own), (_MARGIN + across / 2, end))
            y += tall + _DOWN
        told = ""
        for row, box_height in zip(rows, box_heights, strict=True):
            for number, (role, name) in enumerate(row):
                x = _MARGIN + number * (_COLUMN + _GAP)
                if role != told:
                    axes.text(x, y + _HEAD / 2, _ROLES[role], weight="bold", va="center")
                    told = role
                _box(axes, x, y + _HEAD, _COLUMN, boxes[name], bold=1, height=box_height, size=6.8)
            y += _HEAD + box_height + _GAP
    return figure


def _rows(flow: pd.DataFrame, exams: pd.DataFrame) -> list[list[tuple[str, str]]]:
    """(role, institution) in rows, development ones first; those without exams are external."""
    roles = exams.drop_duplicates("institution").set_index("institution")["role"]
    placed = [(str(roles.get(name, EXTERNAL)), str(name)) for name in flow["institution"]]
    placed.sort(key=lambda one: list(_ROLES).index(one[0]))
    return [placed[start : start + _PER_ROW] for start in range(0, len(placed), _PER_ROW)]


def _institutions(flow: pd.DataFrame, exams: pd.DataFrame, classed: bool) -> dict[str, list[str]]:
    """Institution -> the lines of its box."""
    boxes = {}
    inputs = [name for name in map(str, flow.columns) if name.startswith("with ")]
    inputs = [name for name in inputs if name not in ("with target", "with all")]
    for row in flow.to_dict(orient="records"):
        lines = [
            *_wrapped(str(row["institution"]), 20),
            f"manifest: {row['in manifest']:,}",
            f"no usable input: {row['in manifest'] - row['packed']:,}",
            *(f"{name}: {int(row[name]):,}" for name in inputs),
            f"target unknown: {row['packed'] - row['with target']:,}",
        ]
        of_site = exams[exams["institution"] == row["institution"]]
        known = of_site[of_site["target"].notna()]
        incomplete = int((~known["analysed"]).sum())
        if incomplete:
            lines.append(f"lacking an input: {incomplete:,}")
        known = known[known["analysed"]]
        splits = {name: known[known["split"] == split] for split, name in _SPLITS.items()}
        if (of_site["role"] == DEVELOPMENT).any():
            lines += [_counted(name, part, classed) for name, part in splits.items()]
        else:
            lines.append(_counted("tested", known, classed))
        boxes[str(row["institution"])] = lines
    return boxes


def _counted(name: str, exams: pd.DataFrame, classed: bool) -> str:
    return f"{name}: {len(exams):,}" + f" ({int((exams['target'] == 1).sum()):,}+)" * classed


def _reasons(left_out: pd.DataFrame) -> list[str]:
    """How many files were left out for each reason, the most frequent first."""
    if left_out.empty:
        return []
    reasons = left_out["reason"].astype(str)
    alike = reasons.map(lambda reason: re.sub(r"\d+(\.\d+)?", "0", reason))
    groups = reasons.groupby(alike, sort=False)
    ordered = sorted(groups, key=lambda group: -len(group[1]))
    lines: list[str] = []
    for _, group in ordered[:_REASONS]:
        differing = " (or alike)" if group.nunique() > 1 else ""
        lines += _wrapped(f"- {len(group):,} x {group.iloc[0]}{differing}", _WRAP)
    rest = ordered[_REASONS:]
    if rest:
        lines.append(f"- {sum(len(g) for _, g in rest):,} for {len(rest)} other reasons")
    return lines


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, max_lines=2, placeholder=" ...") or [""]


def _box(
    axes: Axes,
    x: float,
    y: float,
    width: float,
    lines: Sequence[str],
    *,
    bold: int = 0,
    height: float | None = None,
    size: float = 7.5,
) -> None:
    """Lines of text in a rectangle, the first `bold` of them bold."""
    tall = height or len(lines) * _LINE + 2 * _PAD
    axes.add_patch(
        Rectangle((x, y), width, tall, facecolor=_FILL if bold else "white", edgecolor=style.INK,
                  linewidth=0.6)
    )  # fmt: skip
    for number, line in enumerate(lines):
        axes.text(x + 2, y + _PAD + (number + 0.5) * _LINE, line, size=size, va="center",
                  weight="bold" if number < bold else "normal")  # fmt: skip


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=7, color=style.INK,
                        linewidth=0.7, shrinkA=0, shrinkB=0)
    )  # fmt: skip
