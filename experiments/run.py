"""The one entry point: `python -m experiments.run [NAME=VALUE ...]`; `--help` says more."""

import errno
import os
import sys
import traceback
from collections.abc import Sequence

# Heavy imports wait until they are needed: --help and a misspelt key are answered at once, and
# the processes that simulate and pack, which import this file again, start quickly.
from datamodules.errors import InputError
from experiments.processes import is_first_process

# Threads that spin while they wait for one another made training on two shared cores four times
# slower; OpenMP reads this when torch loads it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

DONE, FAILED, MISTAKE = 0, 1, 2


def main(arguments: Sequence[str]) -> int:
    """Run one launch; returns the exit status: 0 done, 2 a person's mistake, 1 anything else."""
    from experiments.config import compose_config, help_text

    try:
        if {"--help", "-h"} & set(arguments):
            print(help_text())
            return DONE
        config = compose_config([a for a in arguments if a != "--config"])
        if "--config" in arguments:
            from omegaconf import OmegaConf

            print(OmegaConf.to_yaml(config))
            return DONE
        from experiments.launch import launch

        launch(config, arguments)
    except InputError as mistake:
        _report(f"error: {mistake}")
        return MISTAKE
    except (KeyboardInterrupt, SystemExit):  # Lightning turns the first into the second
        _report("interrupted. Finished stages are kept: the same command goes on from there.")
        return FAILED
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            _report(traceback.format_exc())
            return FAILED
        _report(
            f"error: {error.filename or 'a file'} can't be written: {error.strerror}. Make room, "
            "or choose other folders (cache=DIR, tracking.uri=..., tracking.artifacts=DIR). "
            "Finished stages are kept: the same command goes on from there."
        )
        return MISTAKE
    except Exception:
        _report(traceback.format_exc())
        return FAILED
    return DONE


def _report(message: str) -> None:
    # The other processes of a launch meet the same mistake: one message is enough.
    if is_first_process():
        print(message, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
