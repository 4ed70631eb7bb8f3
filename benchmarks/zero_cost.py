"""Do zero-cost proxies rank networks? Spearman with real trainings, beside the parameter count.

python benchmarks/zero_cost.py --out benchmarks/results/zero_cost.jsonl
python benchmarks/zero_cost.py --quick   # fewer networks; a minute
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from bars import bar, show, write
from scipy.stats import bootstrap, spearmanr

from archipelago.core.seeds import Seed
from archipelago.data.sources.named import Named
from archipelago.estimate.mb432 import mb432
from archipelago.estimate.nasbench201 import nasbench201
from archipelago.nn.model import Model
from archipelago.nn.proxies import PROXIES, proxy
from archipelago.space.cell201 import NasBench201
from archipelago.space.sketch import Sketch

REFERENCE = {"grad-norm": 0.39, "snip": 0.46, "params": 0.21}
"""Published for the 144 networks of learning rate 0.03, of an independent implementation."""


def spearman(scores, truth):
    """Rank correlation and its 95 % bootstrap interval; undefined scores rank last."""
    scores, truth = np.asarray(scores), np.asarray(truth)
    found = bootstrap(
        (scores, truth),
        lambda a, b: spearmanr(a, b)[0],
        paired=True,
        vectorized=False,
        n_resamples=1000,
        method="percentile",
        rng=0,
    ).confidence_interval
    return float(spearmanr(scores, truth)[0]), float(found.low), float(found.high)


def judged(graphs, x, y):
    """Every proxy of every graph, and the seconds of a network."""
    began = time.perf_counter()
    scores = {name: [] for name in PROXIES}
    for index, graph in enumerate(graphs):
        model = Model.of_graph(graph, Seed(0).child("proxy", index))
        for name in PROXIES:
            scores[name].append(proxy(name, model.module, x, y, F.cross_entropy))
    return scores, (time.perf_counter() - began) / len(graphs)


def lines(table, scores, truth, seconds, **more):
    """One bar a proxy: it must beat the parameter count to be of use."""
    params = spearman(scores["params"], truth)[0]
    for name in PROXIES:
        value, low, high = spearman(scores[name], truth)
        yield bar(
            f"{table}: Spearman of {name}",
            value,
            params,
            interval=[round(low, 3), round(high, 3)],
            networks=len(truth),
            undefined=int(np.isinf(scores[name]).sum()),
            seconds_all_proxies=round(seconds, 4),
            **({"reference": more[name]} if name in more else {}),
        )


def perceptron(arch):
    """The network of a member of MB432."""
    sketch = Sketch((64,))
    for layer in (1, 2, 3):
        if arch[f"width{layer}"]:
            sketch.dense(arch[f"width{layer}"], fn=arch["activation"])
    sketch.add("linear", features=10)
    return sketch.graph()


def digits():
    """128 rows of digits as MB432 scales them."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(((pixels[:128] - 8) / 8).astype(np.float32))
    return x, torch.from_numpy(labels[:128])


def on_mb432():
    """The 144 networks of learning rate 0.03, all and those of rectifiers alone."""
    table = mb432()
    archs = [a for a in table.space.enumerate() if a["learning_rate"] == 0.03]
    truth = np.array([table.reported(arch) for arch in archs])
    scores, seconds = judged([perceptron(arch) for arch in archs], *digits())
    yield from lines("mb432, lr .03", scores, truth, seconds, **REFERENCE)
    relu = [i for i, arch in enumerate(archs) if arch["activation"] == "relu"]
    part = {name: [values[i] for i in relu] for name, values in scores.items()}
    known = {"naswot": 0.41, "params": 0.48}
    yield from lines("mb432, lr .03, relu", part, truth[relu], seconds, **known)


def on_nas_bench_201(count):
    """Cells drawn at random; truth is the CIFAR-10 test accuracy after 200 epochs."""
    table = nasbench201("cifar10")
    rng = Seed(0).child("cells").rng()
    archs = [table.space.sample(rng) for _ in range(count)]
    truth = [table.reported(arch) for arch in archs]
    raw = Named(name="cifar10", rows=32).load()
    x = torch.from_numpy(np.asarray(raw.x[:32], np.float32) / 127.5 - 1)
    y = torch.from_numpy(np.unique(raw.y[:32], return_inverse=True)[1])
    graphs = [NasBench201().graph(arch, (3, 32, 32), 10) for arch in archs]
    scores, seconds = judged(graphs, x, y)
    yield from lines("nas-bench-201, cifar10", scores, truth, seconds)


def main():
    """Print one JSON line a bar."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cells", type=int, default=100, help="cells of NAS-Bench-201; 0 for none")
    parser.add_argument("--quick", action="store_true", help="20 cells")
    parser.add_argument("--out", type=Path, default=None, help="JSON lines")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = [show(line) for line in on_mb432()]
    cells = 20 if options.quick else options.cells
    if cells and os.environ.get("ARCHIPELAGO_BENCH") and os.environ.get("ARCHIPELAGO_DATA"):
        found += [show(line) for line in on_nas_bench_201(cells)]
    write(options.out, found)


if __name__ == "__main__":
    main()
