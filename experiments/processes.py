"""The processes of one launch: which one this is, and how the first decides for all of them."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

from datamodules.errors import InputError

Result = TypeVar("Result")

# (rank, how many there are), as launchers name them: torchrun and Lightning, Slurm, IBM's jsrun.
RANKS = (
    ("RANK", "WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
    ("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE"),
)
# Waiting for the first process may be waiting for another launch's training.
PATIENCE = timedelta(days=30)


def rank_in_environment() -> tuple[int, int, str]:
    """(rank, number of processes, what says so), before any process group exists.

    A rank without a number of processes, or of one, is a stray: it means nothing.
    """
    environment = os.environ
    for rank, world in RANKS:
        if rank in environment and int(environment.get(world, "1")) > 1:
            told = f"{rank}={environment[rank]}, {world}={environment[world]}"
            return int(environment[rank]), int(environment[world]), told
    local, world_size = environment.get("LOCAL_RANK", "0"), environment.get("WORLD_SIZE", "1")
    node = environment.get("NODE_RANK", environment.get("GROUP_RANK", "0"))
    if int(world_size) > 1 and (local, node) != ("0", "0"):
        told = f"NODE_RANK={node}, LOCAL_RANK={local}, WORLD_SIZE={world_size}"
        return max(1, int(local)), int(world_size), told
    return 0, int(world_size), ""


# Known once the processes have met: Lightning tidies the environment up after each training.
_joined: "Processes | None" = None


def is_first_process() -> bool:
    """Whether this is the process of a launch that talks, tracks and writes."""
    return rank_in_environment()[0] == 0 if _joined is None else _joined.first


class StrayProcessError(InputError):
    """This process has no place in its launch, and no other would say so."""


class FirstProcessFailed(SystemExit):
    """The launch's first process has said what is wrong; the others end with it."""


@dataclass(frozen=True)
class Processes:
    """`world` processes that go through the same launch, of which this is the one of `rank`."""

    rank: int = 0
    world: int = 1
    _group: Any = None

    @staticmethod
    def of_launch(world: int, **trainer: Any) -> "Processes":
        """Start, or join, the processes of a launch that trains in `world` of them.

        `trainer`: accelerator, devices and num_nodes, as Lightning takes them. Where no launcher
        has started the others, they start here, with the same command.
        """
        if world == 1:
            return Processes()
        import torch
        from lightning import Fabric

        fabric = Fabric(strategy="ddp", **trainer)
        fabric.launch()
        group = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
        global _joined
        _joined = Processes(fabric.global_rank, fabric.world_size, group)
        return _joined

    @property
    def first(self) -> bool:
        """Whether this is the process that decides, tracks and writes."""
        return self.rank == 0

    def decided(self, work: Callable[[], Result]) -> Result:
        """What `work`, done by the first process alone, gives; it must be picklable.

        Where it fails the first process raises its error, and the others FirstProcessFailed.
        """
        if self.world == 1:
            return work()
        import torch

        told: list[Any] = [None]
        failure: BaseException | None = None
        if self.first:
            try:
                told = [(True, work())]
            except BaseException as error:
                failure, told = error, [(False, None)]
        torch.distributed.broadcast_object_list(told, src=0, group=self._group)
        if failure is not None:
            raise failure
        done, result = told[0]
        if not done:
            raise FirstProcessFailed(1)
        return cast(Result, result)

    def wait(self) -> None:
        """Until every process is here."""
        if self.world > 1:
            import torch

            torch.distributed.barrier(group=self._group)
