"""A launch in a process forked from one that has loaded its libraries: seconds less a launch.

What a person starts is `python -m experiments.run`, which is this with the libraries loaded anew;
tests of several processes, of the entry point and of the wheel start it so.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path

PRELOADED = ["experiments.launch", "mlflow.store.tracking.sqlalchemy_store", "matplotlib.pyplot"]
FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(PRELOADED)


def _run(
    arguments: Sequence[str], environment: Mapping[str, str], folder: Path, output: Path
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        file = os.open(output / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    sys.stdout, sys.stderr = (open(n, "w", closefd=False) for n in (1, 2))  # noqa: SIM115
    os.chdir(folder)
    # As `python -m` finds modules there; the tests' own folders are not a person's.
    sys.path[:] = [str(folder), *(p for p in sys.path if "tests" not in Path(p).parts)]
    from experiments.run import main

    status = main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def run_forked(
    arguments: Sequence[str], folder: Path, output: Path, timeout: float
) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a launch with these arguments in the working `folder`."""
    output.mkdir(parents=True, exist_ok=True)
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # of the server, which starts with the first launch
    try:
        process = FORKS.Process(
            target=_run, args=(list(arguments), dict(os.environ), folder, output)
        )
        process.start()
    finally:
        if threads is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = threads
    process.join(timeout)
    if process.is_alive():
        process.kill()
        raise TimeoutError(f"{' '.join(arguments)}: not done within {timeout} s")
    assert process.exitcode is not None
    return process.exitcode, (output / "stdout").read_text(), (output / "stderr").read_text()
