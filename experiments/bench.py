"""Speed and memory, compared side by side in one run: `python -m experiments.bench NAME`.

NAME is `reading` (a recording, by whoever reads it), `evaluation` (statistics of 230,000 exams;
`evaluation exams=10000` for fewer; `evaluation labels=71 exams=2200` for the report of 71 labels of
2200 validation and 2200 test exams), `ptbxl` (that benchmark on a synthetic folder of its size, 1.2
GB of temporary files; `ptbxl records=1000` for fewer), `beats root=DIR` (R waves of the WFDB
records below DIR, against their annotated beats and other detectors) or `training` (steps of
pretraining and of fine-tuning on random signals; takes the overrides of `experiments.run`, such as
`scale=paper network=vit_huge trainer.precision=bf16-mixed`).
"""

import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.run import DONE, MISTAKE

SECONDS = 5.0  # each figure is a mean over so long


def reading() -> list[tuple[str, str]]:
    """Milliseconds a record of 12 x 5000: wfdb, our reader, and the store."""
    import numpy as np
    import pandas as pd
    import wfdb

    from datamodules.recordings import LEADS, RecordingLimits, read_recording
    from datamodules.recordings.packed import Signals, packed_signal
    from datamodules.store import pack

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        rng = np.random.default_rng(0)
        for i in range(64):
            wfdb.wrsamp(
                str(i), 500, ["mV"] * 12, list(LEADS), rng.normal(size=(5000, 12)) * 0.3,
                fmt=["16"] * 12, adc_gain=[1000.0] * 12, baseline=[0] * 12, write_dir=name,
            )  # fmt: skip
        exams = pd.DataFrame({"institution": "bench", "exam_id": [str(i) for i in range(64)]})
        exams["ecg_path"] = exams["exam_id"]
        signals = Signals(RecordingLimits(10, 10, 500, 500))
        store = pack(signals, exams, root, root / "store", workers=1, on_error="fail")

        def each(read: Callable[[int], object]) -> str:
            return f"{1000 * _seconds(lambda: [read(i) for i in range(64)]) / 64:.3f} ms"

        return [
            ("wfdb.rdsamp", each(lambda i: wfdb.rdsamp(str(root / str(i))))),
            ("read_recording", each(lambda i: read_recording(root / str(i)))),
            ("Store.read, as int16", each(lambda i: np.array(packed_signal(store, i)))),
            ("Store.read, as float32", each(lambda i: packed_signal(store, i).astype(np.float32))),
        ]


def evaluation(exams: int) -> list[tuple[str, str]]:
    """Seconds of DeLong's tests and of a clustered bootstrap, beside scikit-learn and MLstatkit."""
    import numpy as np
    import pandas as pd
    from sklearn.metrics import roc_auc_score

    from experiments.evaluation.auroc import auroc, auroc_interval
    from experiments.evaluation.comparison import compare
    from experiments.evaluation.summary import summarise

    models, institutions, resamples = 10, 7, 2000
    rng = np.random.default_rng(0)
    target = (rng.random(exams) < 0.1).astype(int)
    number = np.arange(exams)
    scores = 1.5 * target + rng.normal(size=(models, exams)) + rng.normal(size=exams)
    one_model = {
        "institution": np.char.add("site", (number % institutions).astype(str)),
        "split": "external",
        "patient_id": number.astype(str),
        "exam_id": number.astype(str),
        "target": target,
    }
    table = pd.concat(
        [
            pd.DataFrame(
                {"model": f"model{i}", **one_model, "logit": s, "probability": _sigmoid(s)}
            )
            for i, s in enumerate(scores)
        ],
        ignore_index=True,
    )
    patient = number // 2  # two exams each
    settings: dict[str, Any] = {"confidence": 0.95, "resamples": resamples, "seed": 0}
    at_one = number % institutions == 0
    of_one = table[table["institution"] == "site0"]

    def by_scikit_learn() -> None:
        for _ in range(10):
            drawn = rng.integers(exams, size=exams)
            roc_auc_score(target[drawn], scores[0][drawn])

    runs: dict[str, Callable[[], object]] = {
        f"DeLong, AUROCs of {models} models, {institutions} institutions": lambda: summarise(
            table, **settings
        ),
        f"DeLong, all pairs of {models} models, {institutions} institutions": lambda: compare(
            table, **settings
        ),
        f"clustered bootstrap, {resamples} resamples": lambda: auroc_interval(
            target, scores[0], patient, **settings
        ),
        "bootstrap by scikit-learn, 10 resamples": by_scikit_learn,
        "one AUROC": lambda: auroc(target, scores[0]),
        "one AUROC by scikit-learn": lambda: roc_auc_score(target, scores[0]),
        "DeLong, one pair, one institution": lambda: compare(
            of_one, pairs=[("model0", "model1")], **settings
        ),
    }
    try:
        from MLstatkit import Bootstrapping, Delong_test
    except ImportError:
        pass  # it comes with the tests' packages
    else:
        runs["DeLong by MLstatkit, one pair, one institution"] = lambda: Delong_test(
            target[at_one], *_sigmoid(scores[:2, at_one]), return_ci=False
        )
        runs["bootstrap by MLstatkit, 10 resamples"] = lambda: Bootstrapping(
            target, _sigmoid(scores[0]), "roc_auc", 10
        )
    figures = []
    for name, run in runs.items():
        begun = time.perf_counter()
        run()
        figures.append((name, f"{time.perf_counter() - begun:.2f} s"))
    return figures


