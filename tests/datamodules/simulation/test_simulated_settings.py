import json

import pytest

from datamodules.errors import InputError
from datamodules.simulation import simulate_cohort, with_common
from datamodules.simulation.institutions import read_institutions


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("exams", -5, "exams = -5"),
        ("exams", 10.5, "not a whole number"),
        ("exams", float("inf"), "exams = inf is not between"),
        ("seconds", float("nan"), "seconds = nan is not between"),
        ("lvsd_prevalence", 1.4, "lvsd_prevalence = 1.4"),
        ("lvsd_prevalence", float("nan"), "lvsd_prevalence = nan"),
        ("echo_fraction", "most", "not a number"),
        ("sampling_rate_hz", 257.5, "not a whole number"),
        ("sampling_rate_hz", True, "not a number"),
        ("low_pass_hz", 130, "not below half of sampling_rate_hz"),
        ("units_per_mv", 0, "units_per_mv = 0"),
        ("leads", ["I", "II"], "each of the twelve leads once"),
        ("leads", "standard", "not a list"),
        ("sampling_rate", 500, "did you mean sampling_rate_hz?"),
        ("chest_xrays", "sometimes", "chest_xrays = 'sometimes' is not true or false"),
        ("photometric_interpretation", "RGB", "is not MONOCHROME1 or MONOCHROME2"),
        ("transfer_syntax", "JPEG", "is not ExplicitVRLittleEndian or RLELossless"),
        ("film_height_px", 300, "the least and the most height"),
        ("film_height_px", [320, 300], "the least and the most height"),
        ("film_height_px", [20, 300], "between 100 and 4000"),
        ("ap_fraction", 2, "ap_fraction = 2"),
    ],
)
def test_a_bad_setting_is_named_with_its_institution(institutions, key, value, said):
    institutions["brindlefen"][key] = value
    with pytest.raises(InputError) as caught:
        read_institutions(institutions)
    assert "brindlefen." in str(caught.value)
    assert said in str(caught.value)
    assert "quillhaven" not in str(caught.value)


def test_a_missing_setting_and_a_bad_name_are_told_together(institutions):
    del institutions["brindlefen"]["mains_hz"]
    institutions["St. Elsewhere"] = institutions[7] = institutions["quillhaven"]
    with pytest.raises(
        InputError, match=r"(?s)brindlefen.mains_hz is missing.*St. Elsewhere.*7 is no inst"
    ):
        read_institutions(institutions)


def test_no_institution_is_refused():
    with pytest.raises(InputError, match="at least one"):
        read_institutions({})


def test_an_institutions_own_setting_goes_before_the_common_one():
    common = {"exams": 1, "baseline": 2}
    merged = with_common(common, {"a": {"exams": 3}, "b": {}, "c": None})
    assert merged == {"a": {"exams": 3, "baseline": 2}, "b": common, "c": common}


@pytest.mark.parametrize("own", [400, "quillhaven", [], 0])
def test_an_institution_that_is_no_settings(own):
    with pytest.raises(InputError, match=r"cohort.institutions.a = .* not an institution's sett"):
        with_common({"exams": 1}, {"a": own})


def test_seed_below_zero_is_refused(small, tmp_path):
    with pytest.raises(InputError, match="seed = -1"):
        simulate_cohort(small, tmp_path, seed=-1, workers=1)


def test_the_default_institutions_differ_in_their_devices_and_patients(institutions):
    checked = read_institutions(institutions)
    assert len(checked) == 7
    for key in ("lvsd_prevalence", "sampling_rate_hz", "units_per_mv", "leads", "baseline"):
        assert len({getattr(settings, key) for settings in checked.values()}) >= 3, key
    assert {settings.mains_hz for settings in checked.values()} == {50, 60}
    assert json.dumps(institutions)  # plain values


def test_the_institutions_of_the_ph_study_differ_in_their_films(ph_institutions):
    checked = read_institutions(ph_institutions)
    assert len(checked) == 7
    assert all(settings.chest_xrays for settings in checked.values())
    assert {name: s.exams for name, s in checked.items() if s.exams != 300} == {
        "quillhaven": 900,
        "ambervault": 900,
    }
    settings = checked.values()
    assert {s.photometric_interpretation for s in settings} == {"MONOCHROME1", "MONOCHROME2"}
    assert {s.transfer_syntax for s in settings} == {"ExplicitVRLittleEndian", "RLELossless"}
    for key in ("film_height_px", "cxr_missing_fraction", "bnp_missing_fraction"):
        assert len({getattr(s, key) for s in settings}) >= 3, key


def test_without_being_asked_no_films_are_written(institutions):
    assert not any(settings.chest_xrays for settings in read_institutions(institutions).values())
