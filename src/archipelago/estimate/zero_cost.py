"""Scores without training: a proxy on one minibatch, centrally or on each client."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from archipelago.core.checks import at_least
from archipelago.core.errors import ConfigError
from archipelago.core.seeds import Seed
from archipelago.core.trial import Outcome, Proposal
from archipelago.estimate.context import EvaluationContext, Step, outcomes, untrained
from archipelago.estimate.forecast import Forecast, Outlook
from archipelago.federation.branch import Branch, Generation
from archipelago.federation.probe import probe
from archipelago.federation.rounds import Scores
from archipelago.nn.model import Model
from archipelago.nn.proxies import LABELLED, proxy
from archipelago.space.graph import Graph

__all__ = ["ZeroCost"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroCost:
    """Score every candidate by a proxy before anything is trained; the winner alone is trained.

    Clients judge a network on one minibatch of their own train rows and send back one number; the
    score is the mean over clients. The server has no rows: it can only judge by proxies that need
    none, on noise. Every outcome has the parameter count beside it, and `params` is a proxy too:
    one that does not beat it is not worth its cost (`benchmarks/zero_cost.py`).

    Attributes:
        proxy: what the score is.
        where: who computes it.
        batch: rows in the minibatch.
        candidates: networks judged side by side.
        validators: clients asked; 0 asks all.

    References:
        Abdelfattah et al. 2021, arXiv:2101.08134; Mellor et al. 2021, arXiv:2006.04647 (naswot,
        jacobian); Tanaka et al. 2020, arXiv:2006.05467 (synflow); Lee et al. 2019,
        arXiv:1810.02340 (snip).
    """

    kind: Literal["zero-cost"] = "zero-cost"
    proxy: Literal["synflow", "naswot", "jacobian", "snip", "grad-norm", "params"] = "synflow"
    where: Literal["clients", "server"] = "clients"
    batch: int = 64
    candidates: int = 8
    validators: int = 0

    def __post_init__(self) -> None:
        at_least("estimator.batch", self.batch, 2)
        at_least("estimator.candidates", self.candidates, 1)
        at_least("estimator.validators", self.validators, 0, fix="0 asks all clients")
        if self.where == "server" and self.proxy in LABELLED:
            raise ConfigError(
                "this proxy needs labels, and the server has none",
                got=self.proxy,
                where="estimator.where",
                fix='write where = "clients", or take synflow, naswot, jacobian or params',
            )

    def width(self, clients: int) -> int:
        """Return how many proposals one generation takes."""
        del clients
        return self.candidates

    def start(
        self, proposals: Sequence[Proposal], index: int, context: EvaluationContext
    ) -> Generation:
        """Start every branch from scratch; nobody will train it."""
        return untrained(proposals, index, context, validators=self.validators)

    def forecast(
        self,
        proposals: Sequence[Proposal],
        networks: Sequence[Graph],
        index: int,
        outlook: Outlook,
    ) -> Forecast:
        """Return one sweep over the judges; the server's own costs no client anything."""
        del index
        judges = outlook.judges(self.validators) if self.where == "clients" else 0
        return outlook.work(networks, rounds=1, evaluations=len(proposals) * judges)

    def run(self, generation: Generation, context: EvaluationContext) -> Iterator[Step]:
        """Yield once: everybody is judged in one sweep."""
        if generation.outcomes:
            return
        # One stream for the whole search: all candidates are judged on the same rows.
        seed = context.federation.seed.child(context.phase, "proxy")
        if self.where == "clients":
            scores = probe(
                context.federation,
                generation.branches,
                generation.validators,
                proxies=(self.proxy,),
                batch=self.batch,
                seed=seed,
                phase=context.phase,
            )
        else:
            vectors = {b.number: {-1: self._central(b, seed)} for b in generation.branches}
            scores = Scores(vectors=vectors, rows=(), incidents=())
        judged = tuple(self._judged(branch, scores) for branch in generation.branches)
        generation = replace(generation, branches=judged)
        told = tuple(_beside(outcome) for outcome in outcomes(generation))
        yield Step(
            generation=replace(generation, outcomes=told),
            rows=scores.rows,
            losses={},
            incidents=scores.incidents,
        )

    def _central(self, branch: Branch, seed: Seed) -> np.ndarray:
        model = Model.of_graph(branch.graph)
        model.load(branch.flat)
        noise = seed.numpy().standard_normal((self.batch, *branch.graph.input_shape), "float32")
        x, y = torch.from_numpy(noise), torch.zeros(self.batch)
        return np.array([proxy(self.proxy, model.module, x, y, lambda z, _: z.sum())])

    def _judged(self, branch: Branch, scores: Scores) -> Branch:
        found = scores.vectors[branch.number]
        if not found:
            return branch.end(
                "failed", scores.reasons.get(branch.number, "no client could judge it")
            )
        value = float(np.mean([vector[0] for _, vector in sorted(found.items())]))
        if not np.isfinite(value):
            return branch.end("failed", f"{self.proxy} is not defined for this network")
        return replace(
            branch,
            round=1,
            counted=1,
            history=((1, -value, value),),
            metrics={self.proxy: value},
        ).end("done")


def _beside(outcome: Outcome) -> Outcome:
    if not outcome.scored:
        return outcome
    metrics = {**outcome.metrics, "params": float(outcome.costs["params"])}
    return replace(outcome, metrics=metrics)
