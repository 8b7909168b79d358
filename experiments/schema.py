"""What a launch's settings may be: their types and ranges, and which of them must fit together.

The names are those of the files in configs/. Nothing else is taken (`extra="forbid"`), and nothing
is turned into another type than it has, but for a whole number where a fraction may stand.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
    with_config,
)
from typing_extensions import TypedDict

STRICT = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def _text(value: object) -> object:
    """Hydra reads 101 as a number; where a name stands it is one."""
    return str(value) if type(value) is int else value


def _several(value: object) -> object:
    return [value] if isinstance(value, str) or type(value) is int else value


Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
OrNoLimit = Annotated[int, Field(ge=-1)]
Name = Annotated[str, BeforeValidator(_text)]
Names = Annotated[list[Name], BeforeValidator(_several)]
Targets = Annotated[Names, Field(min_length=1)]
Betas = Annotated[
    list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)
]  # AdamW's
Penalties = Annotated[list[NotNegative], Field(min_length=1)]
Range = Annotated[list[Positive], Field(min_length=2, max_length=2)]  # least and most
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Settings(BaseModel):
    """One group of settings: read-only, and of exactly these keys."""

    model_config = STRICT


class LVSD(Settings):
    lvef_below_percent: Annotated[float, Field(gt=0, le=100)]
    echo_within_days: NotNegative | None


class PH(Settings):
    pasp_at_least_mmhg: Positive
    tr_velocity_above_m_s: Positive
    echo_within_days: NotNegative | None


class BNP(Settings):
    marker: Literal["bnp_pg_ml", "nt_probnp_pg_ml"]
    age: bool
    sex: bool
    penalty: NotNegative


class Limits(Settings):
    """Recordings outside are refused."""

    min_seconds: Positive
    max_seconds: Positive
    min_sampling_rate_hz: Annotated[float, Field(ge=10)]
    max_sampling_rate_hz: Positive


class ECG(Settings):
    sampling_rate_hz: Annotated[int, Field(ge=10)]
    seconds: Annotated[int, Field(ge=2)]
    leads: Annotated[list[str], Field(min_length=1)] | None
    high_pass_hz: Positive | None
    low_pass_hz: Positive | None
    filter_order: Count
    normalisation: Literal["development", "exam", "none"]
    statistics_exams: Count
    limits: Limits

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.limits.min_seconds < self.seconds:
            raise ValueError(
                f"limits.min_seconds={self.limits.min_seconds:g}: recordings must be at least "
                f"as long as the network's input, ecg.seconds={self.seconds}"
            )
        return self


class Tokens(Settings):
    """What a Vision Transformer takes an ECG apart into: a class (`_target_`), which judges its own
    settings."""

    model_config = ConfigDict(**{**STRICT, "extra": "allow"})

    target: str = Field(alias="_target_")


class CXR(Settings):
    size: Annotated[int, Field(ge=32, le=4096)]


class Network(Settings):
    """A network's class (`_target_`), whose own its `settings` are to judge."""

    name: Name
    target: str = Field(alias="_target_")
    settings: dict[str, Any] = {}
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0


class Augmentation(Settings):
    """Of ECGs: datamodules.inputs.ecg.ECGAugmentation."""

    circular_shift: bool
    amplitude: Annotated[float, Field(ge=0, lt=1)]
    noise: NotNegative
    lead_dropout: Share
    high_pass_hz: Range | None = None
    low_pass_hz: Range | None = None


class FilmAugmentation(Settings):
    """Of chest X-rays: datamodules.inputs.cxr.CXRAugmentation."""

    rotation_degrees: Annotated[float, Field(ge=0, le=45)]
    shift: Annotated[float, Field(ge=0, lt=1)]
    scale: Annotated[float, Field(ge=0, lt=1)]
    brightness: Annotated[float, Field(ge=0, lt=1)]
    contrast: Annotated[float, Field(ge=0, lt=1)]


class Schedule(Settings):
    """How long, and how, anything is trained."""

    max_epochs: OrNoLimit
    max_steps: OrNoLimit
    validate_every_steps: Count
    batch_size: Count
    base_learning_rate: Positive
    betas: Betas
    weight_decay: NotNegative
    warmup_fraction: Share
    gradient_clip: Positive | None

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if self.max_steps < 1 and self.max_epochs < 1:
            raise ValueError("give max_steps or max_epochs: without either, training never ends")
        return self


