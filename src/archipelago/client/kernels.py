"""How local training is computed: one rule on what is trained, never a timing.

A timing at run time would make results depend on the machine's mood: kernels differ in the order of
sums, so in the last bits. The rule and its reason are recorded with the run.
"""

from dataclasses import dataclass
from typing import Any, Literal

from archipelago.client.dense import OPS
from archipelago.client.stacked import stackable
from archipelago.core.errors import IncompatibleParts
from archipelago.space.graph import Graph

__all__ = ["BLOCK", "LEAST", "SHARES", "Kernel", "KernelName", "blocks", "choose"]

KernelName = Literal["flat", "dense", "channels-last", "stacked"]

BLOCK = 6 << 20
"""Bytes of weights that a block of clients shares: calls are spared, and caches still hold them."""

STACK = 256 << 20
"""The same on the kernel for accelerators: what one launch serves."""

SHARES = 8
"""Blocks that a cohort makes at least, so that a few workers stay busy to the end of a round.

Half as many, where there is little work: see `LEAST`.
"""

LEAST = 24_000_000
"""Multiply-accumulates of a block, about two milliseconds, below which half as many blocks do.

Calls then cost more than arithmetic; more than four workers would have been little use.
"""


@dataclass(frozen=True, slots=True)
class Kernel:
    """Which loop computes a client's training.

    Attributes:
        name: `flat` is the plain loop over one flat vector, `dense` the loop with a client axis,
            `channels-last` the plain loop with images stored pixel by pixel, `stacked` a client
            axis by `vmap`.
        reason: for the journal.
    """

    name: KernelName
    reason: str

    def blocks(self, size: int, cohort: int, work: int) -> list[int]:
        """Return how many clients each task of a round trains; see `blocks`.

        Args:
            size: scalars of the model.
            cohort: clients of the branch in this round, at least one.
            work: of all of them, multiply-accumulates.
        """
        match self.name:
            case "dense":
                shares = SHARES if work >= SHARES * LEAST else SHARES // 2
                return blocks(size, cohort, most=BLOCK, shares=shares)
            case "stacked":
                return blocks(size, cohort, most=STACK, shares=1)
            case _:
                return [1] * cohort


def choose(wanted: str, graph: Graph | None, task: Any, *, plain: bool) -> Kernel:
    """Return the kernel for a network.

    Args:
        wanted: a kernel's name (`client.path` in the run file), or `auto`.
        graph: the network; None where it was not built from one.
        task: what is learned; the dense kernel needs its losses row by row.
        plain: the step is SGD and nothing else.

    Raises:
        IncompatibleParts: the path that was asked for cannot train this network.
    """
    together = plain and hasattr(task, "losses")
    nodes = () if graph is None else graph.nodes
    fits = {
        "flat": True,
        "dense": together and bool(nodes) and all(node.op in OPS for node in nodes),
        "stacked": together and bool(nodes) and stackable(nodes),
        "channels-last": graph is not None
        and len(graph.input_shape) == 3
        and any(node.op == "conv" for node in nodes),
    }
    if wanted != "auto":
        if not fits.get(wanted, False):
            raise IncompatibleParts(
                "this path cannot train this network",
                got=wanted,
                where="client.path",
                fix="use 'auto': dense needs linear layers and plain SGD, channels-last images, "
                "stacked plain SGD without batch norm, dropout and recurrence",
            )
        return Kernel(wanted, "set in the run file")  # pyright: ignore[reportArgumentType]
    if fits["dense"]:
        return Kernel("dense", "linear layers only, plain SGD")
    if fits["channels-last"]:
        return Kernel("channels-last", "convolutions over images")
    return Kernel("flat", "the plain loop")


def blocks(size: int, cohort: int, *, most: int, shares: int) -> list[int]:
    """Return how many clients each task of a round trains together, largest first.

    A pure function of the round, so that the same clients share a block whatever the workers. There
    are a multiple of `shares` of nearly equal size, so that a few workers end together.

    Args:
        size: scalars of the model.
        cohort: clients of the branch in this round, at least one.
        most: bytes of weights in a block.
        shares: blocks at least.
    """
    width = max(1, min(most // (4 * size), -(-cohort // shares)))
    count = -(-cohort // width)
    count = min(cohort, -(-count // shares) * shares)
    least, more = divmod(cohort, count)
    return [least + 1] * more + [least] * (count - more)
