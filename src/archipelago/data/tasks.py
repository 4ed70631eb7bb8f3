"""What is predicted: the loss, and metrics from statistics that add up over clients.

A client sends one vector of `length` float64; vectors are added; `metrics` reads the sum. So a
metric over many clients is the metric over all their rows, whoever holds them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite, isnan
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np

from archipelago.core.checks import one_of
from archipelago.core.errors import ConfigError, did_you_mean
from archipelago.core.typed_fields import built
from archipelago.data.coverage import Cover, Truth, of_classes, of_labels
from archipelago.data.scores import BINS, auroc, average_precision, counts_of, of_confusion

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Classification", "MultiLabel", "Regression", "Task", "task_from_json", "task_to_json"]

LOWER_IS_BETTER = frozenset({"log_loss", "rmse", "mae"})
_CURVES = frozenset({"auroc", "average_precision"})
_SAME = 1e-12
"""Share of the mean square below which a spread is what rounding leaves of a constant target."""


@runtime_checkable
class Task(Protocol):
    """What every task offers besides its fields (`kind`, `metric`, `outputs`, `length`)."""

    @property
    def leaves(self) -> str:
        """What a client sends of its scored rows, in words."""
        ...

    def loss(self, logits: "Tensor", y: "Tensor") -> "Tensor":
        """Mean over rows, a scalar with a gradient."""
        ...

    def statistics(self, logits: "Tensor", y: "Tensor") -> np.ndarray:
        """Sums over rows, `[length]` float64: add them over batches and clients."""
        ...

    def metrics(self, vector: np.ndarray) -> dict[str, float]:
        """Named metrics of summed statistics; NaN where `cover` says that one is undefined."""
        ...

    def truth(self, vector: np.ndarray) -> Truth:
        """Which classes the rows behind summed statistics have."""
        ...

    def cover(self, truth: Truth, metric: str = "") -> Cover:
        """What a metric (the chosen one, unless named) says something of, on such rows."""
        ...


def _fits(metric: str, known: Sequence[str], task: str) -> None:
    if metric not in known:
        raise ConfigError(
            f"this metric does not fit {task}",
            got=metric,
            where="task.metric",
            fix=did_you_mean(metric, known),
        )


class _Scored:
    """Direction and score of a task's chosen metric; shared by all tasks, never overridden."""

    __slots__ = ()
    metric: str

    @property
    def default_metric(self) -> str:
        """The metric that a search optimises unless told otherwise."""
        return self.metric

    @staticmethod
    def direction(metric: str) -> int:
        """Return +1 where higher is better, -1 where lower is."""
        return -1 if metric in LOWER_IS_BETTER else 1

    def score(self, metrics: Mapping[str, float]) -> float:
        """Return the chosen metric with its sign: higher is always better."""
        return self.direction(self.metric) * metrics[self.metric]


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification(_Scored):
    """One class a row.

    Attributes:
        metric: accuracy, balanced_accuracy, macro_f1, top5, log_loss, auroc or average_precision
            (the last two are binned and one-vs-rest; with more than two classes they are computed
            only when asked for here, since their histograms take 16 kB a class). A mean over
            classes leaves out those without a row and says which; all but accuracy, top5 and
            log_loss are undefined where fewer than two classes have one.
        balance: weigh classes in the training loss by the inverse of their frequency.
        classes: names in the order of the outputs; empty until the statistics round agrees them.
        weights: class weights in the loss, positive, in the order of `classes`; set by the
            statistics round when `balance` is true.

    Raises:
        ConfigError: the metric does not fit, or a weight is not positive.
    """

    kind: Literal["classification"] = "classification"
    metric: str = "accuracy"
    balance: bool = False
    classes: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()

    METRICS = (
        "accuracy",
        "balanced_accuracy",
        "macro_f1",
        "top5",
        "log_loss",
        "auroc",
        "average_precision",
    )

    def __post_init__(self) -> None:
        _fits(self.metric, self.METRICS, "classification")
        if not all(isfinite(weight) and weight > 0 for weight in self.weights):
            raise ConfigError(
                "class weights must be positive numbers",
                got=self.weights,
                where="task.weights",
                fix="leave a weight at 1 to change nothing; a larger one counts its class more",
            )

    @property
    def outputs(self) -> int:
        """Logits a row: one for each class."""
        return len(self.classes)

    @property
    def binned(self) -> tuple[str, ...]:
        """Metrics that are read from histograms of scores."""
        return ("auroc", "average_precision") if self._curves else ()

    @property
    def leaves(self) -> str:
        """What a client sends of its scored rows, in words."""
        binned = f", {_histograms(self._curves)}" if self._curves else ""
        return f"counts by true and answered class, summed log loss{binned}"

    @property
    def _curves(self) -> int:
        wanted = self.metric in ("auroc", "average_precision")
        return 1 if self.outputs == 2 else self.outputs * wanted

    @property
    def length(self) -> int:
        """Size of the statistics vector: n, loss, top-5 hits, confusion, histograms."""
        return 3 + self.outputs**2 + self._curves * 2 * BINS

    def filled(self, classes: Sequence[str], counts: Sequence[int]) -> "Classification":
        """Return the task with agreed classes and, if `balance`, weights n / (k n_c).

        Raises:
            ConfigError: there is not one weight for each class, or the metric is sure to be 1.
        """
        if self.metric == "top5" and len(classes) <= 5:
            raise ConfigError(
                "this metric does not fit: every answer is among the first five of so few classes",
                got=f"top5 of {len(classes)} classes",
                where="task.metric",
                fix="choose accuracy, balanced_accuracy, macro_f1, auroc or log_loss",
            )
        if self.weights and len(self.weights) != len(classes):
            raise ConfigError(
                "there must be one weight for each class",
                got=f"{len(self.weights)} weights, {len(classes)} classes",
                where="task.weights",
                fix=f"give {len(classes)}, in this order: {', '.join(classes[:20])}",
            )
        total = sum(counts)
        weights = tuple(total / (len(counts) * max(c, 1)) for c in counts) if self.balance else ()
        return replace(self, classes=tuple(classes), weights=self.weights or weights)

    def loss(self, logits: "Tensor", y: "Tensor") -> "Tensor":
        """Cross-entropy, weighted by class where weights are set, divided by rows."""
        from torch.nn.functional import cross_entropy

        if not self.weights:
            return cross_entropy(logits, y)
        weight = logits.new_tensor(self.weights)
        return cross_entropy(logits, y, weight=weight, reduction="sum") / len(y)

    def losses(self, logits: "Tensor", y: "Tensor") -> "Tensor":
        """Return what `loss` is the mean of, `[rows]`."""
        from torch.nn.functional import cross_entropy

        weight = logits.new_tensor(self.weights) if self.weights else None
        return cross_entropy(logits, y, weight=weight, reduction="none")

    def statistics(self, logits: "Tensor", y: "Tensor") -> np.ndarray:
        """Sums over rows, `[length]` float64."""
        k = self.outputs
        z = logits.detach().cpu().double().numpy()
        true = y.detach().cpu().numpy()
        if len(z) == 0:
            return np.zeros(self.length)
        log_p = _log_softmax(z)
        mine = z[np.arange(len(true)), true]
        rank = (z > mine[:, None]).sum(1)
        head = [len(true), -log_p[np.arange(len(true)), true].sum(), (rank < 5).sum()]
        confusion = np.bincount(true * k + z.argmax(1), minlength=k * k)
        curves = [counts_of(_log_odds(log_p[:, c]), true == c) for c in self._classes_with_curve()]
        return np.concatenate([np.array(head, np.float64), confusion, *(c.ravel() for c in curves)])

    def truth(self, vector: np.ndarray) -> Truth:
        """Return which classes the rows behind summed statistics have."""
        k = self.outputs
        return Truth.of_counts(vector[0], vector[3 : 3 + k * k].reshape(k, k).sum(1))

    def cover(self, truth: Truth, metric: str = "") -> Cover:
        """Return which classes a metric says something of, on such rows.

        A class is covered where it has a row. Accuracy, `top5` and `log_loss` need a row of any
        class; the others compare classes and need rows of two.
        """
        metric = metric or self.metric
        least = 1 if metric in ("accuracy", "top5", "log_loss") else 2
        return of_classes(metric, truth, self.classes, least)

    def metrics(self, vector: np.ndarray) -> dict[str, float]:
        """Return metrics in [0, 1] and `log_loss` in nats; NaN where undefined."""
        n, k = max(vector[0], 1.0), self.outputs
        out = of_confusion(vector[3 : 3 + k * k].reshape(k, k))
        out["log_loss"] = float(vector[1] / n) if vector[0] else float("nan")
        if k > 5 or self.metric == "top5":
            out["top5"] = float(vector[2] / n) if vector[0] else float("nan")
        if self._curves:
            curves = vector[3 + k * k :].reshape(self._curves, 2, BINS)
            out["auroc"] = _mean([auroc(c) for c in curves])
            out["average_precision"] = _mean([average_precision(c) for c in curves])
        return out

    def _classes_with_curve(self) -> Sequence[int]:
        return [1] if self.outputs == 2 else range(self._curves)


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiLabel(_Scored):
    """Any number of labels a row; the label column joins them with `separator`.

    Attributes:
        metric: accuracy (share of right decisions over rows and labels), macro_f1, micro_f1,
            log_loss, or binned auroc or average_precision (macro over labels). A label that no row
            has is left out of macro F1, unless it is answered, and one that no row or every row
            has of the last two; the report says which.
        separator: between label names in one field.
        classes: label names in the order of the outputs.
    """

    kind: Literal["multi-label"] = "multi-label"
    metric: str = "macro_f1"
    separator: str = ";"
    classes: tuple[str, ...] = ()

    METRICS = ("accuracy", "macro_f1", "micro_f1", "log_loss", "auroc", "average_precision")

    def __post_init__(self) -> None:
        _fits(self.metric, self.METRICS, "multi-label classification")

    @property
    def outputs(self) -> int:
        """Logits a row: one for each label."""
        return len(self.classes)

    @property
    def length(self) -> int:
        """Size of the statistics vector: n, loss, three counts a label, histograms."""
        return 2 + self.outputs * (3 + 2 * BINS * self._curves)

    @property
    def binned(self) -> tuple[str, ...]:
        """Metrics that are read from histograms of scores."""
        return ("auroc", "average_precision") if self._curves else ()

    @property
    def leaves(self) -> str:
        """What a client sends of its scored rows, in words."""
        binned = f", {_histograms(self.outputs)}" if self._curves else ""
        return f"counts of right, extra and missed labels, summed log loss{binned}"

    @property
    def _curves(self) -> bool:
        return self.metric in ("auroc", "average_precision")

    def filled(self, classes: Sequence[str], counts: Sequence[int]) -> "MultiLabel":
        """Return the task with agreed labels."""
        del counts
        return replace(self, classes=tuple(classes))

    def loss(self, logits: "Tensor", y: "Tensor") -> "Tensor":
        """Binary cross-entropy, mean over rows and labels. `y` is `[rows, labels]` of 0 and 1."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        return binary_cross_entropy_with_logits(logits, y)

    def losses(self, logits: "Tensor", y: "Tensor") -> "Tensor":
        """Return what `loss` is the mean of, `[rows]`."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        return binary_cross_entropy_with_logits(logits, y, reduction="none").mean(1)

    def statistics(self, logits: "Tensor", y: "Tensor") -> np.ndarray:
        """Sums over rows, `[length]` float64."""
        z = logits.detach().cpu().double().numpy()
        true = y.detach().cpu().numpy() > 0.5
        said = z > 0
        loss = np.logaddexp(0, np.where(true, -z, z)).mean(1).sum() if self.outputs else 0.0
        counts = [(said & true).sum(0), (said & ~true).sum(0), (~said & true).sum(0)]
        curves = [counts_of(z[:, c], true[:, c]).ravel() for c in range(z.shape[1])]
        head = np.array([len(z), loss], np.float64)
        return np.concatenate([head, *counts, *(curves if self._curves else ())])

    def truth(self, vector: np.ndarray) -> Truth:
        """Return which labels the rows behind summed statistics have."""
        hit, _, missed = vector[2 : 2 + 3 * self.outputs].reshape(3, self.outputs)
        return Truth.of_counts(vector[0], hit + missed)

    def cover(self, truth: Truth, metric: str = "") -> Cover:
        """Return which labels a metric says something of, on such rows.

        F1 covers a label that some row has; `auroc` and `average_precision` one that some rows have
        and some have not; both need one such label. Accuracy and `log_loss` count every decision
        and need a row.
        """
        metric = metric or self.metric
        least = int(metric not in ("accuracy", "log_loss"))
        return of_labels(metric, truth, self.classes, both=metric in _CURVES, least=least)

    def metrics(self, vector: np.ndarray) -> dict[str, float]:
        """Return metrics in [0, 1] and `log_loss` in nats; NaN where undefined."""
        n, k = vector[0], self.outputs
        hit, extra, missed = vector[2 : 2 + 3 * k].reshape(3, k)
        if n == 0:
            return dict.fromkeys(self.METRICS, float("nan"))
        out = {
            "accuracy": float(1 - (extra + missed).sum() / (n * k)),
            "macro_f1": float("nan"),
            "micro_f1": float("nan"),
            "log_loss": float(vector[1] / n),
        }
        if (hit + missed).any():
            whole = 2 * hit + extra + missed
            out["macro_f1"] = float((2 * hit[whole > 0] / whole[whole > 0]).mean())
            out["micro_f1"] = float(2 * hit.sum() / whole.sum())
        if self._curves:
            curves = vector[2 + 3 * k :].reshape(k, 2, BINS)
            out["auroc"] = _mean([auroc(c) for c in curves])
            out["average_precision"] = _mean([average_precision(c) for c in curves])
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Regression(_Scored):
    """One number a row, learned in standard units and reported in the target's own.

    Attributes:
        metric: rmse, mae (lower is better) or r2, which is undefined where the target is constant.
        mean: of the target over all clients' train rows; set by the statistics round.
        scale: its standard deviation; set by the statistics round.
    """

    kind: Literal["regression"] = "regression"
    metric: str = "rmse"
    mean: float = 0.0
    scale: float = 1.0

    METRICS = ("rmse", "mae", "r2")

    def __post_init__(self) -> None:
        _fits(self.metric, self.METRICS, "regression")

    @property
    def outputs(self) -> int:
        """One."""
        return 1

    @property
    def length(self) -> int:
        """Size of the statistics vector: n, squared and absolute error, target moments."""
        return 5

    @property
    def binned(self) -> tuple[str, ...]:
        """Metrics that are read from histograms of scores: none."""
        return ()

    @property
    def leaves(self) -> str:
        """What a client sends of its scored rows, in words."""
        return "counts of rows, sums of errors and of their squares, moments of the target"

    def loss(self, logits: "Tensor", y: "Tensor") -> "Tensor":
        """Mean squared error in standard units. `logits` `[rows, 1]`, `y` `[rows]`."""
        return self.losses(logits, y).mean()

    def losses(self, logits: "Tensor", y: "Tensor") -> "Tensor":
        """Return what `loss` is the mean of, `[rows]`."""
        return (logits.reshape(-1) - (y - self.mean) / self.scale) ** 2

    def predict(self, logits: np.ndarray) -> np.ndarray:
        """Return predictions in the target's own units, `[rows]`."""
        return np.asarray(logits, np.float64).reshape(-1) * self.scale + self.mean

    def statistics(self, logits: "Tensor", y: "Tensor") -> np.ndarray:
        """Sums over rows, `[length]` float64; target moments about the agreed mean."""
        true = y.detach().cpu().double().numpy() - self.mean
        error = logits.detach().cpu().double().numpy().reshape(-1) * self.scale - true
        return np.array(
            [len(true), (error**2).sum(), np.abs(error).sum(), true.sum(), (true**2).sum()]
        )

    def truth(self, vector: np.ndarray) -> Truth:
        """Return whether there are rows behind summed statistics, and whether the target varies."""
        n, _, _, total, square = (float(v) for v in vector)
        none = np.zeros(0, bool)
        return Truth(rows=n > 0, present=none, absent=none, varies=_spread(n, total, square) > 0)

    def cover(self, truth: Truth, metric: str = "") -> Cover:
        """Return whether a metric has a value: it needs a row, and `r2` a target that varies."""
        metric = metric or self.metric
        varies = truth.varies if metric == "r2" else True
        return Cover(metric=metric, rows=truth.rows, varies=varies)

    def metrics(self, vector: np.ndarray) -> dict[str, float]:
        """Return `rmse` and `mae` in the target's units and `r2`; NaN where undefined."""
        n, squared, absolute, total, square = (float(v) for v in vector)
        if n == 0:
            return dict.fromkeys(self.METRICS, float("nan"))
        spread = _spread(n, total, square)
        r2 = 1 - squared / spread if spread > 0 else float("nan")
        return {"rmse": (squared / n) ** 0.5, "mae": absolute / n, "r2": r2}