class Decoder(Settings):
    width: Count
    depth: Count
    heads: Count


class Pretrain(Schedule):
    """A pretraining's class (`_target_`), the input that it learns from, and its own settings."""

    model_config = ConfigDict(**{**STRICT, "extra": "allow"})

    target: str = Field(alias="_target_")
    input: Name
    augmentation: dict[str, Any] = {}


class PretrainMAE(Schedule):
    """lightning_modules.pretraining.masked_autoencoder.MaskedAutoencoder."""

    target: str = Field(alias="_target_")
    input: Name
    mask_ratio: Annotated[float, Field(gt=0, lt=1)]
    masking: Literal["random", "time", "lead", "mixed"]
    normalise_targets: bool
    decoder: Decoder
    augmentation: Augmentation
    plateau_explained_variance: float


class PretrainOverTime(Schedule):
    """lightning_modules.pretraining.over_time.OverTime: what all such pretrainings have."""

    target: str = Field(alias="_target_")
    input: Name
    rate_hz: Positive
    augmentation: Augmentation
    collapse_spread: Share


class PretrainBeatContrast(PretrainOverTime):
    """lightning_modules.pretraining.beat_contrast.BeatContrast."""

    waves_seconds: Annotated[list[float], Field(min_length=2)]
    shift_seconds: NotNegative
    variates: Count
    ridge: NotNegative
    temperature: Positive
    projection: Annotated[list[Count], Field(min_length=2, max_length=2)]
    contrast: NotNegative
    beside: NotNegative
    plateau_explained: float


class PretrainCPC(PretrainOverTime):
    """lightning_modules.pretraining.contrastive_predictive_coding.ContrastivePredictiveCoding."""

    piece_seconds: Positive
    ahead: Count
    least_seen: Annotated[float, Field(gt=0, lt=1)]
    temperature: Positive
    width: Count
    plateau_found: Share


class PretrainLatentPrediction(PretrainOverTime):
    """lightning_modules.pretraining.latent_prediction.LatentPrediction."""

    span_seconds: Positive
    mask_ratio: Annotated[float, Field(gt=0, lt=1)]
    teacher_momentum: Share
    predictor: Decoder
    plateau_latents_explained: float


PRETRAININGS = {
    "MaskedAutoencoder",
    "BeatContrast",
    "ContrastivePredictiveCoding",
    "LatentPrediction",
}


def _which_pretraining(values: Any) -> str:
    target = values.get("_target_", "") if isinstance(values, dict) else values.target
    package, _, name = target.rpartition(".")
    ours = package.startswith("lightning_modules.") and name in PRETRAININGS
    return name if ours else "another"


class Supervised(Schedule):
    """`from_pretrained`: what is otherwise for models that start from something pretrained."""

    frozen_encoder: bool
    balance_classes: bool
    head_penalties: Penalties | None
    patience: Count | None
    from_pretrained: "OwnFinetune"


class FilmFinetune(Supervised):
    augmentation: FilmAugmentation


class Finetune(Supervised):
    augmentation: Augmentation


@with_config(STRICT)
class OwnFinetune(TypedDict, total=False):
    """What one model of a study does otherwise than the recipe of its input says."""

    frozen_encoder: bool
    balance_classes: bool
    penalty: NotNegative
    head_penalties: Penalties | None
    max_epochs: OrNoLimit
    max_steps: OrNoLimit
    validate_every_steps: Count
    patience: Count | None
    batch_size: Count
    base_learning_rate: Positive
    betas: Betas
    weight_decay: NotNegative
    warmup_fraction: Share
    gradient_clip: Positive | None
    augmentation: dict[str, Any]


class Model(Settings):
    """One of a study's models."""

    classifier: str = "lightning_modules.classifier.Classifier"
    input: Name = "ecg"
    network: Network | None = None
    pretrained: bool = False
    finetune: OwnFinetune = {}