def labels_report(labels: int, exams: int) -> list[tuple[str, str]]:
    """Seconds of the statistics and of the report of three models' predictions of many labels."""
    import numpy as np
    import pandas as pd

    from experiments.config import compose_config
    from experiments.figures.study import Study
    from experiments.stages.classification import Classification
    from experiments.stages.findings import Asked

    rng = np.random.default_rng(0)
    names = [f"label{i:02}" for i in range(labels)]
    of_label = []
    for name, share in zip(names, np.geomspace(0.4, 0.01, labels), strict=True):
        target = (rng.random(2 * exams) < share).astype(int)
        exam = np.arange(2 * exams).astype(str)
        split = np.repeat(["val", "test"], exams)
        for model in ("model0", "model1", "model2"):
            logit = 1.5 * target - 2 + rng.normal(size=2 * exams)
            of_label.append(
                pd.DataFrame(
                    {
                        "model": model, "label": name, "institution": "site", "split": split,
                        "patient_id": exam, "exam_id": exam, "target": target, "logit": logit,
                        "probability": _sigmoid(logit),
                    }
                )
            )  # fmt: skip
    asked = Asked.by(compose_config([f"target=[{','.join(names)}]"]))
    figures = []

    def timed(name: str, run: Callable[[], Any]) -> Any:
        begun, worked = time.perf_counter(), time.process_time()
        result = run()
        wall, of_processor = time.perf_counter() - begun, time.process_time() - worked
        figures.append((name, f"{wall:.1f} s, {of_processor:.1f} s of processor time"))
        return result

    found = timed(
        f"AUROCs and comparisons of 3 models, {labels} labels",
        lambda: Classification.of(asked, pd.concat(of_label, ignore_index=True), None, None),
    )
    timed("report.html, its tables and figures", lambda: found.evidence(Study("bench", "many"), []))
    return figures