def task_to_json(task: Classification | MultiLabel | Regression) -> dict[str, Any]:
    """Return plain JSON data; `task_from_json` is its inverse."""
    return asdict(task)


def task_from_json(data: Mapping[str, Any]) -> Classification | MultiLabel | Regression:
    """Rebuild what `task_to_json` wrote.

    Raises:
        ValueError: it describes no task; a `ConfigError` where one of its options is wrong.
    """
    kinds = {"classification": Classification, "multi-label": MultiLabel, "regression": Regression}
    kind = data["kind"]
    one_of("task.kind", kind if isinstance(kind, str) else "", kinds)
    return built(kinds[kind], data, "task")


def _spread(n: float, total: float, square: float) -> float:
    """Return the sum of squared deviations of `n` values from their mean; 0 of a constant."""
    spread = square - total**2 / n if n else 0.0
    return spread if spread > _SAME * square else 0.0


def _histograms(how_many: int) -> str:
    return f"{how_many} histogram{'s' * (how_many > 1)} of scores ({BINS} bins by label)"


def _log_softmax(z: np.ndarray) -> np.ndarray:
    # A network that diverged gives infinities: the loss is then NaN, which is how it is told.
    with np.errstate(invalid="ignore"):
        shifted = z - z.max(1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def _log_odds(log_p: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return log_p - np.log(-np.expm1(np.minimum(log_p, -1e-300)))


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if not isnan(value)]
    return sum(finite) / len(finite) if finite else float("nan")
