import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from archipelago.core.errors import ConfigError
from archipelago.data.tasks import (
    Classification,
    MultiLabel,
    Regression,
    Task,
    task_from_json,
    task_to_json,
)


def split_sum(task, logits, y, pieces=4):
    """Statistics added over uneven pieces, as over clients."""
    cuts = np.linspace(0, 1, pieces + 1) ** 2 * len(y)
    spans = zip(cuts[:-1].astype(int), cuts[1:].astype(int), strict=True)
    return sum(task.statistics(logits[a:b], y[a:b]) for a, b in spans)


def scores(rows, classes, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, rows)
    logits = rng.normal(size=(rows, classes)) * 2
    logits[np.arange(rows), y] += 1.5
    return torch.tensor(logits), torch.tensor(y)


@pytest.mark.parametrize("classes", [2, 3, 8])
def test_metrics_equal_scikit_learn_on_the_pooled_rows(classes):
    logits, y = scores(3000, classes)
    task = Classification(metric="auroc", classes=tuple(map(str, range(classes))))
    got = task.metrics(split_sum(task, logits, y))
    p, guess = logits.softmax(1).numpy(), logits.argmax(1).numpy()
    assert got["accuracy"] == pytest.approx(sk.accuracy_score(y, guess))
    assert got["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(y, guess))
    assert got["macro_f1"] == pytest.approx(sk.f1_score(y, guess, average="macro"))
    assert got["log_loss"] == pytest.approx(sk.log_loss(y, p))
    exact = [sk.roc_auc_score(y == c, p[:, c]) for c in ([1] if classes == 2 else range(classes))]
    assert got["auroc"] == pytest.approx(np.mean(exact), abs=1e-3)
    ap = [sk.average_precision_score(y == c, p[:, c]) for c in (range(classes)[-len(exact) :])]
    assert got["average_precision"] == pytest.approx(np.mean(ap), abs=2e-3)
    if classes > 5:
        assert got["top5"] == pytest.approx(sk.top_k_accuracy_score(y, p, k=5))


def test_saturated_scores_keep_their_order():
    y = torch.tensor([0, 1] * 500)
    z = torch.linspace(20, 60, 1000, dtype=torch.float64)
    logits = torch.stack([torch.zeros(1000, dtype=torch.float64), z], 1)
    task = Classification(metric="auroc", classes=("a", "b"))
    exact = sk.roc_auc_score(y, z)
    assert task.metrics(task.statistics(logits, y))["auroc"] == pytest.approx(exact, abs=2e-3)


@pytest.mark.parametrize(
    "task",
    [
        Classification(classes=("a", "b", "c")),
        Classification(classes=("a", "b"), metric="auroc"),
        MultiLabel(classes=("a", "b"), metric="auroc"),
        Regression(mean=3, scale=2),
    ],
)
def test_a_task_is_a_task(task):
    assert isinstance(task, Task)
    assert task_from_json(task_to_json(task)) == task
    logits = torch.zeros(5, task.outputs, requires_grad=True)
    y = torch.zeros((5, 2) if isinstance(task, MultiLabel) else 5)
    y = y.long() if isinstance(task, Classification) else y
    task.loss(logits, y).backward()
    assert task.statistics(logits, y).shape == (task.length,)
    assert task.statistics(logits[:0], y[:0]).tolist() == [0.0] * task.length
    assert task.default_metric in task.metrics(task.statistics(logits, y))
    assert np.isnan(task.metrics(np.zeros(task.length))[task.metric])


def test_balance_weighs_rare_classes():
    task = Classification(balance=True).filled(("a", "b"), (90, 10))
    assert task.weights == pytest.approx((100 / 180, 5.0))
    logits = torch.zeros(4, 2)
    assert task.loss(logits, torch.tensor([1, 1, 1, 1])).item() == pytest.approx(5 * np.log(2))


def test_multi_label_equals_scikit_learn():
    rng = np.random.default_rng(0)
    y = (rng.random((800, 4)) < 0.3).astype(np.float32)
    z = torch.tensor(rng.normal(size=(800, 4)) + 2 * y - 1)
    task = MultiLabel(classes=("a", "b", "c", "d"), metric="auroc")
    got = task.metrics(split_sum(task, z, torch.tensor(y)))
    said = z.numpy() > 0
    assert got["macro_f1"] == pytest.approx(sk.f1_score(y, said, average="macro"))
    assert got["micro_f1"] == pytest.approx(sk.f1_score(y, said, average="micro"))
    assert got["accuracy"] == pytest.approx((said == y).mean())
    assert got["auroc"] == pytest.approx(sk.roc_auc_score(y, z, average="macro"), abs=1e-3)
    loss = task.loss(z, torch.tensor(y).double()).item()
    assert got["log_loss"] == pytest.approx(loss)


def test_regression_equals_scikit_learn():
    rng = np.random.default_rng(0)
    y = torch.tensor(1e4 + rng.normal(size=500))
    z = torch.tensor(rng.normal(size=(500, 1)) * 0.3)
    task = Regression(mean=1e4, scale=2.0)
    got = task.metrics(split_sum(task, z, y))
    guess = task.predict(z.numpy())
    assert got["rmse"] == pytest.approx(sk.root_mean_squared_error(y, guess))
    assert got["mae"] == pytest.approx(sk.mean_absolute_error(y, guess))
    assert got["r2"] == pytest.approx(sk.r2_score(y, guess))


def test_direction_and_score_make_higher_better():
    assert Classification().direction("accuracy") == 1
    assert Regression().direction("rmse") == -1
    assert Regression().score({"rmse": 2.0}) == -2.0


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Classification(metric="acuracy"), "did you mean 'accuracy'?"),
        (lambda: Classification(metric="rmse"), "this metric does not fit classification"),
        (lambda: Regression(metric="auroc"), "task.metric: this metric does not fit regression"),
        (lambda: Classification(weights=(-1.0, 2.0)), "class weights must be positive numbers"),
        (
            lambda: Classification(metric="top5").filled(tuple("abcde"), (1,) * 5),
            "task.metric: this metric does not fit: every answer is among the first five",
        ),
        (
            lambda: Classification(weights=(1.0,)).filled(("a", "b"), (3, 4)),
            "fix: give 2, in this order: a, b",
        ),
        (lambda: task_from_json({"kind": "regresion"}), "did you mean 'regression'?"),
    ],
)
def test_a_task_that_does_not_fit_is_refused(make, text):
    with pytest.raises(ConfigError) as caught:
        make()
    assert text in str(caught.value)
