"""12-lead ECGs on standard paper: 1 mm and 5 mm lines, 25 mm/s and 10 mm/mV, true to scale."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from datamodules.recordings import LEADS
from experiments.figures import style
from lightning_modules.pretraining.pretraining import Sheet

MM_PER_SECOND = 25.0
MM_PER_MV = 10.0

# Sheet layout in mm: limb leads in the left column, chest leads in the right one, 6 rows.
_ROWS = 6
_ROW = 20.0
_EDGE = 5.0  # paper above the first and below the last row's strip
_MARGIN = 25.0  # paper left of the first column, for calibration pulses and lead names
_GAP = 10.0  # between the columns, for lead names, and right of the last
_BORDER = 6.0  # white around the sheets
_TITLE = 9.0  # white above a sheet, for its title
_HEADER = 13.0  # white above all sheets
_FOOTER = 8.0

_PAPER = "#fff7f5"
_FINE = "#f7d9d4"
_COARSE = "#eaa9a0"
_TRACE = "#111111"
_RECONSTRUCTED = "#0a5fd9"
_ORIGINAL_BEHIND = "#9c9c9c"
_HIDDEN = "#cfcfcf"
# Colour and width of a pretraining's signals; others are drawn as recorded ones.
_TRACES = {"hidden": (_ORIGINAL_BEHIND, 0.7), "reconstruction": (_RECONSTRUCTED, 1.3)}


def ecg_figure(ecg_mv: NDArray[np.floating], sampling_rate_hz: float, title: str) -> Figure:
    """One ECG [12, T] in mV, leads in standard order, each drawn about its median."""
    ecg_mv = _checked(ecg_mv)
    seconds = ecg_mv.shape[1] / sampling_rate_hz
    with style.look():
        figure, (sheet,) = _sheets([title], seconds, "")
        _draw_traces(sheet, _about(ecg_mv, ecg_mv), sampling_rate_hz, "ecg", _TRACE, 0.8)
    return figure


def sheets_figure(
    sheets: Sequence[Sheet], sampling_rate_hz: float, title: str, leads: Sequence[str] = LEADS
) -> Figure:
    """What a pretraining makes of an ECG: sheets of signals in mV, one below the other.

    Signals are [leads, T]; each lead stands where it does on a sheet of twelve, and is drawn about
    the median of the first sheet's first signal. Traces carry gids "original-V1",
    "visible-V1", "reconstruction-V1"... by the signals' names.
    """
    first = _checked(next(iter(sheets[0].signals.values())), leads)
    seconds = first.shape[1] / sampling_rate_hz
    with style.look():
        figure, papers = _sheets([sheet.title for sheet in sheets], seconds, title)
        for paper, sheet in zip(papers, sheets, strict=True):
            if sheet.hidden is not None:
                _shade_hidden(paper, ~sheet.hidden, sampling_rate_hz, leads)
            for name, signal in sheet.signals.items():
                if signal.shape != first.shape:
                    raise ValueError(f"{name} {signal.shape} is not like {first.shape}")
                colour, width = _TRACES.get(name, (_TRACE, 0.8))
                drawn = _about(_checked(signal, leads), first)
                _draw_traces(paper, drawn, sampling_rate_hz, name, colour, width, leads)
    return figure


def _checked(ecg_mv: NDArray[np.floating], leads: Sequence[str] = LEADS) -> NDArray[np.float64]:
    ecg = np.asarray(ecg_mv, dtype=np.float64)
    if ecg.ndim != 2 or len(ecg) != len(leads):
        raise ValueError(f"an ECG is [{len(leads)}, T], this is {ecg.shape}")
    return ecg


def _about(ecg_mv: NDArray[np.floating], reference: NDArray[np.floating]) -> NDArray[np.float64]:
    """An electrode's offset says nothing and would push a trace out of its row."""
    return np.asarray(ecg_mv - np.median(reference, axis=1, keepdims=True))


