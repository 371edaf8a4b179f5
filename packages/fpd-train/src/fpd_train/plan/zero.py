"""What DeepSpeed keeps and sends for a network at a ZeRO stage, in bytes. Read in its 0.19 source and measured.

`test_plan.py` compares every line with a run of two ranks: tensors alive between steps, arguments of collectives.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from fpd_train.engine_config import GRADIENT_BUCKET

FLOAT32, BFLOAT16 = 4, 2
PERSISTENT = 100_000  # parameters of at most so many elements stay whole at stage 3
REUSE = 1_000_000_000  # elements that stage 3 keeps between forward and backward


@dataclass(frozen=True)
class Network:
    """A network as an engine trains it.

    Attributes:
        trained, frozen: elements of each parameter.
        shared: elements of frozen parameters that lie in another network's memory (adapters).
        buffers: bytes.
        is_half: bfloat16 with float32 masters.
        moments: averages that the optimizer keeps of each element.
        has_average: whether an EMA is kept beside it.
    """

    trained: Sequence[int]
    frozen: Sequence[int]
    shared: int
    buffers: int
    is_half: bool
    moments: int
    has_average: bool

    @property
    def width(self) -> int:
        """Bytes of a weight."""
        return BFLOAT16 if self.is_half else FLOAT32

    @property
    def bucket(self) -> int:
        """Elements of the bucket that holds gradients until they are shared out."""
        return min(GRADIENT_BUCKET, sum(self.trained))


def kept(network: Network, stage: int, world: int) -> dict[str, int]:
    """Bytes on one rank between two steps, by part."""
    trained, frozen = sum(network.trained), sum(network.frozen)
    share = sum(ceil(one / world) for one in network.trained) if stage == 3 else ceil(trained / world)
    own = 1 if stage == 0 else share / trained if trained else 0
    everything = [*network.trained, *network.frozen]
    # Float32 weights that are not trained need no second copy until stage 3 cuts them into pieces.
    is_copied = network.is_half or stage == 3
    weights = (trained + frozen - (0 if is_copied else network.shared)) * network.width
    if stage == 3:
        whole = sum(one for one in everything if one <= PERSISTENT)
        weights = (sum(ceil(one / world) for one in everything) + whole) * network.width
    gradients = {1: trained if network.is_half else 0, 3: share}.get(stage, 0)
    # Each rank averages its own part: of every weight, but of the flat whole where DeepSpeed cuts that.
    averaged = share if stage in (1, 2) else sum(ceil(one / world) for one in network.trained)
    average = averaged + (frozen - network.shared if is_copied else 0) if network.has_average else 0
    parts = {
        "weights": weights + network.buffers,
        "masters": int(trained * own) * FLOAT32 if stage else 0,
        "gradients": gradients * FLOAT32,
        "optimizer": int(trained * own) * FLOAT32 * network.moments,
        "EMA": average * FLOAT32 + (network.buffers if network.has_average else 0),
        "gradient bucket": network.bucket * network.width if stage == 3 else 0,
    }
    return {name: size for name, size in parts.items() if size}


def passing(network: Network, stage: int, world: int) -> dict[str, int]:
    """Bytes that one rank needs on top during a step: gradients before they are shared out, the bucket for them."""
    trained = sum(network.trained)
    if stage == 3:
        return {}
    if stage == 0:
        return {"gradients": trained * FLOAT32}
    # Stage 1 stages what it has accumulated, stage 2 the gradients as they come.
    wide = FLOAT32 if stage == 1 else network.width
    gradients = trained * network.width if stage == 1 else ceil(trained / world) * FLOAT32
    return {"gradients": gradients, "gradient bucket": network.bucket * wide}


def sent(network: Network, stage: int, world: int, *, passes: int, forwards: int) -> dict[tuple[str, str], int]:
    """Bytes handed to collectives in one step: {(what, operation): size of what all ranks end up with, or give}.

    Args:
        passes: micro-batches with a backward.
        forwards: forward passes of the network, those without gradient too.
    """
    if world == 1:
        return {}
    trained, width = sum(network.trained), network.width
    whole = trained + sum(network.frozen)
    persistent = sum(one for one in (*network.trained, *network.frozen) if one <= PERSISTENT)
    # Gathered again for backward where the network is too large to keep, or runs more often than it is trained.
    again = passes if whole > REUSE or forwards > passes else 0
    gathered = persistent + (whole - persistent) * (forwards + again)
    found = {
        ("gradients", "reduce-scatter" if stage == 3 else "all-reduce"): trained
        * width
        * (passes if stage >= 2 else 1),
        ("weights", "all-gather"): {0: 0, 3: gathered}.get(stage, trained) * width,
    }
    return {place: size for place, size in found.items() if size}


def on_the_wire(operation: str, size: float, world: int) -> float:
    """Bytes that each rank sends for a collective in a ring: an all-reduce goes round twice."""
    return size * (2 if operation == "all-reduce" else 1) * (world - 1) / world
