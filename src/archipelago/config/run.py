"""A whole study as one frozen value."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from typing import Any, Final

from archipelago.config.catalog import default, place_of
from archipelago.config.clashes import refuse_clashes
from archipelago.config.faults import sentence
from archipelago.config.tables import from_table, to_table
from archipelago.core.checks import between, file_name
from archipelago.core.errors import ConfigFaults, IncompatibleParts, did_you_mean
from archipelago.data.preprocess import SCALING
from archipelago.space.constraints import Constraint, parse

__all__ = ["SETTINGS", "Run"]

SETTINGS: Final = ("name", "about", "seed", "constraints")
"""Fields of `Run` that are plain values; every other one is a section, holding a part."""


_VISITS = 10_000
"""Clients that a round may visit: more are a mistake in a run file, not a plan."""


def _section(name: str) -> Any:
    return field(default_factory=partial(default, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Everything needed to repeat a study. The TOML run file is its other spelling.

    A section takes any part of its family: one from the catalog, or your own with the same
    methods (such a run works, but no file can spell it).

    Attributes:
        name: heading of the report, and of the directory under `runs/`: no path.
        about: a sentence for the report's reader.
        seed: root of every random stream; the same seed gives the same run.
        constraints: hard limits on a candidate, e.g. `params < 100k`.
        data: where rows come from.
        partition: which client holds which rows.
        split: train, validation and test rows of each client.
        preprocess: how tables are scaled and categories floored.
        task: what is predicted and how it is scored.
        space: which architectures there are.
        tune: which settings of the client are searched too.
        strategy: which of them is tried next.
        estimator: how a candidate gets its score.
        client: local training.
        augment: what a client does to its train rows first.
        aggregator: how updates are averaged.
        server: what is done with the averaged change.
        cohort: who takes part in a round, on which devices.
        topology: whether the server waits for them.
        engine: where clients' work is computed.
        budget: when the search ends.
        final: how the winner is trained to the end.
        governance: what the report states of the right to use the data.

    Example:
        >>> Run(seed=3).seed
        3
    """

    name: str = "run"
    about: str = ""
    seed: int = 0
    constraints: tuple[str, ...] = ()
    data: Any = _section("data")
    partition: Any = _section("partition")
    split: Any = _section("split")
    preprocess: Any = _section("preprocess")
    task: Any = _section("task")
    space: Any = _section("space")
    tune: Any = _section("tune")
    strategy: Any = _section("strategy")
    estimator: Any = _section("estimator")
    client: Any = _section("client")
    augment: Any = _section("augment")
    aggregator: Any = _section("aggregator")
    server: Any = _section("server")
    cohort: Any = _section("cohort")
    topology: Any = _section("topology")
    engine: Any = _section("engine")
    budget: Any = _section("budget")
    final: Any = _section("final")
    governance: Any = _section("governance")

    def __post_init__(self) -> None:
        # By default it names the run's directory, too.
        file_name("name", self.name)
        # A seed is stored as a signed 64-bit number.
        between("seed", self.seed, 0, 2**63 - 1)
        for text in self.constraints:
            parse(text)
        faults = list(_untunable(self.client, self.augment, self.preprocess, self.tune.choices))
        if faults:
            raise ConfigFaults("the choices of [tune]", faults)
        refuse_clashes(self.client, self.aggregator, self.estimator)
        if getattr(self.strategy, "inherits", False) and not getattr(
            self.estimator, "inherit", False
        ):
            raise IncompatibleParts(
                "this strategy's candidates start from their parent's weights",
                got=self.strategy.kind,
                where="estimator.inherit",
                fix="set inherit = true, and warm = 30 or more: rounds of the whole network",
            )
        if self.topology.kind == "buffered":
            _check_buffered(self)
        holders = getattr(self.partition, "clients", None)
        if isinstance(holders, int) and holders > 0:
            self.check_clients(holders)
        if self.partition.kind == "fleet" and SCALING in self.tune.choices:
            raise IncompatibleParts(
                "a fleet's rows are scaled in one way only",
                got=self.tune.choices[SCALING],
                where=f"tune.choices.{SCALING}",
                fix="set preprocess.scaling instead",
            )

    def check_clients(self, clients: int) -> None:
        """Check what depends on how many clients there are.

        Raises:
            IncompatibleParts: they are fewer than a cohort, or than the replies a round needs; or
                so many that a round may not visit them all.
        """
        sampled = getattr(self.cohort, "clients", 0)
        if clients < sampled:
            raise IncompatibleParts(
                "fewer clients than a cohort",
                got=(clients, sampled),
                where="cohort.clients",
                fix=f"lower cohort.clients to {clients} or raise partition.clients to {sampled}",
            )
        needed = getattr(self.cohort, "minimum", 1)
        if needed > 1 and self.cohort.count(clients) < needed:
            raise IncompatibleParts(
                "a round cannot need more replies than it has clients",
                got=(needed, self.cohort.count(clients)),
                where="cohort.minimum",
                fix=f"lower minimum to {self.cohort.count(clients)}",
            )
        if self.estimator.kind == "race" and needed > 1 and not self.estimator.sample:
            asked = self.cohort.count(self.estimator.smallest(clients))
            if 0 < asked < needed:
                raise IncompatibleParts(
                    "a round cannot need more replies than a candidate's group gives",
                    got=(needed, asked),
                    where="cohort.minimum",
                    fix=f"lower minimum to {asked}, or estimator.candidates: groups get larger",
                )
        _check_many(self, clients)

    @property
    def family(self) -> Any:
        """What the search runs over: the space, and the settings that are tuned with it."""
        return self.tune.family(self.space)

    @property
    def augments(self) -> Iterator[Any]:
        """Every augmentation that a client may be asked for: the section's, and each tuned one."""
        yield self.augment
        for name, options in self.tune.choices.items():
            if name.startswith("augment."):
                yield from (self.augment.tuned({name: option}) for option in options)

    @property
    def limits(self) -> tuple[Constraint, ...]:
        """The constraints, read."""
        return tuple(parse(text) for text in self.constraints)


