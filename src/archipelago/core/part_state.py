"""What a strategy or an estimator keeps of its own from one generation to the next. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from archipelago.core.errors import RunFailed

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PartState", "check_plain", "check_vector"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartState:
    """A part's own state: committed with the run, and handed back to the bit when it goes on.

    A value: whoever goes on from it makes another one. Its tensors are written to the journal
    while the next round computes, so they are never changed in place.

    Attributes:
        data: plain JSON data: lists, and dicts with text for keys.
        tensors: flat float32 vectors on the CPU, shape `[length]`, by name.

    Raises:
        RunFailed: what the journal could not give back as it was.
    """

    data: Mapping[str, Any] = field(default_factory=dict[str, Any])
    tensors: "Mapping[str, Tensor]" = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        check_plain("data", self.data)
        for name, tensor in self.tensors.items():
            check_vector(name, tensor)

    def to_json(self) -> dict[str, Any]:
        """Return everything but the tensors, and their names."""
        return {"data": dict(self.data), "tensors": sorted(self.tensors)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], tensors: "Mapping[str, Tensor]") -> "PartState":
        """Rebuild what `to_json` wrote; `tensors` holds those that it names."""
        return cls(data=data["data"], tensors={name: tensors[name] for name in data["tensors"]})


def check_plain(name: str, value: Any) -> None:
    """Raise `RunFailed` unless JSON gives `value` back as it is: a tuple would become a list."""
    kind = type(value)
    if kind is dict and all(type(key) is str for key in value):
        for key, inner in value.items():
            check_plain(f"{name}.{key}", inner)
    elif kind is list:
        for index, inner in enumerate(value):
            check_plain(f"{name}[{index}]", inner)
    elif value is not None and kind not in (str, int, float, bool):
        raise RunFailed(
            "a journal keeps plain JSON data",
            got=f"{kind.__name__} {value!r}"[:200],
            where=name,
            fix="use text, numbers, true, false, null, lists, and dicts with text for keys",
        )


def check_vector(name: str, tensor: "Tensor") -> None:
    """Raise `RunFailed` unless the journal can give `tensor` back as it is."""
    kind = (str(tensor.dtype), tensor.dim(), str(tensor.device), tensor.requires_grad)
    if kind != ("torch.float32", 1, "cpu", False):
        raise RunFailed(
            "a journal keeps flat float32 vectors on the CPU",
            got=kind,
            where=name,
            fix="keep tensor.detach().cpu().float().flatten(), and its shape as JSON beside it",
        )