class Fusion(Settings):
    name: Name
    folds: Annotated[int, Field(ge=2, le=100)]
    widths: Annotated[list[Count], Field(min_length=2, max_length=2)]
    modality_dropout: Annotated[float, Field(ge=0, le=0.95)]
    max_epochs: Count
    patience: Count
    batch_size: Count
    base_learning_rate: Annotated[float, Field(ge=1e-6)]
    betas: Betas
    weight_decay: NotNegative
    warmup_fraction: Share
    stacking_penalty: Annotated[float, Field(ge=1e-6)]


class Population(Settings):
    """experiments.evaluation.simulated_readers.ReaderPopulation, without the trust."""

    skill: Share
    skill_sd: NotNegative
    criterion_sd: NotNegative
    trust_sd: NotNegative
    shared: Share
    repeated: Share


class SimulatedReaders(Settings):
    readers: Count
    cases: Count
    prevalence: Share | None
    accuracy_with: Share
    answers: Literal["probability", "yes/no"]
    population: Population


class Readers(Settings):
    table: str | None
    threshold: Annotated[float, Field(ge=0.001, le=1)]
    wanted_gain: Annotated[float, Field(ge=0.001, le=0.5)]
    wanted_power: Annotated[float, Field(ge=0.05, le=0.999)]
    planned: Annotated[list[Count], Field(min_length=1)]
    max_cases: Annotated[int, Field(ge=2)]
    simulated: SimulatedReaders


class Splits(Settings):
    """Shares of a development institution's patients, or the column that has their splits."""

    train: Share
    val: Share
    test: Share
    column: Name | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if abs(self.train + self.val + self.test - 1) > 1e-9:
            told = f"train {self.train:g}, val {self.val:g}, test {self.test:g}"
            raise ValueError(f"the shares ({told}) must sum to 1")
        return self

    @property
    def shares(self) -> dict[str, float]:
        return {"train": self.train, "val": self.val, "test": self.test}


class Statistics(Settings):
    confidence: Annotated[float, Field(ge=0.5, le=0.999)]
    resamples: Annotated[int, Field(ge=20)]
    report_resamples: Annotated[int, Field(ge=20)]
    sensitivity: Annotated[float, Field(ge=0.01, le=1)]
    partial_auroc_from: Annotated[float, Field(ge=0.01, le=0.99)]
    age_edges: Annotated[list[float], Field(min_length=1)]
    subgroups: Names
    decision_thresholds: Annotated[list[float], Field(min_length=3, max_length=3)]
    truth_thresholds: dict[Name, list[Annotated[float, Field(allow_inf_nan=False)]]]
    thresholds: dict[Name, Share]
    label_sections: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if any(low >= high for low, high in pairwise(self.age_edges)):
            raise ValueError(f"age_edges={_shown(self.age_edges)}: give ages in rising order")
        low, high, step = self.decision_thresholds
        if not (0 < low < high < 1 and 0 < step < 1):
            raise ValueError(
                f"decision_thresholds={_shown(self.decision_thresholds)}: give the lowest, the "
                "highest and the step, all between 0 and 1"
            )
        for label, thresholds in self.truth_thresholds.items():
            if len(set(thresholds)) < len(thresholds):
                raise ValueError(
                    f"truth_thresholds: {label} has {_shown(thresholds)}; name each number once"
                )
        for column in self.subgroups:
            if column in TAKEN:
                raise ValueError(f"subgroups: {column} can't be a further subgroup")
        return self


# Columns of the predictions, and those by which the report groups anyway.
TAKEN = {"institution", "exam_id", "patient_id", "split", "target", "age_years", "age", "sex"} | {
    "model",
    "label",
    "logit",
    "probability",
    "truth",
    "estimate",
}


class Trainer(Settings):
    """Lightning's, but for the last two."""

    accelerator: str
    devices: Any  # auto, a number, a list of them: Lightning's to judge
    num_nodes: Count
    strategy: str
    # Lightning's `*-true` train weights of half precision, which a loss in float32 can't meet.
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    log_every_n_steps: Count
    loading_workers: Annotated[int, Field(ge=0)]
    test_batch_size: Count


class TrackingSettings(Settings):
    uri: str
    artifacts: str


