"""The examples of docs/in-python.md run as they stand; a run composed in Python survives a stop."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from archipelago import (
    Branch,
    Choice,
    Classification,
    CustomNetwork,
    Digits,
    Federation,
    Iid,
    LocalTraining,
    Processes,
    Run,
    Seed,
    Serial,
    Space,
    Split,
    TableMlp,
    WorkerContext,
    prepare,
    resume,
    search,
    step,
)
from archipelago.core.errors import ConfigError, IncompatibleParts
from archipelago.nn.model import Model

PAGE = Path(__file__).parents[1] / "docs" / "in-python.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def run_example(number, folder):
    command = [sys.executable, "-c", EXAMPLES[number]]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_space_and_a_torch_network_of_ones_own(tmp_path):
    lines = run_example(0, tmp_path)
    scores = [float(line.split()[-1]) for line in lines]
    assert len(scores) == 6
    assert max(scores) > 0.85
    body = EXAMPLES[0].split("space = ")[1].splitlines()
    assert len(body) <= 25  # "compose them in 20 lines"


def test_arrays_and_a_space_of_ones_own_make_a_whole_study(tmp_path):
    assert len(run_example(1, tmp_path)) == 4
    assert (tmp_path / "mine.onnx").stat().st_size > 1000
    assert "Narrow" in (tmp_path / "runs" / "mine" / "report.html").read_text()


def composed():
    names = {}
    code = EXAMPLES[1].split("study = ")[0]
    exec(code, names)
    return names["run"]


def test_a_run_composed_in_python_is_resumed_with_it(tmp_path):
    whole = search(composed(), tmp_path / "whole")
    best = whole.result.metrics
    study = search(composed(), tmp_path / "run")
    for event in study.events():
        if event.kind == "round":
            study.stop()
    with pytest.raises(ConfigError, match="composed in Python"):
        resume(tmp_path / "run")
    with pytest.raises(ConfigError, match="not the run that began here"):
        resume(tmp_path / "run", Run(seed=5))
    assert resume(tmp_path / "run", composed()).result.metrics == best


@dataclass(frozen=True)
class OfTorch:
    """A space whose networks are torch modules."""

    def space(self, shape, outputs):
        return Space({"width": Choice((1, 2))})

    def graph(self, arch, shape, outputs):
        return CustomNetwork.of(Tiny, shape, **arch)

    def baseline(self, shape, outputs):
        return TableMlp().baseline((64,), outputs)


def test_a_study_of_torch_networks_is_refused_with_the_way_out(tmp_path):
    run = Run(data=Digits(), space=OfTorch(), engine=Serial())
    with pytest.raises(IncompatibleParts, match="or search by hand"):
        search(run, tmp_path / "run").result  # noqa: B018 - asking for it runs the study
    assert not (tmp_path / "run").exists()


def rows(folder):
    parts = Digits(), Iid(clients=4), Split(), Classification()
    return prepare(*parts, seed=Seed(0), directory=folder).shards


class Tiny(nn.Sequential):
    def __init__(self, width):
        super().__init__(nn.Conv2d(1, width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36 * width, 10))


def test_an_own_network_is_counted_exactly_and_starts_from_its_seed():
    net = CustomNetwork.of(Tiny, (1, 8, 8), width=2)
    assert net.params == 2 * 9 + 2 + 72 * 10 + 10
    assert net.macs == 36 * 9 * 2 + 72 * 10
    assert torch.equal(net.start(Seed(1)), net.start(Seed(1)))
    assert not torch.equal(net.start(Seed(1)), net.start(Seed(2)))
    assert net.key != CustomNetwork.of(Tiny, (1, 8, 8), width=3).key


def test_an_own_network_learns_as_by_hand(tmp_path):
    shards = rows(tmp_path)
    task, engine = shards.signature.task, Serial().start()
    engine.open(WorkerContext(shards=shards, task=task, networks={"Tiny": Tiny}))
    federation = Federation(
        engine=engine,
        task=task,
        train_rows=shards.train_rows,
        validation_rows=shards.validation_rows,
        seed=Seed(0),
        training=LocalTraining(learning_rate=0.1, batch=0),
    )
    net = CustomNetwork.of(Tiny, shards.signature.shape, width=2)
    flat = net.start(Seed(3))
    branch = Branch(number=0, graph=net, flat=flat, cohort=(0,), rounds=1)
    (after,) = step(federation, [branch], phase="search").branches
    model = Model.of_module(Tiny(2))
    model.load(flat)
    x, y = shards.train(0)
    model.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    assert torch.allclose(after.flat, flat - 0.1 * model.grad, atol=1e-6)


@pytest.mark.parametrize("engine", [Serial, Processes])
@pytest.mark.parametrize("device", ["cuda:7", "gpu"])
def test_a_device_that_is_not_there_is_refused(engine, device):
    with pytest.raises(ConfigError, match="torch sees no such device here"):
        engine(device=device).start()
