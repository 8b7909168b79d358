"""Which process this is, before anything heavy is imported or any process group exists."""

import os


def is_first_process() -> bool:
    """Whether this is the process of a launch that talks, tracks and writes.

    Launchers name a process by its rank among all, or by its node and its rank on the node.
    """
    environment = os.environ
    for name in ("RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"):
        if name in environment:
            return environment[name] == "0"
    node = environment.get("NODE_RANK", environment.get("GROUP_RANK", "0"))
    return node == "0" and environment.get("LOCAL_RANK", "0") == "0"
