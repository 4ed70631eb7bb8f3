"""What work takes on a client's device: seconds and joules, estimated from a few numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from archipelago.core.checks import between
from archipelago.core.errors import ConfigError, did_you_mean
from archipelago.core.small_files import parsed_json, read_small
from archipelago.core.typed_fields import built

__all__ = ["DEVICES", "Device", "device"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device in a few numbers. What is computed from them is an estimate, and labelled so.

    Attributes:
        name: what reports call it.
        macs_per_second: multiply-accumulates of a training or forward pass.
        layer_seconds: what a layer takes besides its arithmetic.
        bytes_per_second: each way.
        joules_per_mac: of arithmetic, memory traffic included.
        joules_per_byte: of the radio, each way.
        source: where the numbers come from.
    """

    name: str
    macs_per_second: float
    layer_seconds: float = 0.0
    bytes_per_second: float = 1e6
    joules_per_mac: float = 0.0
    joules_per_byte: float = 0.0
    source: str = "given"

    def __post_init__(self) -> None:
        for name in ("macs_per_second", "bytes_per_second"):
            between(f"device.{name}", getattr(self, name), 0, 1e18, open_low=True)
        for name in ("layer_seconds", "joules_per_mac", "joules_per_byte"):
            between(f"device.{name}", getattr(self, name), 0, 1e6)

    def latency(self, node_costs: Mapping[str, tuple[int, int]]) -> float:
        """Return milliseconds of one example's forward pass, from `Graph.node_costs`."""
        macs = sum(work for _, work in node_costs.values())
        return 1e3 * (len(node_costs) * self.layer_seconds + macs / self.macs_per_second)

    def joules(self, macs: float, moved: float) -> float:
        """Return the energy of so much arithmetic and so many bytes moved."""
        return macs * self.joules_per_mac + moved * self.joules_per_byte


_ROUND = "round figures of this class of device, not measured: give your own as a JSON file"
DEVICES: Mapping[str, Device] = {
    "phone": Device(
        name="phone",
        macs_per_second=5e9,
        layer_seconds=2e-5,
        bytes_per_second=2e6,
        joules_per_mac=4e-10,
        joules_per_byte=1e-6,
        source=_ROUND,
    ),
    "single-board": Device(
        name="single-board",
        macs_per_second=1e9,
        layer_seconds=5e-5,
        bytes_per_second=4e6,
        joules_per_mac=4e-9,
        joules_per_byte=5e-7,
        source=_ROUND,
    ),
}


def device(name: str) -> Device:
    """Return a device by name, or read one from a JSON file of its fields.

    Raises:
        ConfigError: no such device, or a file that does not describe one.
    """
    if name in DEVICES:
        return DEVICES[name]
    path = Path(name)
    if path.suffix != ".json":
        fix = f"{did_you_mean(name, DEVICES)}, or name a JSON file"
        raise ConfigError("no such device", got=name, where="device", fix=fix)
    try:
        data = parsed_json(read_small(path, 100_000))
        return built(Device, {"name": path.stem, "source": path.name, **data})
    except (OSError, ValueError, TypeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            "this file does not describe a device",
            got=str(error),
            where=name,
            fix=f"write a JSON object of {', '.join(f.name for f in fields(Device))}",
        ) from None
