"""Which parts there are: section of the run file -> kind -> class.

Classes are named by dotted path and imported when asked for: listing kinds loads nothing.
The first kind of a section is the one that a run file gets by leaving the section out.

A package adds parts of its own by entry points of the group `archipelago.parts`, each named
`section.kind`::

    [project.entry-points."archipelago.parts"]
    "strategy.my-method" = "my_package.mine:MyMethod"
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from archipelago.core.errors import ConfigError, did_you_mean

__all__ = [
    "BUILT_IN",
    "CATALOG",
    "GROUP",
    "Catalog",
    "default",
    "extended",
    "kinds",
    "part",
    "part_class",
    "place_of",
]

GROUP: Final = "archipelago.parts"
"""Of the entry points by which packages add parts."""

Catalog = Mapping[str, Mapping[str, str]]
"""Section -> kind -> `module:Class`."""

BUILT_IN: Final[Catalog] = {
    "data": {
        "digits": "archipelago.data.sources.bundled:Digits",
        "breast-cancer": "archipelago.data.sources.bundled:BreastCancer",
        "wine": "archipelago.data.sources.bundled:Wine",
        "diabetes": "archipelago.data.sources.bundled:Diabetes",
        "files": "archipelago.data.sources.files:Files",
        "image-folder": "archipelago.data.sources.images:ImageFolder",
        "named": "archipelago.data.sources.named:Named",
    },
    "partition": {
        "dirichlet": "archipelago.data.partition:Dirichlet",
        "iid": "archipelago.data.partition:Iid",
        "classes": "archipelago.data.partition:Classes",
        "quantity": "archipelago.data.partition:Quantity",
        "natural": "archipelago.data.partition:Natural",
        "fleet": "archipelago.data.fleet:Fleet",
    },
    "split": {"random": "archipelago.data.split:Split"},
    "preprocess": {"preprocess": "archipelago.data.preprocess:Preprocess"},
    "task": {
        "classification": "archipelago.data.tasks:Classification",
        "multi-label": "archipelago.data.tasks:MultiLabel",
        "regression": "archipelago.data.tasks:Regression",
    },
    "space": {
        "image-chain": "archipelago.space.image_chain:ImageChain",
        "series-chain": "archipelago.space.series_chain:SeriesChain",
        "table-mlp": "archipelago.space.table_mlp:TableMlp",
        "multi-branch": "archipelago.space.multi_branch:MultiBranch",
        "macro": "archipelago.space.macro:Macro",
        "nas-bench-201": "archipelago.space.cell201:NasBench201",
        "nas-bench-201-size": "archipelago.space.cell201:NasBench201Size",
        "darts": "archipelago.space.darts:Darts",
        "zoo": "archipelago.space.zoo:Zoo",
        "widths": "archipelago.space.widths:Widths",
    },
    "tune": {"choices": "archipelago.space.joint:Tune"},
    "strategy": {
        "regularized-evolution": "archipelago.strategy.evolution:RegularizedEvolution",
        "random": "archipelago.strategy.random:Random",
        "grid": "archipelago.strategy.grid:Grid",
        "successive-halving": "archipelago.strategy.halving:SuccessiveHalving",
        "hyperband": "archipelago.strategy.hyperband:Hyperband",
        "asha": "archipelago.strategy.asha:Asha",
        "bohb": "archipelago.strategy.bohb:Bohb",
        "local-search": "archipelago.strategy.local_search:LocalSearch",
        "reinforce": "archipelago.strategy.reinforce:Reinforce",
        "controller": "archipelago.strategy.controller:Controller",
        "tpe": "archipelago.strategy.tpe:Tpe",
        "gaussian-process": "archipelago.strategy.gaussian_process:GaussianProcess",
        "random-forest": "archipelago.strategy.forest:RandomForest",
        "bananas": "archipelago.strategy.bananas:Bananas",
        "nsga2": "archipelago.strategy.nsga2:Nsga2",
        "parego": "archipelago.strategy.pareto_gp:ParEgo",
        "progressive-shrinking": "archipelago.strategy.shrinking:ProgressiveShrinking",
    },
    "estimator": {
        "race": "archipelago.estimate.race:Race",
        "rounds": "archipelago.estimate.rounds:Rounds",
        "zero-cost": "archipelago.estimate.zero_cost:ZeroCost",
    },
    "client": {
        "local": "archipelago.client.training:LocalTraining",
        "fedsgd": "archipelago.client.training:FedSgd",
        "scaffold": "archipelago.client.scaffold:Scaffold",
        "fedper": "archipelago.client.fedper:FedPer",
        "ditto": "archipelago.client.ditto:Ditto",
        "pfedme": "archipelago.client.pfedme:PFedMe",
    },
    "augment": {"steps": "archipelago.data.augment:Augment"},
    "server": {
        "sgd": "archipelago.aggregate.server:ServerSgd",
        "adam": "archipelago.aggregate.server:ServerAdam",
        "yogi": "archipelago.aggregate.server:ServerYogi",
        "adagrad": "archipelago.aggregate.server:ServerAdagrad",
    },
    "aggregator": {
        "weighted-mean": "archipelago.aggregate.mean:WeightedMean",
        "fednova": "archipelago.aggregate.fednova:FedNova",
    },
    "cohort": {"sampled": "archipelago.federation.cohort:Cohort"},
    "topology": {
        "synchronous": "archipelago.federation.buffer:Synchronous",
        "buffered": "archipelago.federation.buffer:Buffered",
    },
    "engine": {
        "processes": "archipelago.engine.processes:Processes",
        "serial": "archipelago.engine.serial:Serial",
        "cluster": "archipelago.engine.cluster:Cluster",
    },
    "budget": {"trials": "archipelago.driver.budget:Budget"},
    "final": {"rounds": "archipelago.driver.budget:Final"},
    "governance": {"stated": "archipelago.config.governance:Governance"},
}


def extended(catalog: Catalog, points: Iterable[EntryPoint]) -> Catalog:
    """Return the catalog with the parts that entry points name, in the order of their names.

    Raises:
        ConfigError: one has no section that we know, or a kind that is taken; its package is named.
    """
    out = {section: dict(listed) for section, listed in catalog.items()}
    for point in sorted(points, key=lambda point: point.name):
        section, dot, kind = point.name.partition(".")
        owner = point.dist.name if point.dist else point.value
        if section not in out or not kind:
            raise ConfigError(
                "a package adds a part to a section that does not exist",
                got=point.name,
                where=f"package {owner!r}",
                fix=did_you_mean(section, out) if dot else "name it 'section.kind'",
            )
        if kind in out[section]:
            raise ConfigError(
                "a package adds a part whose name is taken",
                got=point.name,
                where=f"package {owner!r}",
                fix=f"it is {out[section][kind]} already: choose another kind",
            )
        out[section][kind] = point.value
    return out


class _Installed(Mapping[str, Mapping[str, str]]):
    """What comes with Archipelago and what installed packages add, looked up when first needed."""

    @property
    def _listed(self) -> Catalog:
        return _installed()

    def __getitem__(self, section: str) -> Mapping[str, str]:
        return self._listed[section]

    def __iter__(self) -> Iterator[str]:
        return iter(self._listed)

    def __len__(self) -> int:
        return len(self._listed)


@cache
def _installed() -> Catalog:
    return extended(BUILT_IN, entry_points(group=GROUP))


CATALOG: Final[Catalog] = _Installed()


def kinds(section: str, catalog: Catalog = CATALOG) -> tuple[str, ...]:
    """Return the kinds of `section`, the default first."""
    return tuple(catalog[section])


def part_class(section: str, kind: str, catalog: Catalog = CATALOG) -> type[Any]:
    """Import and return one part's class.

    Raises:
        ConfigError: there is no such section or kind; the closest one is named.
    """
    if section not in catalog:
        raise ConfigError("no such section", got=section, fix=did_you_mean(section, catalog))
    if kind not in catalog[section]:
        raise ConfigError(
            "no such kind", got=kind, where=section, fix=did_you_mean(kind, catalog[section])
        )
    return _import(catalog[section][kind])


def part(section: str, kind: str | None = None, catalog: Catalog = CATALOG, **options: Any) -> Any:
    """Return a part with `options`; without `kind`, the section's default kind.

    Example:
        >>> part("strategy", "random").kind
        'random'
    """
    return part_class(section, kind or kinds(section, catalog)[0], catalog)(**options)


def default(section: str) -> Any:
    """Return the part that a run has where its file leaves `section` out."""
    return part(section)


def place_of(value: object, catalog: Catalog = CATALOG) -> tuple[str, str] | None:
    """Return the section and kind under which the class of `value` is listed, if it is."""
    cls = type(value)
    path = f"{cls.__module__}:{cls.__qualname__}"
    for section, known in catalog.items():
        for kind, listed in known.items():
            if listed == path:
                return section, kind
    return None


@cache
def _import(path: str) -> type[Any]:
    module, _, name = path.partition(":")
    try:
        cls = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        if module.startswith("archipelago."):
            raise
        raise ConfigError(
            "a part of another package cannot be loaded",
            got=str(error),
            where=path,
            fix="mend or remove the package that names it among its entry points",
        ) from error
    if not (isinstance(cls, type) and is_dataclass(cls)):
        raise ConfigError("a part is a dataclass", got=path, where="catalog")
    return cls
