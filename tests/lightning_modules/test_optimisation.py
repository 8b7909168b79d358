import pytest

from lightning_modules.optimisation import warmup_cosine


def test_the_schedule_warms_up_then_follows_half_a_cosine() -> None:
    factors = [warmup_cosine(step, 10, 110) for step in range(111)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factors[10] == 1.0
    assert factors[60] == pytest.approx(0.5)
    assert factors[110] == pytest.approx(0, abs=1e-12)
    assert warmup_cosine(500, 10, 110) == pytest.approx(0, abs=1e-12)
