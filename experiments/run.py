"""The one entry point: `python -m experiments.run [NAME=VALUE ...]`; `--help` says more.

Installed, it is the command `multisite-ecg`.
"""

import errno
import os
import sys
import traceback
from collections.abc import Sequence

# Heavy imports wait until they are needed: --help and a misspelt key are answered at once, and
# the processes that simulate and pack, which import this file again, start quickly.
from datamodules.errors import InputError
from experiments.processes import StrayProcessError, is_first_process, rank_in_environment

# Threads that spin while they wait for one another made training on two shared cores four times
# slower; OpenMP reads this when torch loads it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

DONE, FAILED, MISTAKE = 0, 1, 2


def main(arguments: Sequence[str]) -> int:
    """Run one launch; returns the exit status: 0 done, 2 a person's mistake, 1 anything else."""
    from experiments.arguments import read_arguments

    try:
        wanted = read_arguments(arguments)
        from experiments.config import as_yaml, complete, compose_config, help_text

        if wanted.help:
            print(help_text(wanted.folder), flush=True)
            return DONE
        if wanted.completion is not None:
            complete(wanted)
            return DONE
        if wanted.multirun:
            from experiments.sweep import sweep

            return DONE if sweep(wanted) else FAILED
        config = compose_config(arguments)
        if wanted.config:
            print(as_yaml(config), flush=True)
            return DONE
        from experiments.launch import launch

        launch(config, [*wanted.options, *wanted.overrides])
    except StrayProcessError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return MISTAKE
    except InputError as mistake:
        _report(f"error: {mistake}")
        rank, world, told = rank_in_environment()
        if rank:
            print(
                f"error: This is process {rank} of {world} ({told}), and the first one says what "
                "is wrong. If it is alone, unset these variables.",
                file=sys.stderr,
            )
        return MISTAKE
    except (KeyboardInterrupt, SystemExit):  # Lightning turns the first into the second
        _report("interrupted. Finished stages are kept: the same command goes on from there.")
        return FAILED
    except BrokenPipeError:  # whoever reads the output, `head` say, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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
        # Of whichever process: the others know no more than that it is gone.
        traceback.print_exc()
        return FAILED
    return DONE


def _report(message: str) -> None:
    # The other processes of a launch meet the same mistake: one message is enough.
    if is_first_process():
        print(message, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
