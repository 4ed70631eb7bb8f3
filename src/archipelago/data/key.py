"""The key to sealed test rows. Only `study/` may import it: a contract in CI checks that."""

from dataclasses import dataclass

__all__ = ["TestKey"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TestKey:
    """Whoever holds it may read test rows, and says what for.

    Attributes:
        purpose: written down beside the numbers, e.g. "the report's test".
    """

    __test__ = False  # pytest, not a test class
    purpose: str