class Cohort(Settings):
    """What every source of exams has."""

    root: str
    development: Names | None
    external: Names | None
    on_error: Literal["fail", "skip"]


@with_config(STRICT)
class SimulatedInstitution(TypedDict, total=False):
    """datamodules.simulation.institutions.Institution, which knows the ranges."""

    exams: int
    repeat_fraction: float
    echo_fraction: float
    lvsd_prevalence: float
    pulmonary_pressure_mmhg: float
    age_mean_years: float
    age_sd_years: float
    female_fraction: float
    tr_missing_fraction: float
    bnp_missing_fraction: float
    cxr_missing_fraction: float
    seconds: int
    sampling_rate_hz: int
    units_per_mv: float
    baseline: int
    leads: list[str]
    high_pass_hz: float
    low_pass_hz: float
    mains_hz: float
    mains_mv: float
    baseline_wander_mv: float
    muscle_mv: float
    chest_xrays: bool
    ap_fraction: float
    film_height_px: list[int]
    photometric_interpretation: str
    transfer_syntax: str


class SimulatedCohort(Cohort):
    source: Literal["simulated"]
    seed: Seed
    every_institution: SimulatedInstitution
    institutions: dict[str, SimulatedInstitution]


class ManifestCohort(Cohort):
    source: Literal["manifests"]


class PublicCohort(Cohort):
    source: Literal["public"]
    sources: dict[str, dict[str, Any]]  # datamodules.public's to judge
    codes: dict[str, Any] = {}
    findings: dict[str, Any] = {}


class PTBXLCohort(Cohort):
    source: Literal["ptbxl"]
    sampling_rate_hz: int  # datamodules.public.ptbxl's to judge, as are the labels
    asked: Names


class Published(Settings):
    """A published result, the macro AUROC of a model for a target, to stand beside a study's."""

    target: Name
    model: Name
    auroc: Share
    source: str


class Config(Settings):
    """The settings of one launch."""

    study: Name
    protocol: str
    seed: Seed
    target: Targets
    lvsd: LVSD
    ph: PH
    inputs: dict[Name, dict[str, Any]]
    recipes: dict[Name, dict[str, Any]]
    task: dict[str, Any]
    bnp: BNP
    ecg: ECG
    tokens: Tokens
    cxr: CXR
    cohort: Annotated[
        SimulatedCohort | ManifestCohort | PublicCohort | PTBXLCohort,
        Field(discriminator="source"),
    ]
    splits: Splits
    labels: Count | None
    sweep: dict[str, Annotated[list[str | int | float | bool | None], Field(min_length=1)]]
    network: Network
    baseline: Network
    cxr_network: Network
    models: dict[Name, Model]
    pretrain: Annotated[
        Annotated[PretrainMAE, Tag("MaskedAutoencoder")]
        | Annotated[PretrainBeatContrast, Tag("BeatContrast")]
        | Annotated[PretrainCPC, Tag("ContrastivePredictiveCoding")]
        | Annotated[PretrainLatentPrediction, Tag("LatentPrediction")]
        | Annotated[Pretrain, Tag("another")],
        Discriminator(_which_pretraining),
    ]
    fold_pretrain_steps: OrNoLimit
    finetune: Finetune
    cxr_finetune: FilmFinetune
    fusion: Fusion | None
    readers: Readers | None
    predictions: Names
    published: list[Published] = []
    folds: Names | None
    statistics: Statistics
    trainer: Trainer
    tracking: TrackingSettings
    cache: str
    workers: Count | None

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        twice = sorted({label for label in self.target if self.target.count(label) > 1})
        if twice:
            raise ValueError(f"target: {', '.join(twice)} is named twice")
        if self.protocol == "leave_site_out" and self.folds == []:
            raise ValueError("folds=[]: name the institutions to hold out, or leave it out for all")
        if self.statistics.subgroups and not self.models:
            raise ValueError(
                f"statistics.subgroups={_shown(self.statistics.subgroups)}: these are columns of "
                "the manifests, and predictions that are handed in come without. Leave it out"
            )
        return self


def _shown(values: Sequence[object]) -> str:
    shown = (f"{value:g}" if isinstance(value, float) else str(value) for value in values)
    return f"[{','.join(shown)}]"
