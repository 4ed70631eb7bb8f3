"""Augmentation of training batches: pure functions of rows and a seed, in plain torch.

Each part works on prepared inputs (mean 0, deviation 1), so a masked or padded value is the mean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from archipelago.core.checks import at_least, between
from archipelago.core.errors import IncompatibleParts
from archipelago.core.seeds import Seed
from archipelago.core.trial import Value
from archipelago.data.shards import Signature

if TYPE_CHECKING:
    from torch import Generator, Tensor

__all__ = [
    "Augment",
    "Augmentation",
    "Crop",
    "Cutout",
    "Flip",
    "Jitter",
    "Masking",
    "Mixup",
    "augmented",
    "check_augmentations",
]


@runtime_checkable
class Augmentation(Protocol):
    """Changes a batch; the label changes with it only in `Mixup`."""

    def apply(self, x: "Tensor", y: "Tensor", seed: Seed, outputs: int) -> "tuple[Tensor, Tensor]":
        """Return new rows `[rows, *shape]` and their targets; the arguments are left alone."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """Mirror left and right, each picture with `chance`."""

    kind: Literal["flip"] = "flip"
    chance: float = 0.5

    FITS = ("image",)

    def __post_init__(self) -> None:
        between("augment.chance", self.chance, 0, 1)

    def apply(self, x: "Tensor", y: "Tensor", seed: Seed, outputs: int) -> "tuple[Tensor, Tensor]":
        """Return flipped pictures."""
        import torch

        del outputs
        chosen = torch.rand(len(x), generator=_generator(seed)).to(x.device) < self.chance
        return torch.where(chosen.reshape(-1, 1, 1, 1), x.flip(-1), x), y


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """Shift each picture by up to `pad` pixels each way: pad all around, then crop.

    References:
        He et al. 2016, arXiv:1512.03385, section 4.2.
    """

    kind: Literal["crop"] = "crop"
    pad: int = 2

    FITS = ("image",)

    def __post_init__(self) -> None:
        at_least("augment.pad", self.pad, 1)

    def apply(self, x: "Tensor", y: "Tensor", seed: Seed, outputs: int) -> "tuple[Tensor, Tensor]":
        """Return shifted pictures."""
        import torch
        from torch.nn.functional import pad

        del outputs
        height, width = x.shape[-2:]
        draw = torch.randint(0, 2 * self.pad + 1, (2, len(x)), generator=_generator(seed))
        top, left = draw.to(x.device)
        rows = (top[:, None] + torch.arange(height, device=x.device))[:, None, :, None]
        columns = (left[:, None] + torch.arange(width, device=x.device))[:, None, None, :]
        each = torch.arange(len(x), device=x.device)[:, None, None, None]
        channel = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
        return pad(x, (self.pad,) * 4)[each, channel, rows, columns], y


@dataclass(frozen=True, slots=True, kw_only=True)
class Cutout:
    """Erase one square a picture; at the border it is cut off.

    References:
        DeVries & Taylor 2017, arXiv:1708.04552, section 3.
    """

    kind: Literal["cutout"] = "cutout"
    size: int = 4

    FITS = ("image",)

    def __post_init__(self) -> None:
        at_least("augment.size", self.size, 1)

    def apply(self, x: "Tensor", y: "Tensor", seed: Seed, outputs: int) -> "tuple[Tensor, Tensor]":
        """Return pictures with a hole of zeros."""
        import torch

        del outputs
        generator = _generator(seed)
        inside = []
        for length in x.shape[-2:]:
            centre = torch.randint(0, length, (len(x), 1), generator=generator)
            low = centre - self.size // 2
            place = torch.arange(length)
            inside.append(((place >= low) & (place < low + self.size)).to(x.device))
        hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
        return x.masked_fill(hole, 0.0), y


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixup:
    """Mix each row with another, and their labels: lambda ~ Beta(alpha, alpha) for each row.

    References:
        Zhang et al. 2018, arXiv:1710.09412, section 2.
    """

    kind: Literal["mixup"] = "mixup"
    alpha: float = 0.2

    FITS = ("image", "series", "table")

    def __post_init__(self) -> None:
        between("augment.alpha", self.alpha, 0, 100, open_low=True)

    def apply(self, x: "Tensor", y: "Tensor", seed: Seed, outputs: int) -> "tuple[Tensor, Tensor]":
        """Return mixed rows; class numbers become shares `[rows, outputs]`."""
        import torch
        from torch.nn.functional import one_hot

        drawn = seed.child("share").numpy().beta(self.alpha, self.alpha, len(x))
        share = torch.from_numpy(drawn).to(x)
        other = torch.randperm(len(x), generator=_generator(seed)).to(x.device)
        soft = y if y.is_floating_point() else one_hot(y, outputs).to(x.dtype)

        def mixed(values: "Tensor") -> "Tensor":
            return torch.lerp(
                values[other], values, share.reshape(-1, *(1 for _ in values.shape[1:]))
            )

        return mixed(x), mixed(soft)


@dataclass(frozen=True, slots=True, kw_only=True)
class Jitter:
    """Add noise of `deviation` standard units.

    References:
        Um et al. 2017, arXiv:1706.00527, section 3.
    """

    kind: Literal["jitter"] = "jitter"
    deviation: float = 0.05

    FITS = ("image", "series", "table")

    def __post_init__(self) -> None:
        between("augment.deviation", self.deviation, 0, 10)

    def apply(self, x: "Tensor", y: "Tensor", seed: Seed, outputs: int) -> "tuple[Tensor, Tensor]":
        """Return noisy rows."""
        import torch

        del outputs
        noise = torch.randn(x.shape, generator=_generator(seed)).to(x.device)
        return x + self.deviation * noise, y


@dataclass(frozen=True, slots=True, kw_only=True)
class Masking:
    """Silence one span of steps a series, up to `share` of its length.

    References:
        Park et al. 2019, arXiv:1904.08779, section 2 (time masking).
    """

    kind: Literal["masking"] = "masking"
    share: float = 0.2

    FITS = ("series",)

    def __post_init__(self) -> None:
        between("augment.share", self.share, 0, 1, open_low=True)

    def apply(self, x: "Tensor", y: "Tensor", seed: Seed, outputs: int) -> "tuple[Tensor, Tensor]":
        """Return series with a silent span."""
        import torch

        del outputs
        steps = x.shape[-1]
        draw = torch.rand((2, len(x), 1), generator=_generator(seed))
        length = (draw[0] * self.share * steps).floor()
        low = (draw[1] * (steps - length)).floor()
        place = torch.arange(steps)
        span = (place >= low) & (place < low + length)
        return x.masked_fill(span[:, None, :].to(x.device), 0.0), y


@dataclass(frozen=True, slots=True, kw_only=True)
class Augment:
    """What a client does to its train rows before it learns from them; 0 leaves a step out.

    Drawn anew at every visit; the epochs of one visit share it. Validation and test rows are never
    touched. Any option may be searched: `[tune] choices = { "augment.flip" = [0.0, 0.5] }`.

    Attributes:
        flip: chance that a picture is mirrored left and right.
        crop: pixels by which a picture is shifted at most, each way.
        cutout: pixels a side of the square that is erased from a picture.
        masking: largest share of a series' steps that is silenced.
        jitter: deviation of added noise, in standard units.
        mixup: alpha of Beta(alpha, alpha), by which rows and their labels are mixed.

    References:
        He et al. 2016, arXiv:1512.03385, section 4.2; DeVries & Taylor 2017, arXiv:1708.04552,
        section 3; Park et al. 2019, arXiv:1904.08779, section 2; Um et al. 2017,
        arXiv:1706.00527, section 3; Zhang et al. 2018, arXiv:1710.09412, section 2.
    """

    kind: Literal["steps"] = "steps"
    flip: float = 0.0
    crop: int = 0
    cutout: int = 0
    masking: float = 0.0
    jitter: float = 0.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        between("augment.flip", self.flip, 0, 1)
        at_least("augment.crop", self.crop, 0)
        at_least("augment.cutout", self.cutout, 0)
        between("augment.masking", self.masking, 0, 1)
        between("augment.jitter", self.jitter, 0, 10)
        between("augment.mixup", self.mixup, 0, 100)

    @property
    def parts(self) -> tuple[Flip | Crop | Cutout | Masking | Jitter | Mixup, ...]:
        """The steps that are on, in the order in which they are taken."""
        steps = (
            self.flip and Flip(chance=self.flip),
            self.crop and Crop(pad=self.crop),
            self.cutout and Cutout(size=self.cutout),
            self.masking and Masking(share=self.masking),
            self.jitter and Jitter(deviation=self.jitter),
            self.mixup and Mixup(alpha=self.mixup),
        )
        return tuple(step for step in steps if not isinstance(step, int | float))

    def tuned(self, settings: Mapping[str, Value]) -> "Augment":
        """Return this with what `settings` holds under `augment.`: a branch's own."""
        prefix = "augment."
        own = {k.removeprefix(prefix): v for k, v in settings.items() if k.startswith(prefix)}
        return replace(self, **own) if own else self  # pyright: ignore[reportArgumentType]

    def apply(self, x: "Tensor", y: "Tensor", seed: Seed, outputs: int) -> "tuple[Tensor, Tensor]":
        """Return what a visit learns from; the very same rows where every step is off."""
        return augmented(self.parts, x, y, seed=seed, outputs=outputs)

    def check(self, signature: Signature) -> None:
        """Refuse steps that make no sense for the rows; see `check_augmentations`."""
        check_augmentations(self.parts, signature)


