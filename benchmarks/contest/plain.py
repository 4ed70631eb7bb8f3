"""A plain PyTorch loop over the cohort, one process, one thread: FedAvg by hand."""

import sys
import time
from copy import deepcopy

import torch
from nets import BATCH, answer, clients, network, plain_visit

torch.set_num_threads(1)
name, cohort = sys.argv[1], int(sys.argv[2])
batch = int(sys.argv[3]) if len(sys.argv) > 3 else BATCH
rows = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in clients(name, cohort)]
server = network(name)
while True:
    began = time.perf_counter()
    start = deepcopy(server.state_dict())
    total = {key: torch.zeros_like(value) for key, value in start.items()}
    for x, y in rows:
        server.load_state_dict(start)
        plain_visit(server, x, y, batch)
        for key, value in server.state_dict().items():
            total[key] += value
    server.load_state_dict({key: value / len(rows) for key, value in total.items()})
    answer(time.perf_counter() - began)
