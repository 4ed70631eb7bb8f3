"""Which contracts a family has."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from archipelago.config.catalog import CATALOG
from archipelago.core.errors import ConfigError, did_you_mean
from archipelago.testing.parts import EVERY

__all__ = ["Contract", "contracts"]

Contract = Callable[[Any], None]
"""Takes a part; raises `AssertionError` where the part does not hold it."""

_FAMILIES: Mapping[str, str] = {
    "aggregator": "aggregators",
    "client": "clients",
    "cohort": "cohorts",
    "engine": "engines",
    "estimator": "estimators",
    "partition": "partitions",
    "server": "servers",
    "space": "spaces",
    "strategy": "strategies",
}
"""Section -> module of this folder whose `CONTRACTS` are the family's."""


def contracts(section: str) -> tuple[Contract, ...]:
    """Return the contracts of a family: those of every part, then its own.

    Args:
        section: of the run file, e.g. `strategy`.

    Raises:
        ConfigError: there is no such section.
    """
    if section not in CATALOG:
        raise ConfigError("no such section", got=section, fix=did_you_mean(section, CATALOG))
    if section not in _FAMILIES:
        return EVERY
    family = import_module(f"archipelago.testing.{_FAMILIES[section]}")
    return (*EVERY, *family.CONTRACTS)
