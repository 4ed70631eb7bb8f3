"""How tables are scaled and series are cut: a part, so that a run file may choose it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from archipelago.core.checks import at_least, one_of
from archipelago.core.errors import ConfigError, IncompatibleParts
from archipelago.core.trial import Value
from archipelago.data.windows import REMAINDERS, Windows

__all__ = ["SCALING", "Preprocess"]

SCALING = "preprocess.scaling"
"""The setting by which a search chooses how numbers are scaled."""

_SCALINGS = ("standard", "robust", "quantile", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """Scaling of numbers, flooring of categories, windows of long series.

    Attributes:
        scaling: `standard` (mean, standard deviation), `robust` (median, half the interquartile
            range), `quantile` (rank; evens out long tails) or `none`. The middle two come from
            binned histograms of pooled counts.
        floor: nothing that leaves a silo is about fewer rows of it than this; see
            docs/what-leaves.md. Also of a published set: a category seen fewer times at a client is
            not named by that client; seen fewer times in all, it joins `(other)`.
        label_counts: let exact numbers of rows of each class leave a silo, be kept and be shown in
            the report.
        categories: keep at most so many categories a column, the most frequent.
        units: of columns, by name, and of a numeric target by its column's; they travel with the
            model and change no result.
        window: of series: steps that a network sees at once; 0 takes recordings whole. All windows
            of a recording stay in one split; `predict` cuts the same ones and answers once a
            recording, with the mean of their scores.
        stride: steps from one window to the next; 0 is `window`: they do not overlap.
        remainder: what becomes of steps after the last whole window: `last` cuts one window more,
            which ends where the recording ends; `drop` leaves them out.
    """

    kind: Literal["preprocess"] = "preprocess"
    scaling: str = "standard"
    floor: int = 5
    label_counts: bool = False
    categories: int = 64
    units: Mapping[str, str] = field(default_factory=dict[str, str])
    window: int = 0
    stride: int = 0
    remainder: str = "last"

    def __post_init__(self) -> None:
        one_of("preprocess.scaling", self.scaling, _SCALINGS)
        at_least("preprocess.floor", self.floor, 1)
        at_least("preprocess.categories", self.categories, 1)
        at_least("preprocess.window", self.window, 0)
        at_least("preprocess.stride", self.stride, 0)
        one_of("preprocess.remainder", self.remainder, REMAINDERS)
        if self.stride and not self.window:
            raise ConfigError(
                "says how far windows are apart, and there are none",
                got=self.stride,
                where="preprocess.stride",
                fix="set preprocess.window too, or leave it out",
            )

    @property
    def windows(self) -> Windows | None:
        """How recordings are cut; None takes them whole."""
        if not self.window:
            return None
        stride = self.stride or self.window
        return Windows(length=self.window, stride=stride, remainder=self.remainder)

    def tuned(self, settings: Mapping[str, Value]) -> "Preprocess":
        """Return this with the scaling that `settings` names, if it does."""
        return replace(self, scaling=str(settings.get(SCALING, self.scaling)))

    def views(self, choices: Mapping[str, tuple[Value, ...]], modality: str) -> tuple[str, ...]:
        """Return the scalings that a search may choose beside this one.

        Raises:
            IncompatibleParts: there are some, and the rows are not a table.
        """
        found = [str(option) for option in choices.get(SCALING, ()) if option != self.scaling]
        if found and modality != "table":
            raise IncompatibleParts(
                "only the columns of a table are scaled in several ways",
                got=modality,
                where=f"tune.choices.{SCALING}",
                fix="leave it out: channels are always brought to mean 0 and deviation 1",
            )
        return tuple(dict.fromkeys(found))