def ptbxl(records: int) -> list[tuple[str, str]]:
    """Seconds and peak memory from the published folder to predictions of all 71 statements."""
    import resource

    import experiments.launch  # noqa: F401  (silences what Lightning announces)
    from datamodules.public.ptbxl import INSTITUTION, labels_of
    from datamodules.simulation.ptbxl import write_ptbxl
    from experiments.config import compose_config
    from experiments.plan import plan_of
    from experiments.processes import Processes
    from experiments.stages.cohort import check_cohort, prepare, with_labels
    from experiments.stages.evaluate import evaluate
    from experiments.tracking import Tracking

    steps = 20
    figures = []

    def timed(name: str, run: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        result = run()
        seconds = time.perf_counter() - begun
        gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        figures.append((name, f"{seconds:.1f} s, {gib:.2f} GiB at the most until then"))
        return result

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "ptbxl"
        timed(f"writing {records:,} records of noise", lambda: write_ptbxl(root, records=records))
        asked = [
            "experiment=ptbxl", "target=all", f"cohort.root={root}", f"cache={folder}/cache",
            f"pretrain.max_steps={steps}", f"pretrain.validate_every_steps={steps}",
            f"finetune.max_steps={steps}", f"finetune.validate_every_steps={steps}",
            f"finetune.from_pretrained.max_steps={steps}", "trainer.accelerator=cpu",
        ]  # fmt: skip
        timed("tables and labels", lambda: labels_of(root, ["all"]))
        config = with_labels(compose_config(asked))
        plan = plan_of(config)
        tracking = Tracking(
            config.tracking.uri, config.tracking.artifacts, config.study, enabled=False
        )
        lab = plan.lab(config, tracking, Processes())
        (site,) = timed(
            "the same, comparing, reading and packing", lambda: prepare(config, plan.question)
        ).values()
        timed("the same, packed before", lambda: prepare(config, plan.question))
        timed("leakage guard", lambda: check_cohort(config, plan.question, [site], []))
        trained = timed(
            f"{len(plan.models.models)} models, {steps} steps each, and a pretraining",
            lambda: plan.models.train([site], lab, None),
        )
        name, of = next(iter(trained.items()))
        labels = plan.question.task.labels
        made = timed(
            f"folds 9 and 10 predicted by {name}, {len(labels)} labels",
            lambda: evaluate(name, of.checkpoint, of.key, of.reads, [site], [], labels, lab),
        )
        counts = site.exams["split"].value_counts()
        told = ", ".join(f"{split} {counts[split]:,}" for split in ("train", "val", "test"))
        figures.append((f"exams of {INSTITUTION}", told))
        figures.append(("rows of predictions", f"{len(made):,}"))
    return figures


def beats(root: Path) -> list[tuple[str, str]]:
    """R waves against annotated beats, and against wfdb's and neurokit2's detectors.

    Of each record (.hea) below `root`, ten seconds after another, as a small model's input. Beats
    agree within 75 ms; those within 200 ms of a cut are not counted.
    """
    import numpy as np
    import torch
    import wfdb
    from wfdb.processing import xqrs_detect

    from datamodules.beats import find_beats
    from datamodules.errors import InputError
    from datamodules.inputs.ecg import ECG
    from datamodules.recordings import RecordingError, read_recording
    from experiments.config import compose_config
    from experiments.plan import plan_of

    try:
        import neurokit2
    except ImportError:
        neurokit2 = None  # it is compared with where somebody has installed it
    ecg = plan_of(compose_config(["scale=small"])).question.inputs["ecg"]
    assert isinstance(ecg, ECG)
    other: dict[str, Callable[[Any, int], Any]] = {
        "xqrs (wfdb)": lambda lead, rate: xqrs_detect(lead, rate, verbose=False)
    }
    if neurokit2 is not None:
        other["neurokit2"] = lambda lead, rate: neurokit2.ecg_peaks(
            neurokit2.ecg_clean(lead, sampling_rate=rate), sampling_rate=rate
        )[1]["ECG_R_Peaks"]

    def guarded(detect: Callable[..., Any], *lead: Any) -> Any:
        try:
            return np.asarray(detect(*lead)) / lead[1]
        except (ValueError, IndexError, ZeroDivisionError):  # of a lead that it can't read
            return np.empty(0)

    # (whose truth, of whom) -> found, in truth, right, claimed
    counts: dict[tuple[str, str], Any] = {}
    records, ten = 0, ecg.seconds

    def judge(truth: Any, claimed: Any, who: tuple[str, str]) -> None:
        near = np.abs(np.subtract.outer(truth, claimed)) <= 0.075
        true, claims = ((beat > 0.2) & (beat < ten - 0.2) for beat in (truth, claimed))
        counts[who] = counts.get(who, 0) + np.array(
            [near.any(1)[true].sum(), true.sum(), near.any(0)[claims].sum(), claims.sum()]
        )

    def leads_of(path: Path) -> tuple[Any, int]:
        try:
            recording = read_recording(path)
            return recording.signal_mv, recording.sampling_rate_hz
        except RecordingError:  # not of twelve leads
            record = wfdb.rdrecord(str(path))
            chosen = [i for i, unit in enumerate(record.units) if unit.lower() in ("mv", "uv", "v")]
            return record.p_signal.T[chosen], int(record.fs) if record.fs % 1 == 0 else 0

    for header in sorted(root.rglob("*.hea")):
        try:
            signal, rate = leads_of(header.with_suffix(""))
        except Exception:  # wfdb's own errors are of any kind
            continue
        if not len(signal) or not rate or signal.shape[1] < ten * rate:
            continue
        records += 1
        signal = np.nan_to_num(signal).astype(np.float32)
        annotated = None
        if header.with_suffix(".atr").exists():
            marks = wfdb.rdann(str(header.with_suffix("")), "atr")
            is_beat = np.isin(marks.symbol, list("NLRBAaJSVrFejnE/fQ?"))
            annotated = marks.sample[is_beat] / rate
        for start in range(signal.shape[1] // (ten * rate)):
            piece = signal[:, start * ten * rate : (start + 1) * ten * rate]
            prepared = ecg.filter_and_resample(torch.from_numpy(piece[None]), rate)
            (peaks,) = find_beats(prepared, ecg.rate_hz).peaks
            ours = peaks[peaks >= 0].numpy() / ecg.rate_hz
            second = piece[min(1, len(piece) - 1)].astype(np.float64)  # II, of twelve
            theirs = {name: guarded(detect, second, rate) for name, detect in other.items()}
            if annotated is None:
                for name, found in theirs.items():
                    judge(found, ours, (name, "R waves of all leads"))
            else:
                truth = annotated - start * ten
                truth = truth[(truth >= 0) & (truth < ten)]
                judge(truth, ours, ("annotated beats", "R waves of all leads"))
                for name, found in theirs.items():
                    judge(truth, found, ("annotated beats", name))
    if not records:
        raise InputError(f"root={root}: there is no WFDB record of an ECG of {ten} s or more.")
    return [("records", f"{records:,}")] + [
        (
            f"{who}, against {truth}",
            f"sensitivity {hit / max(true, 1):.4f} of {true:,}, "
            f"precision {right / max(claimed, 1):.4f} of {claimed:,}",
        )
        for (truth, who), (hit, true, right, claimed) in counts.items()
    ]


def _sigmoid(logit: Any) -> Any:
    import numpy as np

    return 1 / (1 + np.exp(-logit))


def training(overrides: Sequence[str]) -> list[tuple[str, str]]:
    """ECGs a second and peak memory of optimiser steps with the configured networks."""
    import torch
    from lightning import Fabric

    from experiments.config import compose_config, plain
    from experiments.plan import plan_of
    from experiments.stages.pretrain import pretraining_class
    from lightning_modules.networks.network import build_network

    config = compose_config(overrides)
    ecg = plan_of(config).question.inputs["ecg"]
    fabric = Fabric(
        accelerator=config.trainer.accelerator, devices=1, precision=config.trainer.precision
    )
    on_cuda = fabric.device.type == "cuda"
    figures = []

    def measure(name: str, module: torch.nn.Module, batch: int, loss: Callable[..., Any]) -> None:
        made, optimiser = fabric.setup(module, torch.optim.AdamW(module.parameters(), fused=True))
        signals = torch.randn(batch, *ecg.shape.values(), device=fabric.device)

        def step() -> None:
            fabric.backward(loss(made, signals))
            optimiser.step()
            optimiser.zero_grad()
            if on_cuda:
                torch.cuda.synchronize()

        if on_cuda:
            torch.cuda.reset_peak_memory_stats()
        rate = batch / _seconds(step)
        memory = (
            f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB at the most" if on_cuda else ""
        )
        figures.append((f"{name}, batch {batch}", f"{rate:.1f} ECG/s{memory}"))
        module.to("cpu")

    network = {**plain(config.network), "shape": ecg.shape}
    settings = plain(config.pretrain)
    kind = pretraining_class(settings)
    pretraining = kind.build(
        settings, reads="ecg", network=kind.of_network(network),
        statistics=ecg.example_statistics(),
        effective_batch=config.pretrain.batch_size, seed=config.seed,
    )  # fmt: skip
    measure(
        f"pretraining {config.network.name} as {kind.name}", pretraining,
        config.pretrain.batch_size,
        lambda made, signals: made.training_step({"ecg": signals}, 0),
    )  # fmt: skip
    for tuned in (config.network, config.baseline):
        measure(
            f"fine-tuning {tuned.name}",
            build_network(plain(tuned), ecg.shape, outputs=1),
            config.finetune.batch_size,
            lambda made, signals: made(signals).square().mean(),
        )
    where = torch.cuda.get_device_name() if on_cuda else f"CPU, {torch.get_num_threads()} threads"
    return [("device", f"{where}, {config.trainer.precision}, torch {torch.__version__}"), *figures]


def _seconds(run: Callable[[], object]) -> float:
    """Mean seconds of one call, after one to warm up."""
    run()
    begun, calls, elapsed = time.perf_counter(), 0, 0.0
    while elapsed < SECONDS:
        run()
        calls += 1
        elapsed = time.perf_counter() - begun
    return elapsed / calls


def main(arguments: Sequence[str]) -> int:
    """Print one benchmark's figures; returns the exit status."""
    from datamodules.errors import InputError

    name, *overrides = arguments or [""]
    try:
        if name == "reading" and not overrides:
            figures = reading()
        elif name == "training":
            figures = training(overrides)
        elif name == "beats" and re.fullmatch(r"root=.+", " ".join(overrides)):
            figures = beats(Path(overrides[0].removeprefix("root=")))
        elif name == "ptbxl" and re.fullmatch(r"(records=\d{2,})?", " ".join(overrides)):
            figures = ptbxl(int(overrides[0].removeprefix("records=")) if overrides else 21_799)
        elif name == "evaluation" and (
            many := re.fullmatch(r"labels=(\d{1,3}) exams=(\d{3,})", " ".join(overrides))
        ):
            figures = labels_report(int(many[1]), int(many[2]))
        elif name == "evaluation" and re.fullmatch(r"(exams=\d{3,})?", " ".join(overrides)):
            figures = evaluation(int(overrides[0].removeprefix("exams=")) if overrides else 230_000)
        else:
            raise InputError((__doc__ or "").strip())
    except InputError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return MISTAKE
    print(f"{platform.machine()}, Python {platform.python_version()}")
    for label, figure in figures:
        print(f"{label:<60} {figure}")
    return DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
