"""Ask clients for proxies of untrained networks: one visit each, metered like any other."""

from collections.abc import Sequence

import numpy as np

from archipelago.client.probing import Probe
from archipelago.core.errors import UpdateRefused
from archipelago.core.meter import MeterRow
from archipelago.core.seeds import Seed
from archipelago.federation.branch import Branch
from archipelago.federation.check import failed, scored
from archipelago.federation.rounds import Federation, Scores, message
from archipelago.federation.score_review import Said, ScoreReview

__all__ = ["probe"]


def probe(
    federation: Federation,
    branches: Sequence[Branch],
    clients: Sequence[int],
    *,
    proxies: tuple[str, ...],
    batch: int,
    seed: Seed,
    phase: str,
) -> Scores:
    """Return every live branch's proxies on each client, shape `[proxies]`.

    Args:
        federation: what all rounds share.
        branches: those that are not alive are left out.
        clients: who is asked.
        proxies: names, see `nn.proxies`.
        batch: train rows that a client uses at most.
        seed: draws the rows of each client.
        phase: what the meter calls it.
    """
    live = [branch for branch in branches if branch.alive]
    handles = {branch.number: federation.engine.share(message(branch)) for branch in live}
    rows_of = {c: min(batch, int(federation.train_rows[c])) for c in clients}
    # A forward and a backward pass each: the work of three forward ones.
    work = {
        (b.number, c): 3 * len(proxies) * b.graph.macs * rows_of[c] for b in live for c in clients
    }
    pairs = [(branch, client) for branch in live for client in clients]
    pairs.sort(key=lambda p: (-work[p[0].number, p[1]], p[1], p[0].number))
    tasks = [
        Probe(
            client=client,
            branch=branch.number,
            round=branch.round,
            weight=work[branch.number, client],
            handle=handles[branch.number],
            proxies=proxies,
            batch=batch,
            seed=seed.child("client", client),
        )
        for branch, client in pairs
    ]
    ballot = ScoreReview(asked={b.number: clients for b in live}, read=_read, wide=0.0)
    rows: list[MeterRow] = []
    try:
        for (branch, client), result in zip(
            pairs, federation.clock.waiting(federation.engine.map(tasks), "probe"), strict=True
        ):
            macs, down = work[branch.number, client], handles[branch.number].size
            row = MeterRow(
                phase=phase,
                round=branch.round,
                branch=branch.number,
                client=client,
                kind="evaluate",
                examples=rows_of[client],
                bytes_down=down,
                bytes_up=result.data.nbytes if result.data is not None else 0,
                macs=macs,
                virtual_seconds=macs / federation.cohort.speed + down / federation.cohort.bandwidth,
                seconds=result.seconds,
                note="proxy",
            )
            try:
                if result.data is None:
                    raise failed(result.error, result.kind)
                vector = scored(
                    result.data,
                    client=client,
                    branch=branch.number,
                    round=branch.round,
                    size=len(proxies),
                    rows=rows_of[client],
                )
                ballot.add(branch.number, client, vector)
            except UpdateRefused as refusal:
                ballot.refuse(branch.number, client, refusal)
            rows.append(row)
    finally:
        for handle in handles.values():
            handle.release()
    return Scores.of(ballot, rows)


def _read(vector: np.ndarray) -> Said:
    """A proxy is not defined for some networks, at any client; else it is of one order at all."""
    return Said(finite=bool(np.isfinite(vector).all()), size=float(np.abs(vector).max()))
