import tracemalloc

import numpy as np
import pandas as pd
import pydicom
import pytest
import wfdb

from datamodules.errors import InputError
from datamodules.manifest import read_manifest, target_of
from datamodules.radiographs import read_radiograph
from datamodules.recordings import LEADS, read_recording
from datamodules.simulation import cohort, simulate_cohort


def files(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def sized(institutions, exams, **changes):
    return {name: own | {"exams": exams} | changes for name, own in institutions.items()}


@pytest.fixture
def calls(monkeypatch):
    """Counts the ECGs that are simulated in this process."""
    made = []

    def counted(*arguments):
        made.append(1)
        return original(*arguments)

    original = cohort.simulate_ecg
    monkeypatch.setattr(cohort, "simulate_ecg", counted)
    return made


@pytest.fixture
def whole(institutions, tmp_path):
    """The seven institutions, eight exams each."""
    simulate_cohort(sized(institutions, 8), tmp_path, seed=7, workers=1)
    return tmp_path


def test_wfdb_reads_every_institutions_files_and_the_lead_identities_hold(whole, institutions):
    for name, settings in institutions.items():
        table = pd.read_csv(whole / f"{name}.csv")
        assert len(table) == 8
        for path in table["ecg_path"]:
            record = wfdb.rdrecord(str((whole / path).with_suffix("")), physical=False)
            assert record.fs == settings["sampling_rate_hz"]
            assert record.sig_name == settings["leads"]
            assert record.adc_gain == [settings["units_per_mv"]] * 12
            assert record.baseline == [settings["baseline"]] * 12
            assert record.units == ["mV"] * 12
            assert record.d_signal.shape == (settings["sampling_rate_hz"] * 10, 12)
            assert record.init_value == record.d_signal[0].tolist()
            assert record.checksum == (record.d_signal.sum(axis=0) % 65536).tolist()
            units = dict(
                zip(
                    [lead.upper() for lead in record.sig_name],
                    record.d_signal.astype(int).T - settings["baseline"],
                    strict=True,
                )
            )
            one, two = units["I"], units["II"]
            assert abs(units["III"] - (two - one)).max() <= 1
            assert abs(units["AVR"] + (one + two) / 2).max() <= 1
            assert abs(units["AVL"] - (one - two / 2)).max() <= 1.25
            assert abs(units["AVF"] - (two - one / 2)).max() <= 1.25
            for lead, values in units.items():
                assert 0.1 < np.ptp(values) / settings["units_per_mv"] < 12, lead


def test_the_ordinary_path_reads_the_cohort(whole, institutions):
    for name in institutions:
        table = read_manifest(whole / f"{name}.csv", needs=["ecg_path", "lvef_percent"])
        assert set(table["institution"]) == {name}
        recording = read_recording(whole / table["ecg_path"].iloc[0])
        path = str((whole / table["ecg_path"].iloc[0]).with_suffix(""))
        record = wfdb.rdrecord(path)
        spelled = {lead.upper(): i for i, lead in enumerate(record.sig_name)}
        expected = record.p_signal.T[[spelled[lead.upper()] for lead in LEADS]]
        assert np.array_equal(recording.signal_mv, expected)


def test_manifest_columns_ids_and_x_ray_parameters(whole, institutions):
    tables = {name: pd.read_csv(whole / f"{name}.csv") for name in institutions}
    every = pd.concat(tables.values())
    assert list(every.columns) == list(cohort._MANIFEST)
    assert every["exam_id"].is_unique
    owner = every.groupby("patient_id")["institution"].nunique()
    assert (owner == 1).all()
    echo = every["lvef_percent"].notna()
    assert (every["echo_time"].notna() == echo).all()
    assert (every.loc[~echo, ["tr_velocity_m_s", "pasp_mmhg"]].isna()).all(axis=None)
    for name, table in tables.items():
        films = pd.read_csv(whole / name / "cxr_parameters.csv")
        assert set(films["exam_id"]) <= set(table["exam_id"])
        assert films["cardiothoracic_ratio"].between(0.3, 0.75).all()
        assert table["cxr_path"].isna().all()
        assert not (whole / name / "cxr").exists()


@pytest.mark.parametrize(
    ("pasp", "velocity"), [(45, 2.8), (45, 3.0), (45, 2.5), (35, 2.8), (60, 3.4)]
)
def test_ph_is_judged_by_whatever_rule_is_asked_for(whole, institutions, pasp, velocity):
    """Nothing in the manifest is judged by a rule of its own, which another would contradict."""
    rule = {
        "pasp_at_least_mmhg": pasp,
        "tr_velocity_above_m_s": velocity,
        "echo_within_days": None,
    }
    for name in institutions:
        table = read_manifest(whole / f"{name}.csv")
        high = (table["pasp_mmhg"] >= pasp) | (table["tr_velocity_m_s"] > velocity)
        expected = high.astype(float).where(table["pasp_mmhg"].notna())
        found = target_of(table, "ph", lvsd={}, ph=rule)
        np.testing.assert_array_equal(found, expected)


def test_films_are_written_beside_and_change_nothing_else(ph_institutions, tmp_path):
    name = "nettlewick"
    short = {"exams": 12, "seconds": 1}
    settings = {name: ph_institutions[name] | short}
    for folder, films in (("with", True), ("without", False)):
        chosen = {name: settings[name] | {"chest_xrays": films}}
        simulate_cohort(chosen, tmp_path / folder, seed=7, workers=1)
    tables = [pd.read_csv(tmp_path / folder / f"{name}.csv") for folder in ("with", "without")]
    assert tables[0].drop(columns="cxr_path").equals(tables[1].drop(columns="cxr_path"))
    some, more = files(tmp_path / "without"), files(tmp_path / "with")
    assert some.keys() < more.keys()
    assert {path for path in some if some[path] != more[path]} == {
        f"{name}.csv",
        f"{name}/settings.json",
    }

    findings = pd.read_csv(tmp_path / "with" / name / "cxr_parameters.csv")
    table = read_manifest(tmp_path / "with" / f"{name}.csv", needs=["ecg_path"])
    filmed = table[table["cxr_path"].notna()]
    assert 0 < len(filmed) < len(table)
    assert filmed["exam_id"].tolist() == findings["exam_id"].tolist()
    films = {path for path in more if path.endswith(".dcm")}
    assert films == set(filmed["cxr_path"])
    low, high = settings[name]["film_height_px"]
    for exam in filmed.itertuples():
        image = pydicom.dcmread(tmp_path / "with" / exam.cxr_path)
        assert low <= image.Rows <= high
        assert image.PatientName == f"SIMULATED^{exam.exam_id}"
        assert image.PatientID == exam.patient_id
        assert image.PatientSex == exam.sex[0].upper()
        assert int(image.PatientAge[:3]) == exam.age_years
        assert image.StudyDate == exam.ecg_time.strftime("%Y%m%d")
        assert read_radiograph(tmp_path / "with" / exam.cxr_path).pixels.shape[0] == image.Rows
    assert filmed["cxr_path"].map(lambda path: more[path]).is_unique


def test_films_depend_on_neither_workers_nor_the_cohorts_size(small, tmp_path):
    small = sized(small, 140, chest_xrays=True, film_height_px=[100, 120], cxr_missing_fraction=0.5)
    for folder, workers in (("one", 1), ("two", 2)):
        simulate_cohort(small, tmp_path / folder, seed=1, workers=workers)
    whole = files(tmp_path / "one")
    assert whole == files(tmp_path / "two")
    simulate_cohort(sized(small, 20), tmp_path / "fewer", seed=1, workers=1)
    fewer = {path: data for path, data in files(tmp_path / "fewer").items() if "/cxr/" in path}
    assert fewer
    assert fewer.items() <= whole.items()


def test_modalities_are_missing_as_often_as_configured(ph_institutions, tmp_path):
    short = {"exams": 300, "seconds": 1, "repeat_fraction": 0, "chest_xrays": False}
    names = ("copperloch", "nettlewick", "larkspire")
    settings = {name: ph_institutions[name] | short for name in names}
    simulate_cohort(settings, tmp_path, seed=5, workers=1)
    missing = {"bnp": {}, "cxr": {}, "tr": {}}
    for name in names:
        table = pd.read_csv(tmp_path / f"{name}.csv")
        shown = pd.read_csv(tmp_path / name / "cxr_parameters.csv")
        with_echo = table[table["lvef_percent"].notna()]
        missing["bnp"][name] = table["bnp_pg_ml"].isna().mean()
        missing["cxr"][name] = 1 - len(shown) / len(table)
        missing["tr"][name] = with_echo["tr_velocity_m_s"].isna().mean()
        for modality, fraction in missing.items():
            expected = settings[name][f"{modality}_missing_fraction"]
            error = np.sqrt(expected * (1 - expected) / 260)
            assert fraction[name] == pytest.approx(expected, abs=3.5 * error), (name, modality)
    assert missing["bnp"]["nettlewick"] > missing["bnp"]["copperloch"] + 0.2
    assert missing["cxr"]["larkspire"] > missing["cxr"]["copperloch"] + 0.1


def test_echo_fraction_and_repeated_exams(small, tmp_path):
    simulate_cohort(
        sized(small, 400, echo_fraction=0.3, repeat_fraction=0.25), tmp_path, seed=0, workers=1
    )
    table = pd.read_csv(tmp_path / "hollowmarsh.csv")
    assert len(table) == 400
    assert table["lvef_percent"].notna().mean() == pytest.approx(0.3, abs=0.08)
    exams = table.groupby("patient_id").size()
    assert set(exams) == {1, 2, 3, 4}
    assert (exams > 1).mean() == pytest.approx(0.25, abs=0.08)


def test_a_larger_cohort_begins_with_the_same_exams(small, tmp_path):
    for exams in (47, 140):
        simulate_cohort(sized(small, exams), tmp_path / str(exams), seed=3, workers=1)
    shorter, longer = (
        (tmp_path / str(exams) / "hollowmarsh.csv").read_bytes() for exams in (47, 140)
    )
    assert longer.startswith(shorter)
    some, more = files(tmp_path / "47"), files(tmp_path / "140")
    ecgs = [path for path in some if "/ecg/" in path]
    assert len(ecgs) == 2 * 47
    assert all(some[path] == more[path] for path in ecgs)


def test_the_seed_and_the_name_decide_and_the_number_of_workers_does_not(small, tmp_path):
    small = sized(small, 150)
    small["glimmerwick"] = small["hollowmarsh"]
    for folder, seed, workers in (("one", 1, 1), ("two", 1, 2), ("other", 2, 1)):
        simulate_cohort(small, tmp_path / folder, seed=seed, workers=workers)
    one = files(tmp_path / "one")
    assert one == files(tmp_path / "two")
    assert one["hollowmarsh.csv"] != files(tmp_path / "other")["hollowmarsh.csv"]
    first = [
        one[f"{name}/ecg/000/{name}-p000000-e1.dat"] for name in ("hollowmarsh", "glimmerwick")
    ]
    assert first[0] != first[1]


def test_an_interrupted_run_shows_nothing_and_goes_on_where_it_stopped(
    small, tmp_path, monkeypatch, calls
):
    small = sized(small, 250)  # three chunks
    simulate_cohort(small, tmp_path / "straight", seed=1, workers=1)
    counted, made = cohort.simulate_ecg, []

    def stops(*arguments):
        made.append(1)
        if len(made) == 200:
            raise KeyboardInterrupt
        return counted(*arguments)

    root = tmp_path / "interrupted"
    monkeypatch.setattr(cohort, "simulate_ecg", stops)
    with pytest.raises(KeyboardInterrupt):
        simulate_cohort(small, root, seed=1, workers=1)
    assert [path.name for path in root.iterdir()] == ["hollowmarsh.partial"]

    monkeypatch.setattr(cohort, "simulate_ecg", counted)
    calls.clear()
    simulate_cohort(small, root, seed=1, workers=1)
    assert 50 <= len(calls) < 200
    assert files(root) == files(tmp_path / "straight")
    assert sorted(path.name for path in root.iterdir()) == ["hollowmarsh", "hollowmarsh.csv"]


def test_what_another_interrupted_run_left_is_not_mixed_in(small, tmp_path, monkeypatch):
    simulate_cohort(small, tmp_path / "straight", seed=1, workers=1)
    with monkeypatch.context() as patch:
        patch.setattr(cohort, "_publish", lambda *_: None)  # stopped just before
        simulate_cohort(small, tmp_path / "mixed", seed=2, workers=1)
    simulate_cohort(small, tmp_path / "mixed", seed=1, workers=1)
    assert files(tmp_path / "mixed") == files(tmp_path / "straight")


def test_stopped_while_the_institution_is_put_in_place(small, tmp_path, monkeypatch, calls):
    simulate_cohort(small, tmp_path / "straight", seed=1, workers=1)

    def stops(*_, **__):
        raise KeyboardInterrupt

    for number, step in enumerate(("copyfileobj", "rmtree")):
        root = tmp_path / str(number)
        with monkeypatch.context() as patch:
            patch.setattr(cohort.shutil, step, stops)
            with pytest.raises(KeyboardInterrupt):
                simulate_cohort(small, root, seed=1, workers=1)
        assert not (root / "hollowmarsh.csv").exists()
        calls.clear()
        simulate_cohort(small, root, seed=1, workers=1)
        assert files(root) == files(tmp_path / "straight")
        assert not calls


def test_a_lost_manifest_is_told(small, tmp_path):
    simulate_cohort(small, tmp_path, seed=1, workers=1)
    (tmp_path / "hollowmarsh.csv").unlink()
    with pytest.raises(InputError, match="hollowmarsh.csv is gone"):
        simulate_cohort(small, tmp_path, seed=1, workers=1)


def test_an_institution_that_is_there_is_reused_and_another_is_added(small, tmp_path, calls):
    simulate_cohort(small, tmp_path, seed=1, workers=1)
    before = files(tmp_path)
    calls.clear()
    simulate_cohort(small, tmp_path, seed=1, workers=1)
    assert not calls
    simulate_cohort(small | {"glimmerwick": small["hollowmarsh"]}, tmp_path, seed=1, workers=1)
    assert len(calls) == 30
    assert before.items() <= files(tmp_path).items()


@pytest.mark.parametrize("change", [{"exams": 31}, {"muscle_mv": 0.5}, "seed"])
def test_other_settings_never_overwrite(small, tmp_path, change):
    simulate_cohort(small, tmp_path, seed=1, workers=1)
    before = files(tmp_path)
    if change == "seed":
        other, seed = small, 2
    else:
        other, seed = {"hollowmarsh": small["hollowmarsh"] | change}, 1
    with pytest.raises(InputError, match=r"hollowmarsh: was not made with .* another cohort.root"):
        simulate_cohort(other, tmp_path, seed=seed, workers=1)
    assert files(tmp_path) == before


def test_a_hospitals_own_manifest_is_never_overwritten(small, tmp_path):
    (tmp_path / "hollowmarsh.csv").write_text("patient_id,exam_id\n1,2\n")
    with pytest.raises(InputError, match="not overwritten"):
        simulate_cohort(small, tmp_path, seed=1, workers=1)
    assert files(tmp_path) == {"hollowmarsh.csv": b"patient_id,exam_id\n1,2\n"}


def test_memory_does_not_grow_with_the_cohort(small, tmp_path):
    def peak(exams):
        tracemalloc.start()
        simulate_cohort(sized(small, exams), tmp_path / str(exams), seed=1, workers=1)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(20)
    assert peak(450) < 1.3 * peak(150)
