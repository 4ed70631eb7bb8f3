"""How tables are scaled: a part, so that a run file or a search may choose it."""

from dataclasses import dataclass
from typing import Literal

from archipelago.core.checks import at_least, one_of

__all__ = ["Preprocess"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """Scaling of numbers and flooring of categories.

    Attributes:
        scaling: `standard` (mean, standard deviation), `robust` (median, half the interquartile
            range), `quantile` (rank; evens out long tails) or `none`. The middle two come from
            binned histograms of pooled counts.
        floor: a category seen fewer times than this at a client is not named by that client; seen
            fewer times in all, it joins `(other)`.
        categories: keep at most so many categories a column, the most frequent.
    """

    kind: Literal["preprocess"] = "preprocess"
    scaling: str = "standard"
    floor: int = 5
    categories: int = 64

    def __post_init__(self) -> None:
        one_of("preprocess.scaling", self.scaling, ("standard", "robust", "quantile", "none"))
        at_least("preprocess.floor", self.floor, 1)
        at_least("preprocess.categories", self.categories, 1)
