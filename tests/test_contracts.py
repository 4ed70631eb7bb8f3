"""Every part of the catalog keeps its family's contracts, and those break what breaks them."""

import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import ClassVar

import pytest

from archipelago.aggregate.mean import WeightedMean
from archipelago.aggregate.server import ServerSgd
from archipelago.config.catalog import BUILT_IN, GROUP, extended, part
from archipelago.core.errors import ConfigError
from archipelago.testing import contracts

NEEDED = {
    ("data", "files"): {"paths": ("rows.csv",), "label": "y"},
    ("data", "image-folder"): {"paths": ("pictures",)},
    ("data", "named"): {"name": "heart_disease"},
    ("estimator", "race"): {"candidates": 2, "first": 1, "last": 3},
    ("estimator", "rounds"): {"candidates": 2, "rounds": 3},
    ("partition", "dirichlet"): {"clients": 8},
    ("partition", "fleet"): {"clients": 100, "homes": 6},
    ("engine", "processes"): {"workers": 2},
    ("space", "darts"): {"channels": 4, "layers": 3},
    ("space", "nas-bench-201"): {"channels": 4, "cells": 1},
    ("space", "nas-bench-201-size"): {"widths": (2, 4, 6)},
    ("space", "zoo"): {"widths": (0.0625,)},
}
"""Options without which a part cannot be made, or takes long."""
ELSEWHERE = {
    ("engine", "cluster"),  # test_cluster.py: it takes seconds to start
    ("strategy", "progressive-shrinking"),  # test_fednas.py: it has a space of its own
}
LISTED = [
    pytest.param(section, kind, contract, id=f"{section}-{kind}-{contract.__name__}")
    for section in BUILT_IN
    for kind in BUILT_IN[section]
    for contract in contracts(section)
    if (section, kind) not in ELSEWHERE
]


@pytest.mark.parametrize(("section", "kind", "contract"), LISTED)
def test_every_part_keeps_its_contracts(section, kind, contract):
    contract(part(section, kind, **NEEDED.get((section, kind), {})))


@dataclass(frozen=True, slots=True, kw_only=True)
class Last(WeightedMean):
    """An average that forgets: whoever comes last is the mean."""

    linear: ClassVar[bool] = True

    def fold(self, folding, update):
        folding.total.copy_(update.delta)
        folding.weight, folding.count = 1.0, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Greedy(ServerSgd):
    """Optimises statistics as if they were weights."""

    def step(self, state, layout, flat, delta):
        return state, flat + 0.5 * delta


@pytest.mark.parametrize(
    ("section", "broken", "name"),
    [
        ("aggregator", Last(), "the_order_of_arrival_changes_rounding_only"),
        ("server", Greedy(), "statistics_are_averaged_and_not_optimised"),
    ],
)
def test_a_contract_finds_what_breaks_it(section, broken, name):
    contract = next(one for one in contracts(section) if one.__name__ == name)
    with pytest.raises(AssertionError):
        contract(broken)


PACKAGE = '''
from dataclasses import dataclass
from typing import Literal

from archipelago import WeightedMean


@dataclass(frozen=True, slots=True, kw_only=True)
class Half(WeightedMean):
    """Half the mean.

    Attributes:
        weighting: as in the mean.
        bound: as in the mean.
        share: of the mean that counts.
    """

    kind: Literal["half"] = "half"
    share: float = 0.5

    def finish(self, folding):
        return WeightedMean.finish(self, folding) * self.share
'''


@pytest.fixture
def package(tmp_path):
    """A package as pip would install it, whose entry point adds an aggregator."""
    (tmp_path / "halves.py").write_text(PACKAGE)
    about = tmp_path / "halves-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: halves\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{GROUP}]\naggregator.half = halves:Half\n")
    return tmp_path


def _run(package: Path, *words: str):
    path = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-m", *words],
        env={**os.environ, "PYTHONPATH": path},
        cwd=package,
        capture_output=True,
        text=True,
    )


def test_an_installed_package_adds_a_part_that_run_files_may_name(package):
    assert "half" in _run(package, "archipelago", "parts", "aggregator").stdout
    run = (
        'data = { kind = "wine" }\npartition = { kind = "iid", clients = 3 }\n'
        'space = { kind = "table-mlp" }\nestimator = { kind = "rounds" }\n'
        'aggregator = { kind = "half", share = 0.25 }\n'
    )
    (package / "run.toml").write_text(run)
    done = _run(package, "archipelago", "check", "run.toml")
    assert done.returncode == 0, done.stdout + done.stderr
    (package / "run.toml").write_text(run.replace("0.25", '"much"'))
    done = _run(package, "archipelago", "check", "run.toml")
    assert done.returncode == 2
    assert "aggregator.share: must be a number, got 'much'." in done.stdout + done.stderr


def test_the_contracts_come_free_with_it(package):
    (package / "test_half.py").write_text(
        "import pytest\nfrom halves import Half\nfrom archipelago.testing import contracts\n\n\n"
        '@pytest.mark.parametrize("contract", contracts("aggregator"))\n'
        "def test_half(contract):\n    contract(Half(share=1.0))\n"
    )
    done = _run(package, "pytest", "-q", "test_half.py", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("boat.sail", "a section that does not exist"),
        ("aggregator", "a section that does not exist"),
        ("aggregator.fednova", "whose name is taken"),
    ],
)
def test_a_part_that_cannot_be_listed_names_its_package(name, what):
    point = EntryPoint(name, "mine.parts:Mine", GROUP)
    with pytest.raises(ConfigError, match=what) as error:
        extended(BUILT_IN, [point])
    assert "mine.parts:Mine" in str(error.value)


def test_a_part_whose_package_is_broken_says_so(package):
    (package / "halves.py").write_text("import nothing_of_this_name\n")
    (package / "run.toml").write_text('aggregator = { kind = "half" }\n')
    done = _run(package, "archipelago", "check", "run.toml")
    assert done.returncode == 2
    assert "cannot be loaded" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
