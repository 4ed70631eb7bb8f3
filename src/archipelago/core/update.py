"""What a client says to the server. Imports torch; `core/trial.py` is the part that does not."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

__all__ = ["Update"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """Client -> server: what local training changed. Never a sample.

    Attributes:
        client: who sent it.
        delta: new minus old, flat, shape `[layout.size]`, float32.
        examples: training rows behind it; the weight in an average.
        steps: local gradient steps taken.
        effort: norm of the weights of those steps in `delta`: FedNova's norm of `a`.
        metrics: local scalars, already averaged over the client's rows.
        extras: further flat vectors by name (a control variate's change, for one).
        length: L2 norm of `delta` as it came, before anything scales it.
    """

    client: int
    delta: Tensor
    examples: int
    steps: int = 0
    effort: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    extras: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    length: float = 0.0

    def copied(self) -> "Update":
        """Return it with tensors of its own: those of a reply lie where the next one arrives."""
        extras = {name: tensor.clone() for name, tensor in self.extras.items()}
        return replace(self, delta=self.delta.clone(), extras=extras)