def augmented(
    parts: Sequence[Augmentation], x: "Tensor", y: "Tensor", *, seed: Seed, outputs: int
) -> "tuple[Tensor, Tensor]":
    """Apply `parts` in order, each with its own stream under `seed`."""
    for place, part in enumerate(parts):
        x, y = part.apply(x, y, seed.child("augment", place), outputs)
    return x, y


def check_augmentations(
    parts: Sequence[Flip | Crop | Cutout | Mixup | Jitter | Masking], signature: Signature
) -> None:
    """Refuse parts that make no sense for the rows.

    Raises:
        IncompatibleParts: naming the part and what it fits.
    """
    for part in parts:
        if signature.modality not in part.FITS:
            raise IncompatibleParts(
                f"{part.kind!r} does not fit {signature.modality} rows",
                where="augment",
                fix=f"it fits {', '.join(part.FITS)}; remove it",
            )
        smallest = min(signature.shape[-2:])
        if isinstance(part, Crop | Cutout) and (
            (reach := part.pad if isinstance(part, Crop) else part.size) >= smallest
        ):
            raise IncompatibleParts(
                f"{part.kind!r} reaches across the whole picture",
                got=reach,
                where="augment",
                fix=f"stay below {smallest} pixels",
            )


def _generator(seed: Seed) -> "Generator":
    import torch

    return torch.Generator().manual_seed(seed.value())
