"""target=ph: from the column, from the echo's measurements, and where the two disagree."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datamodules.errors import InputError
from datamodules.manifest import read_manifest, target_of

PH = {"pasp_at_least_mmhg": 45, "tr_velocity_above_m_s": 2.8, "echo_within_days": 90}
NAN = np.nan


def exams(**columns: list[object]) -> pd.DataFrame:
    table = pd.DataFrame(columns)
    table.index = pd.RangeIndex(2, len(table) + 2, name="line")
    return table.assign(institution="north")


def ph(table: pd.DataFrame, **changes: float | None) -> list[float]:
    return target_of(table, "ph", lvsd={}, ph=PH | changes).tolist()


def times(*texts: str | None) -> pd.DatetimeIndex:
    return pd.to_datetime(texts, format="ISO8601")


def test_either_measurement_above_its_threshold_is_ph() -> None:
    table = exams(
        pasp_mmhg=[45, 44.9, 60, 20, NAN, NAN, NAN, 44, 50],
        tr_velocity_m_s=[2.0, 2.9, 3.5, 2.8, 2.81, 2.8, NAN, NAN, NAN],
    )
    np.testing.assert_array_equal(ph(table), [1, 1, 1, 0, 1, 0, NAN, 0, 1])
    stricter = ph(table, pasp_at_least_mmhg=55, tr_velocity_above_m_s=3.4)
    np.testing.assert_array_equal(stricter, [0, 0, 1, 0, 0, 0, NAN, 0, 0])


def test_rounding_puts_nobody_over_a_threshold() -> None:
    assert 28 * 0.1 > 2.8
    assert float(np.float32(2.9)) > 2.9
    assert ph(exams(tr_velocity_m_s=[28 * 0.1, 2.8001])) == [0, 1]
    single = exams(tr_velocity_m_s=np.float32([2.9, 2.91]).astype(float).tolist())
    assert ph(single, tr_velocity_above_m_s=2.9) == [0, 1]
    bernoulli = 4 * np.sqrt(10) ** 2 + 5  # 45.00000000000001
    assert ph(exams(pasp_mmhg=[bernoulli, 45 - (bernoulli - 45), 44.99])) == [1, 1, 0]


def test_the_column_goes_before_the_measurements() -> None:
    table = exams(
        ph=[1.0, 0.0, NAN, NAN, NAN, 1.0],
        pasp_mmhg=[NAN, NAN, 50, 30, NAN, 30],
        tr_velocity_m_s=[NAN, NAN, NAN, NAN, NAN, 3.0],
    )
    np.testing.assert_array_equal(ph(table), [1, 0, 1, 0, NAN, 1])
    assert ph(exams(ph=[1.0, 0.0])) == [1, 0]


def test_an_echo_too_far_from_the_exam_says_nothing() -> None:
    table = exams(
        ph=[1.0, 1.0, 1.0, 1.0, NAN, NAN],
        pasp_mmhg=[50, 50, 50, 50, 50, 30],
        ecg_time=times(*["2024-01-01"] * 2, None, "2024-01-01", "2024-07-01", "2024-07-01"),
        echo_time=times("2024-03-31", "2024-04-01T00:01", "2024-07-01", None, *["2024-01-01"] * 2),
    )
    np.testing.assert_array_equal(ph(table), [1, NAN, 1, 1, NAN, NAN])
    assert ph(table, echo_within_days=None) == [1, 1, 1, 1, 1, 0]
    assert ph(table.drop(columns="ecg_time")) == [1, 1, 1, 1, 1, 0]


def test_a_column_that_contradicts_its_echo() -> None:
    table = exams(
        ph=[0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0],
        pasp_mmhg=[60, NAN, 30, 44, 30, 50, NAN],
        tr_velocity_m_s=[2.5, 3.25, NAN, 2.8, 2.5, 2.5, NAN],
    )
    with pytest.raises(InputError) as caught:
        ph(table)
    assert str(caught.value) == (
        "target=ph: 4 exams with a ph that contradicts its own echo values (PH is pasp_mmhg >= 45 "
        "or tr_velocity_m_s > 2.8):\n"
        "  north, line 2: ph 0, pasp_mmhg 60, tr_velocity_m_s 2.5\n"
        "  north, line 3: ph 0, pasp_mmhg empty, tr_velocity_m_s 3.25\n"
        "  north, line 4: ph 1, pasp_mmhg 30, tr_velocity_m_s empty\n"
        "  north, line 5: ph 1, pasp_mmhg 44, tr_velocity_m_s 2.8\n"
        "Mend these rows, or change ph.pasp_at_least_mmhg and ph.tr_velocity_above_m_s. If ph is "
        "the hospital's own diagnosis, give the column another name, say ph_diagnosed, and ask "
        "for target=ph_diagnosed."
    )
    renamed = table.rename(columns={"ph": "ph_diagnosed"})
    target = target_of(renamed, "ph_diagnosed", lvsd={}, ph=PH)
    assert target.tolist() == table["ph"].tolist()


def test_an_echo_that_does_not_count_contradicts_nothing() -> None:
    table = exams(
        ph=[0.0, 1.0],
        pasp_mmhg=[60, 60],
        ecg_time=times("2024-01-01", "2024-01-01"),
        echo_time=times("2024-06-01", "2024-01-01"),
    )
    np.testing.assert_array_equal(ph(table), [NAN, 1])
    with pytest.raises(InputError, match="1 exam with a ph that contradicts"):
        ph(table, echo_within_days=None)


def test_something_of_ph_is_needed() -> None:
    with pytest.raises(InputError) as caught:
        ph(exams(pasp=[30], lvef_percent=[50]))
    assert str(caught.value) == (
        "target=ph: north has none of the columns ph, pasp_mmhg, tr_velocity_m_s; one is needed. "
        "Columns here: pasp, lvef_percent, institution."
    )


def test_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "north.csv"
    path.write_text("patient_id,exam_id,tr_velocity_m_s,ph\n1,a,2.8,\n2,b,2.9,\n3,c,,\n4,d,,1\n")
    target = target_of(read_manifest(path), "ph", lvsd={}, ph=PH)
    np.testing.assert_array_equal(target, [0, 1, NAN, 1])
    assert (target.name, target.index.tolist()) == ("ph", [2, 3, 4, 5])
