"""Federated neural architecture search: the data stay, the architectures travel.

Public names are loaded when first used, so that importing the package costs nothing. `__init__.pyi`
shows them to editors and type checkers.
"""

from importlib import import_module
from warnings import warn

_HOME: dict[str, str] = {
    "ArchipelagoError": "core.errors",
    "Arrays": "data.sources.arrays",
    "Asha": "strategy.asha",
    "Augment": "data.augment",
    "Bananas": "strategy.bananas",
    "Bohb": "strategy.bohb",
    "Branch": "federation.branch",
    "BreastCancer": "data.sources.bundled",
    "Budget": "driver.budget",
    "Buffered": "federation.buffer",
    "Choice": "space.dims",
    "Classes": "data.partition",
    "Classification": "data.tasks",
    "Cluster": "engine.cluster",
    "Cohort": "federation.cohort",
    "ConfigError": "core.errors",
    "ConfigFaults": "core.errors",
    "Controller": "strategy.controller",
    "CustomNetwork": "nn.custom",
    "Darts": "space.darts",
    "DataError": "core.errors",
    "Diabetes": "data.sources.bundled",
    "Digits": "data.sources.bundled",
    "Dirichlet": "data.partition",
    "Ditto": "client.ditto",
    "FedNova": "aggregate.fednova",
    "FedPer": "client.fedper",
    "FedSgd": "client.training",
    "Federation": "federation.federation",
    "Files": "data.sources.files",
    "Final": "driver.budget",
    "Fleet": "data.fleet",
    "GaussianProcess": "strategy.gaussian_process",
    "Governance": "config.governance",
    "Graph": "space.graph",
    "Grid": "strategy.grid",
    "Hyperband": "strategy.hyperband",
    "Iid": "data.partition",
    "ImageChain": "space.image_chain",
    "ImageFolder": "data.sources.images",
    "IncompatibleParts": "core.errors",
    "Joint": "space.joint",
    "JournalError": "core.errors",
    "LocalSearch": "strategy.local_search",
    "LocalTraining": "client.training",
    "Macro": "space.macro",
    "MissingExtra": "core.errors",
    "MultiBranch": "space.multi_branch",
    "MultiLabel": "data.tasks",
    "Named": "data.sources.named",
    "NasBench201": "space.cell201",
    "NasBench201Size": "space.cell201",
    "Natural": "data.partition",
    "Node": "space.graph",
    "Nsga2": "strategy.nsga2",
    "Outcome": "core.trial",
    "PFedMe": "client.pfedme",
    "ParEgo": "strategy.pareto_gp",
    "PartState": "core.part_state",
    "Plan": "study.planning.plan",
    "Preprocess": "data.preprocess",
    "Processes": "engine.processes",
    "ProgressiveShrinking": "strategy.shrinking",
    "Proposal": "core.trial",
    "Quantity": "data.partition",
    "Race": "estimate.race",
    "Random": "strategy.random",
    "RandomForest": "strategy.forest",
    "Range": "space.dims",
    "Raw": "data.raw",
    "Regression": "data.tasks",
    "RegularizedEvolution": "strategy.evolution",
    "Reinforce": "strategy.reinforce",
    "Repeat": "space.dims",
    "Result": "study.running.search",
    "Rounds": "estimate.rounds",
    "Run": "config.run",
    "RunFailed": "core.errors",
    "Scaffold": "client.scaffold",
    "Search": "driver.live",
    "Seed": "core.seeds",
    "Serial": "engine.serial",
    "SeriesChain": "space.series_chain",
    "ServerAdagrad": "aggregate.server",
    "ServerAdam": "aggregate.server",
    "ServerSgd": "aggregate.server",
    "ServerYogi": "aggregate.server",
    "Space": "space.space",
    "Split": "data.split",
    "Study": "study.running.search",
    "SuccessiveHalving": "strategy.halving",
    "Synchronous": "federation.buffer",
    "TableMlp": "space.table_mlp",
    "Tpe": "strategy.tpe",
    "Tune": "space.joint",
    "WeightedMean": "aggregate.mean",
    "When": "space.dims",
    "Widths": "space.widths",
    "Wine": "data.sources.bundled",
    "WorkerContext": "client.worker",
    "ZeroCost": "estimate.zero_cost",
    "Zoo": "space.zoo",
    "dumps": "config.load",
    "evaluate": "federation.rounds",
    "load": "config.load",
    "loads": "config.load",
    "plan": "study.planning.plan",
    "prepare": "data.prepare",
    "resume": "study.running.search",
    "search": "study.running.search",
    "step": "federation.rounds",
}
__all__ = [*_HOME]  # noqa: PLE0604  # pyright: ignore[reportUnsupportedDunderAll]


_RENAMED = {"Own": "CustomNetwork", "Workplace": "WorkerContext"}
"""Public names of earlier versions, which still load."""


def __getattr__(name: str) -> object:
    if name in _RENAMED:
        warn(f"{name} is now called {_RENAMED[name]}", DeprecationWarning, stacklevel=2)
        name = _RENAMED[name]
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
