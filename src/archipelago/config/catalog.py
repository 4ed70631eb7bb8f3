"""Which parts there are: section of the run file -> kind -> class.

Classes are named by dotted path and imported when asked for: listing kinds loads nothing.
The first kind of a section is the one that a run file gets by leaving the section out.
"""

from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import cache
from importlib import import_module
from typing import Any, Final

from archipelago.core.errors import ConfigError, did_you_mean

__all__ = ["CATALOG", "Catalog", "default", "kinds", "part", "part_class", "place_of"]

Catalog = Mapping[str, Mapping[str, str]]
"""Section -> kind -> `module:Class`."""

CATALOG: Final[Catalog] = {
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
    cls = getattr(import_module(module), name)
    if not (isinstance(cls, type) and is_dataclass(cls)):
        raise ConfigError("a part is a dataclass", got=path, where="catalog")
    return cls
