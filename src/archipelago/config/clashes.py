"""Parts that are fine alone and wrong together, refused when a run is composed."""

from typing import Any

from archipelago.core.errors import IncompatibleParts

__all__ = ["refuse_clashes"]


def refuse_clashes(client: Any, aggregator: Any, estimator: Any) -> None:
    """Refuse ways of training that do not fit how updates are averaged or candidates compared.

    Raises:
        IncompatibleParts: names both parts and the way out.
    """
    trains, averages = _kind(client), _kind(aggregator)
    local = getattr(client, "local", client)
    if averages == "fednova" and trains in ("scaffold", "pfedme"):
        raise IncompatibleParts(
            "FedNova undoes what uneven steps of SGD add up to; these clients do otherwise",
            got=(trains, averages),
            where="aggregator.kind",
            fix="choose aggregator.kind = 'weighted-mean', or client.kind = 'local'",
        )
    if averages == "fednova" and getattr(local, "optimizer", "sgd") != "sgd":
        raise IncompatibleParts(
            "FedNova needs to know how far equal gradients carry a client: Adam hides it",
            got=local.optimizer,
            where="aggregator.kind",
            fix="set the client's optimizer to 'sgd', or choose aggregator.kind = 'weighted-mean'",
        )
    if trains == "scaffold" and not getattr(aggregator, "linear", False):
        raise IncompatibleParts(
            "control variates are averaged as updates are: that average must be linear",
            got=averages,
            where="aggregator.kind",
            fix="choose aggregator.kind = 'weighted-mean'",
        )
    if trains in ("fedper", "ditto", "pfedme") and _kind(estimator) == "race":
        raise IncompatibleParts(
            "in a race a client trains for one candidate only: it has no model of its own of the"
            " others, so they cannot be compared on the same clients",
            got=(trains, "race"),
            where="estimator.kind",
            fix="choose estimator.kind = 'rounds'",
        )


def _kind(part: Any) -> str:
    return str(getattr(part, "kind", ""))
