"""The console scripts `multisite-ecg` and `multisite-ecg-predict`."""

import sys


def run() -> None:
    """`python -m experiments.run`, by another name; leaves with its exit status."""
    from experiments.run import main

    sys.exit(main(sys.argv[1:]))


def predict() -> None:
    """`python -m experiments.predict`, by another name; leaves with its exit status."""
    from experiments.predict import main

    sys.exit(main(sys.argv[1:]))