def _check_many(run: Run, clients: int) -> None:
    """Refuse a round that would visit everybody, where everybody is very many."""
    if run.cohort.count(clients) > _VISITS:
        raise IncompatibleParts(
            "a round would visit very many clients",
            got=run.cohort.count(clients),
            where="cohort.clients",
            fix="sample some, e.g. cohort.clients = 100",
        )
    if clients > _VISITS and getattr(run.estimator, "group", 1) == 0:
        raise IncompatibleParts(
            "the groups would share out very many clients",
            got=clients,
            where="estimator.group",
            fix="give each candidate a group, e.g. estimator.group = 1000",
        )


def _check_buffered(run: Run) -> None:
    """Refuse what has no meaning where nobody is waited for."""
    if run.cohort.over > 1:
        raise IncompatibleParts(
            "a buffer does not wait for the slow: nothing is gained by asking more clients",
            got=run.cohort.over,
            where="cohort.over",
            fix="leave cohort.over out, or use topology.kind = 'synchronous'",
        )
    if run.cohort.minimum > run.topology.buffer:
        raise IncompatibleParts(
            "a step cannot need more replies than its buffer holds",
            got=(run.cohort.minimum, run.topology.buffer),
            where="cohort.minimum",
            fix=f"lower minimum to {run.topology.buffer}",
        )
    if hasattr(run.client, "initial"):
        raise IncompatibleParts(
            "clients that keep something between rounds are waited for",
            got=run.client.kind,
            where="topology.kind",
            fix="use topology.kind = 'synchronous', or client.kind = 'local'",
        )


def _untunable(
    client: Any, augment: Any, preprocess: Any, choices: Mapping[str, Any]
) -> Iterator[str]:
    """Yield what is wrong with trying each of `choices` in the part that it belongs to."""
    apart = {name: options for name, options in choices.items() if "." in name}
    for name in apart:
        if not name.startswith("augment.") and name != SCALING:
            what = f"only options of [client], augment.OPTION and {SCALING} are tuned"
            yield sentence(what, where=f"tune.choices.{name}")
    prefix = "augment."
    steps = {k.removeprefix(prefix): v for k, v in apart.items() if k.startswith(prefix)}
    yield from _unfit("augment", augment, steps)
    scalings = {"scaling": apart[SCALING]} if SCALING in apart else {}
    yield from _unfit("preprocess", preprocess, scalings)
    yield from _unfit("client", client, {k: v for k, v in choices.items() if k not in apart})


def _unfit(section: str, part: Any, choices: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with trying each of `choices` in the part of a section."""
    if not is_dataclass(part):
        return
    inner = getattr(part, "local", None)
    if inner is not None:
        # What the part has no field for goes to the local training inside it.
        mine = {option.name for option in fields(part)}
        yield from _unfit(section, inner, {k: v for k, v in choices.items() if k not in mine})
        choices = {name: options for name, options in choices.items() if name in mine}
    known = [option.name for option in fields(part) if option.init and option.name != "kind"]
    for name, options in choices.items():
        where = f"tune.choices.{name}"
        if name not in known:
            fix = did_you_mean(name, known)
            yield sentence(f"no such option of [{section}]", where=where, fix=fix)
        elif place_of(part):
            for option in options:
                table = {**to_table(part, section), name: option}
                yield from from_table(section, table)[1]