def _sheets(titles: list[str], seconds: float, title: str) -> tuple[Figure, list[Axes]]:
    """A figure with a sheet of paper a title, one below the other; data units are mm of paper."""
    strip = seconds * MM_PER_SECOND
    width, height = _MARGIN + 2 * (strip + _GAP), 2 * _EDGE + _ROWS * _ROW
    pitch = height + _TITLE
    total_width = width + 2 * _BORDER
    total_height = _FOOTER + len(titles) * pitch + (_HEADER if title else 0)
    figure = style.new_figure(total_width, total_height, dpi=130)
    if title:
        figure.text(
            _BORDER / total_width, 1 - 6 / total_height, title, size=16, weight="bold", va="center"
        )
    told = f"{MM_PER_SECOND:g} mm/s   {MM_PER_MV:g} mm/mV   pulse: 1 mV, 0.2 s   "
    told += "small square: 0.04 s, 0.1 mV"
    figure.text(1 - _BORDER / total_width, _FOOTER / 2 / total_height, told, size=12, ha="right",
                va="center")  # fmt: skip
    sheets = []
    for number, name in enumerate(titles):
        bottom = _FOOTER + (len(titles) - 1 - number) * pitch
        sheet = style.axes_mm(figure, _BORDER, bottom, width, height)
        sheet.set(xlim=(0, width), ylim=(0, height), xticks=[], yticks=[], facecolor=_PAPER)
        for spine in sheet.spines.values():
            spine.set(visible=True, color=_COARSE, linewidth=0.8)
        sheet.text(0, height + 2, name, size=13, weight="bold", va="bottom")
        _rule(sheet, width, height)
        _letter(sheet, strip)
        sheets.append(sheet)
    return figure, sheets


def _rule(sheet: Axes, width: float, height: float) -> None:
    for every, colour, thickness, gid in ((1, _FINE, 0.35, "1 mm"), (5, _COARSE, 0.6, "5 mm")):
        lines = [[(x, 0.0), (x, height)] for x in np.arange(0, width + 1e-9, every)]
        lines += [[(0.0, y), (width, y)] for y in np.arange(0, height + 1e-9, every)]
        sheet.add_collection(
            LineCollection(lines, colors=colour, linewidths=thickness, gid=gid, zorder=0.5)
        )


def _letter(sheet: Axes, strip: float) -> None:
    """Lead names and calibration pulses (1 mV for 0.2 s)."""
    for number, lead in enumerate(LEADS):
        x, y = _origin(number, strip)
        sheet.text(x - 1, y, lead, size=11, weight="bold", ha="right", va="center", zorder=4)
    pulse_s = np.array([0, 0.1, 0.1, 0.3, 0.3, 0.4]) * MM_PER_SECOND
    pulse_mv = np.array([0, 0, 1, 1, 0, 0]) * MM_PER_MV
    for row in range(_ROWS):
        _, y = _origin(row, strip)
        sheet.plot(2.5 + pulse_s, y + pulse_mv, color=_TRACE, linewidth=0.8, gid="calibration")


def _origin(number: int, strip: float) -> tuple[float, float]:
    """Where 0 s and 0 mV of a lead stand on its sheet, in mm."""
    column, row = divmod(number, _ROWS)
    return _MARGIN + column * (strip + _GAP), _EDGE + (_ROWS - row - 0.5) * _ROW


def _draw_traces(
    sheet: Axes,
    ecg_mv: NDArray[np.floating],
    sampling_rate_hz: float,
    name: str,
    colour: str,
    width: float,
    leads: Sequence[str] = LEADS,
) -> None:
    time_mm = np.arange(ecg_mv.shape[1]) / sampling_rate_hz * MM_PER_SECOND
    strip = ecg_mv.shape[1] / sampling_rate_hz * MM_PER_SECOND
    for number, lead in enumerate(leads):
        x, y = _origin(LEADS.index(lead), strip)
        sheet.plot(x + time_mm, y + ecg_mv[number] * MM_PER_MV, color=colour, linewidth=width,
                   solid_joinstyle="round", gid=f"{name}-{lead}")  # fmt: skip


def _shade_hidden(
    sheet: Axes, visible: NDArray[np.bool_], sampling_rate_hz: float, leads: Sequence[str]
) -> None:
    strip = visible.shape[1] / sampling_rate_hz * MM_PER_SECOND
    for number, lead in enumerate(leads):
        x, y = _origin(LEADS.index(lead), strip)
        edges = np.flatnonzero(np.diff(visible[number], prepend=True, append=True))
        for start, stop in edges.reshape(-1, 2) / sampling_rate_hz * MM_PER_SECOND:
            corner = (x + start, y - 0.45 * _ROW)
            hidden = Rectangle(corner, stop - start, 0.9 * _ROW, facecolor=_HIDDEN,
                               edgecolor="none", zorder=1, gid=f"hidden-{lead}")  # fmt: skip
            sheet.add_patch(hidden)
