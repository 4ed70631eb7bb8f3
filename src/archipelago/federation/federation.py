"""What all rounds of a run share."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from archipelago.aggregate.mean import WeightedMean
from archipelago.aggregate.server import ServerOptimizer, ServerSgd
from archipelago.client.training import LocalTraining, Training
from archipelago.core.clock import Clock
from archipelago.core.seeds import Seed
from archipelago.data.augment import Augment
from archipelago.federation.buffer import Buffered, Synchronous
from archipelago.federation.cohort import Cohort

__all__ = ["Federation", "Incident"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """What all rounds of a run share.

    Attributes:
        engine: where tasks run; already open on a workplace with the same shards and task.
        task: gives metrics from summed sufficient statistics.
        train_rows: rows per client, shape `[clients]`.
        validation_rows: rows per client, shape `[clients]`.
        seed: root of every draw below.
        training: what a client does.
        cohort: who takes part, and their devices.
        topology: whether a round waits for its cohort.
        aggregator: how updates are averaged.
        server: what is done with the average.
        norm: largest L2 norm of an update; 0 accepts any finite one.
        clock: where time goes.
        augment: what a client does to its train rows first.
        quiet: clients that are never asked for a score: their rows are too few to tell of.
    """

    engine: Any
    task: Any
    train_rows: np.ndarray
    validation_rows: np.ndarray
    seed: Seed
    training: Training = field(default_factory=LocalTraining)
    cohort: Cohort = field(default_factory=Cohort)
    topology: Synchronous | Buffered = field(default_factory=Synchronous)
    aggregator: WeightedMean = field(default_factory=WeightedMean)
    server: ServerOptimizer = field(default_factory=ServerSgd)
    norm: float = 0.0
    clock: Clock = field(default_factory=Clock)
    augment: Augment = field(default_factory=Augment)
    quiet: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """Something that a person should be able to look up: a refusal, a death, a void round."""

    kind: str
    branch: int
    client: int
    text: str
