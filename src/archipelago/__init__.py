"""Federated neural architecture search: the data stay, the architectures travel.

Public names are loaded when first used, so that importing the package costs nothing. `__init__.pyi`
shows them to editors and type checkers.
"""

from importlib import import_module

_HOME: dict[str, str] = {
    "ArchipelagoError": "core.errors",
    "Arrays": "data.sources.arrays",
    "Asha": "strategy.asha",
    "Bohb": "strategy.bohb",
    "BreastCancer": "data.sources.bundled",
    "Budget": "driver.budget",
    "Choice": "space.dims",
    "Classes": "data.partition",
    "Classification": "data.tasks",
    "Cluster": "engine.cluster",
    "Cohort": "federation.cohort",
    "ConfigError": "core.errors",
    "ConfigFaults": "core.errors",
    "Darts": "space.darts",
    "DataError": "core.errors",
    "Diabetes": "data.sources.bundled",
    "Digits": "data.sources.bundled",
    "Dirichlet": "data.partition",
    "Ditto": "client.ditto",
    "FedNova": "aggregate.fednova",
    "FedPer": "client.fedper",
    "FedSgd": "client.training",
    "Files": "data.sources.files",
    "Final": "driver.budget",
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
    "Outcome": "core.trial",
    "PFedMe": "client.pfedme",
    "Plan": "study.plan",
    "Preprocess": "data.preprocess",
    "Processes": "engine.processes",
    "Proposal": "core.trial",
    "Quantity": "data.partition",
    "Race": "estimate.race",
    "Random": "strategy.random",
    "Range": "space.dims",
    "Raw": "data.raw",
    "Regression": "data.tasks",
    "RegularizedEvolution": "strategy.evolution",
    "Repeat": "space.dims",
    "Result": "study.search",
    "Rounds": "estimate.rounds",
    "Run": "config.run",
    "RunFailed": "core.errors",
    "Scaffold": "client.scaffold",
    "Seed": "core.seeds",
    "Serial": "engine.serial",
    "SeriesChain": "space.series_chain",
    "ServerAdagrad": "aggregate.server",
    "ServerAdam": "aggregate.server",
    "ServerSgd": "aggregate.server",
    "ServerYogi": "aggregate.server",
    "Space": "space.space",
    "Split": "data.split",
    "Study": "study.search",
    "SuccessiveHalving": "strategy.halving",
    "TableMlp": "space.table_mlp",
    "Tune": "space.joint",
    "WeightedMean": "aggregate.mean",
    "When": "space.dims",
    "Wine": "data.sources.bundled",
    "Zoo": "space.zoo",
    "dumps": "config.load",
    "load": "config.load",
    "loads": "config.load",
    "plan": "study.plan",
    "resume": "study.search",
    "search": "study.search",
}
__all__ = [*_HOME]  # noqa: PLE0604  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
