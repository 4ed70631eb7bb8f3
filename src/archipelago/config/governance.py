"""The right to use the data, as a consortium states it: shown in the report, checked by people."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Governance"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Governance:
    """What the report states of the data's protection. Nothing here changes a result.

    Attributes:
        entitlement: under which agreement or approval the silos take part.
        silos: entitlements that differ, by name of the silo.
        purpose: what the model is for, and what it must not be used for.
        legal_basis: for example an article of the GDPR.
        retention: how long updates, runs and the model are kept.
        contact: whom a data subject or an auditor may ask.
    """

    kind: Literal["stated"] = "stated"
    entitlement: str = ""
    silos: Mapping[str, str] = field(default_factory=dict[str, str])
    purpose: str = ""
    legal_basis: str = ""
    retention: str = ""
    contact: str = ""
