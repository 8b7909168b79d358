from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from datamodules.simulation import patients
from datamodules.simulation.institutions import read_institutions


@pytest.fixture
def settings(ph_institutions):
    return replace(
        read_institutions(ph_institutions)["quillhaven"],
        echo_fraction=1.0,
        bnp_missing_fraction=0.0,
    )


@pytest.fixture
def exams(settings):
    rng = np.random.default_rng(0)
    drawn = [patients.draw_patient(rng, settings, 1)[0] for _ in range(2500)]
    return pd.DataFrame(
        {
            "log_bnp": [np.log(exam.bnp_pg_ml) for exam in drawn],
            "lvef": [exam.lvef_percent for exam in drawn],
            "age": [exam.age_years for exam in drawn],
        }
    )


def test_bnp_is_log_normal_given_lvef_load_and_age(settings):
    rng = np.random.default_rng(1)
    for lvef, load, age in ((62.0, -0.5, 45), (35.0, 1.5, 80)):
        drawn = np.log(
            [
                patients._exam(
                    rng,
                    settings,
                    time=pd.Timestamp("2020-01-01"),
                    age=age,
                    male=True,
                    lvef=lvef,
                    load=load,
                    latents=np.zeros(len(patients.LATENTS)),
                ).bnp_pg_ml
                for _ in range(1500)
            ]
        )
        disease = np.log1p(np.exp((55 - lvef) / 8)) * 8 / 20
        mean = 3.5 + 1.3 * disease + 0.5 * load + 0.3 * (age - 60) / 10
        assert drawn.mean() == pytest.approx(mean, abs=4 * 0.9 / np.sqrt(1500))
        assert drawn.std() == pytest.approx(0.9, rel=0.08)
        skewness = ((drawn - drawn.mean()) ** 3).mean() / drawn.std() ** 3
        assert abs(skewness) < 4 * np.sqrt(6 / 1500)


def test_bnp_follows_the_usual_cut_offs(exams):
    """Heart failure is unlikely below 100 pg/mL and likely above 400 (ESC guideline, 2021)."""
    reduced = exams["lvef"] < 40
    above = exams["log_bnp"] > np.log(100)
    assert above[reduced].mean() > 0.8
    assert above[exams["lvef"] >= 55].mean() < 0.4
    assert 0.3 < (exams["log_bnp"] > np.log(400))[reduced].mean() < 0.75
    assert np.exp(exams["log_bnp"].max()) < 20_001


def per_decade(age, log_value):
    return 10 * np.polyfit(age, log_value, 1)[0]


def test_the_simulated_bnp_resembles_real_values(exams, real_data):
    eicu = pd.read_csv(real_data / "bnp" / "eicu_demo_bnp.csv")
    eicu = eicu.groupby("patientunitstayid").first()
    real = np.log(eicu["labresult"])
    failing = eicu["heart_failure"].astype(bool)
    mimic = pd.read_csv(real_data / "bnp" / "mimic3_demo_ntprobnp.csv").dropna(subset="HADM_ID")
    mimic = mimic.groupby("HADM_ID").first()
    by_failure = np.log(mimic["VALUE"]).groupby(mimic["hf_428"]).median()
    tongji = pd.read_csv(real_data / "bnp" / "tongji_covid_ntprobnp.csv")
    nt_probnp = "Amino-terminal brain natriuretic peptide precursor(NT-proBNP)"
    tongji = tongji.dropna(subset=nt_probnp).groupby("PATIENT_ID").first()

    simulated = exams["log_bnp"]
    reduced, normal = simulated[exams["lvef"] < 40], simulated[exams["lvef"] >= 50]
    # Intensive care's patients without heart failure are iller than those who come for an echo;
    # NT-proBNP is some four to eight times as high as BNP.
    assert np.exp(normal.median()) < np.exp(real[~failing].median())
    assert np.exp(reduced.median()) < np.exp(real[failing].median())
    assert np.exp(simulated.median()) == pytest.approx(
        np.exp(np.log(tongji[nt_probnp]).median()) / 5.5, rel=0.8
    )
    # Heart failure multiplies the median five times, give or take.
    for effect in (
        real[failing].median() - real[~failing].median(),
        by_failure[True] - by_failure[False],
    ):
        assert reduced.median() - normal.median() == pytest.approx(effect, abs=0.8)
    # Fewer diseases than in intensive care, so less spread, but of its kind.
    for spread, among in ((real[~failing].std(), normal), (real[failing].std(), reduced)):
        assert 0.5 * spread < among.std() < 1.2 * spread
    assert 0.5 * real.std() < simulated.std() < np.log(tongji[nt_probnp]).std()
    survived = tongji[tongji["outcome"] == 0]
    real_age = per_decade(survived["age"], np.log(survived[nt_probnp]))
    assert 0.3 * real_age < per_decade(exams["age"], simulated) < real_age
