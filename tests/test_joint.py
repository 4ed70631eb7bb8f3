"""Training settings as choices: one mechanism, together with the architecture or after it."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from sklearn.datasets import load_wine

from archipelago.client.training import FedSgd, LocalTraining, tuned
from archipelago.config.cite import cite
from archipelago.config.load import dumps, loads
from archipelago.config.run import Run
from archipelago.core.errors import ConfigError, ConfigFaults
from archipelago.deploy.predict import predict
from archipelago.journal.journal import Journal
from archipelago.space.joint import Joint, Tune, network, settings
from archipelago.space.table_mlp import TableMlp
from archipelago.study.planning.plan import plan
from archipelago.study.running.search import search

FAMILY = TableMlp(layers=1, widths=(4, 8), activations=("relu",), dropouts=(0.0,))
CHOICES = {"learning_rate": (0.01, 0.1, 0.3), "batch": (8, 32)}
SHAPE, OUTPUTS = (13,), 3

TEXT = """
name = "tuned"
seed = 2
[data]
kind = "wine"
[partition]
kind = "iid"
clients = 4
[space]
kind = "table-mlp"
layers = 1
widths = [4, 8]
[tune]
order = "ORDER"
trials = 4
choices = { learning_rate = [0.001, 0.1], optimizer = ["sgd", "adam"] }
[estimator]
kind = "rounds"
rounds = 2
candidates = 2
[strategy]
kind = "random"
[budget]
trials = 4
[final]
rounds = 2
references = false
[engine]
kind = "serial"
"""


def test_the_joint_space_is_the_product_of_networks_and_settings():
    inner = FAMILY.space(SHAPE, OUTPUTS)
    space = Joint(family=FAMILY, choices=CHOICES).space(SHAPE, OUTPUTS)
    assert space.size == inner.size * 6
    arch = space.sample(Random(0))
    assert network(arch) in inner
    assert settings(arch).keys() == CHOICES.keys()
    assert len({space.canonical(a) for a in space.enumerate()}) == 6 * len(
        {inner.canonical(a) for a in inner.enumerate()}
    )


def test_settings_change_no_network_but_are_another_candidate():
    joint = Joint(family=FAMILY, choices=CHOICES)
    space = joint.space(SHAPE, OUTPUTS)
    arch = space.sample(Random(1)) | {"train.batch": 8}
    other = arch | {"train.batch": 32}
    assert joint.graph(arch, SHAPE, OUTPUTS) == FAMILY.graph(network(arch), SHAPE, OUTPUTS)
    assert joint.graph(arch, SHAPE, OUTPUTS) == joint.graph(other, SHAPE, OUTPUTS)
    assert space.canonical(arch) != space.canonical(other)
    assert joint.baseline(SHAPE, OUTPUTS) == FAMILY.baseline(SHAPE, OUTPUTS)


def test_a_branch_trains_with_its_own_settings():
    local = LocalTraining(learning_rate=0.5, epochs=3)
    assert tuned(local, {}) is local
    assert tuned(local, {"learning_rate": 0.1}) == replace(local, learning_rate=0.1)
    assert tuned(FedSgd(), {"learning_rate": 0.2}) == FedSgd(learning_rate=0.2)


def test_nothing_to_tune_changes_nothing():
    assert Tune().family(FAMILY) is FAMILY
    assert Run().family == Run().space
    assert not Tune(order="after").afterwards


@pytest.mark.parametrize("order", ["joint", "after"])
def test_a_run_tunes_on_real_rows_and_its_winner_trains_with_what_was_found(order, tmp_path):
    run = loads(TEXT.replace("ORDER", order))
    assert loads(dumps(run)) == run
    assert "Efficient Joint" in cite(run)
    study = search(run, out=tmp_path / order)
    best = study.result.best
    with Journal.open(tmp_path / order, write=False) as journal:
        phases = {row.phase for row in journal.meter()}
        state = journal.last(full=True).state
    champion = state["champions"]["search" if order == "joint" else "tune"]["outcome"]["arch"]
    final = state["champions"]["final"]["outcome"]["arch"]
    assert settings(final) == settings(champion)
    assert settings(final).keys() == {"learning_rate", "optimizer"}
    assert ("tune" in phases) == (order == "after")
    assert bool(settings(best.arch)) == (order == "joint")
    assert plan(run).candidates == (4 if order == "joint" else 8)


def test_two_settings_of_one_network_start_alike_and_end_apart(tmp_path):
    run = loads(
        TEXT.replace("ORDER", "joint"),
        ["space.widths=[4]", 'space.activations=["relu"]', "space.dropouts=[0.0]"],
    )
    outcomes = list(search(run, out=tmp_path / "one"))
    rates = {o.arch["train.learning_rate"]: o.score for o in outcomes}
    assert len({tuple(settings(o.arch).values()) for o in outcomes}) == 4
    assert np.ptp([o.score for o in outcomes]) > 0, rates


@pytest.mark.parametrize(
    ("choices", "text"),
    [
        ({"learning_rte": (0.1,)}, "did you mean 'learning_rate'"),
        ({"learning_rate": (0.1, -1.0)}, "client.learning_rate: must lie in"),
        ({"optimizer": ("sgd", "lion")}, "client.optimizer: no such choice"),
        ({"batch": (8, "many")}, "client.batch: must be a whole number"),
    ],
)
def test_a_setting_that_the_client_cannot_have_is_refused_at_once(choices, text):
    with pytest.raises(ConfigFaults, match="(?i)" + text):
        Run(tune=Tune(choices=choices))


def test_an_empty_choice_is_refused():
    with pytest.raises(ConfigError, match="tune.choices.batch: offer at least one"):
        Tune(choices={"batch": ()})


WINE = """
name = "views"
seed = 3
[data]
kind = "wine"
[partition]
kind = "iid"
clients = 4
[preprocess]
scaling = "BASE"
[tune]
choices = { "preprocess.scaling" = ["quantile"] }
[space]
kind = "table-mlp"
layers = 1
widths = [8, 16]
[client]
kind = "local"
learning_rate = 0.1
[estimator]
kind = "rounds"
rounds = 3
candidates = 2
[budget]
trials = 2
[final]
rounds = 10
[engine]
kind = "serial"
"""


def test_a_scaling_that_is_searched_equals_one_that_is_set(tmp_path):
    """Every stage, the sealed rows and the pooled line see the same inputs either way."""
    ends = {}
    for base in ("standard", "quantile"):
        study = search(loads(WINE.replace("BASE", base)), out=tmp_path / base)
        scores = [outcome.score for outcome in study]
        lines = dict(study.result.differences)
        del lines["hand-made"]  # it has no settings: the run's own scaling
        ends[base] = (scores, study.result.metrics, lines)
    assert ends["standard"] == ends["quantile"]
    wine = load_wine()
    rows = [",".join(wine.feature_names), *(",".join(map(repr, map(float, r))) for r in wine.data)]
    (tmp_path / "rows.csv").write_text("\n".join(rows))
    found = [predict(tmp_path / base / "model.onnx", tmp_path / "rows.csv") for base in ends]
    assert (found[0].answers == found[1].answers).all()
    assert np.mean(found[0].answers == wine.target_names[wine.target]) > 0.8


def test_scalings_differ_and_only_tables_have_them(tmp_path):
    run = loads(
        WINE.replace("BASE", "none"),
        [
            'tune.choices={ "preprocess.scaling" = ["none", "standard"] }',
            "budget.trials=6",
            "final.rounds=1",
            "final.references=false",
        ],
    )
    scores = {}
    for outcome in search(run, out=tmp_path / "run"):
        scores.setdefault(settings(outcome.arch)["preprocess.scaling"], []).append(outcome.score)
    assert max(scores["standard"]) > max(scores["none"])
    with pytest.raises(ConfigError, match="only the columns of a table are scaled"):
        plan(loads(WINE.replace("BASE", "none"), ["data.kind=digits", "space.kind=image-chain"]))
    with pytest.raises(ConfigFaults, match=r"preprocess\.scaling"):
        loads(WINE.replace("BASE", "none").replace('["quantile"]', '["quantil"]'))
    with pytest.raises(ConfigFaults, match="only options of"):
        loads(WINE.replace("BASE", "none").replace("preprocess.scaling", "preprocess.floor"))
