"""Flower's simulation: FedAvg, a Ray actor a core, no evaluation, one model an actor."""

import logging
import sys
import time

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from nets import answer, clients, network, plain_visit

logging.disable(logging.WARNING)
name, cohort = sys.argv[1], int(sys.argv[2])
held: dict = {}
app, server = ClientApp(), ServerApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    torch.set_num_threads(1)
    if not held:
        held["net"], held["rows"] = network(name), clients(name, cohort)
    net = held["net"]
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    x, y = held["rows"][int(context.node_config["partition-id"])]
    plain_visit(net, torch.from_numpy(x), torch.from_numpy(y))
    reply = {
        "arrays": ArrayRecord(net.state_dict()),
        "metrics": MetricRecord({"num-examples": len(y)}),
    }
    return Message(content=RecordDict(reply), reply_to=message)


class Timed(FedAvg):
    def configure_train(self, *given, **named):
        self.began = time.perf_counter()
        return super().configure_train(*given, **named)

    def aggregate_train(self, *given, **named):
        out = super().aggregate_train(*given, **named)
        answer(time.perf_counter() - self.began)
        return out


@server.main()
def main(grid: Grid, context: Context) -> None:
    strategy = Timed(fraction_evaluate=0.0, min_available_nodes=cohort, min_train_nodes=cohort)
    strategy.start(
        grid=grid, initial_arrays=ArrayRecord(network(name).state_dict()), num_rounds=9999
    )


run_simulation(
    server, app, num_supernodes=cohort,
    backend_config={
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        "init_args": {"num_cpus": 2, "include_dashboard": False, "logging_level": 50},
    },
)  # fmt: skip
