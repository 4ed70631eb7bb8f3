"""pfl-research's simulation: FedAvg, no evaluation; `torchrun` gives its processes."""

import sys
import time

import torch
from nets import BATCH, answer, clients, network
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import MinimizeReuseUserSampler
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.internal.ops import pytorch_ops
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import nn

torch.set_num_threads(1)
name, cohort = sys.argv[1], int(sys.argv[2])
first = pytorch_ops.distributed.global_rank == 0


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network(name)

    def forward(self, x):
        return self.net(x)

    def loss(self, x, y, eval=False):
        return nn.functional.cross_entropy(self(x), y)

    @torch.no_grad()
    def metrics(self, x, y, eval=True):
        return {"loss": Weighted(self.loss(x, y).item() * len(y), len(y))}


class Timed(TrainingProcessCallback):
    began = time.perf_counter()

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        if first:
            answer(time.perf_counter() - self.began)
        if torch.distributed.is_initialized():
            # Nobody goes on before the first one may: its share of the next round would be work
            # done in another contestant's turn.
            torch.distributed.barrier()
        self.began = time.perf_counter()
        return False, Metrics()


rows = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in clients(name, cohort)]
users = {n: Dataset(raw_data=list(pair), user_id=str(n)) for n, pair in enumerate(rows)}
data = FederatedDataset(users.__getitem__, MinimizeReuseUserSampler(list(users)))
net = Net()
model = PyTorchModel(
    model=net, local_optimizer_create=torch.optim.SGD,
    central_optimizer=torch.optim.SGD(net.parameters(), lr=1.0),
)  # fmt: skip
FederatedAveraging().run(
    algorithm_params=NNAlgorithmParams(
        central_num_iterations=9999, evaluation_frequency=10**9,
        train_cohort_size=cohort, val_cohort_size=0,
    ),
    backend=SimulatedBackend(training_data=data, val_data=data),
    model=model,
    model_train_params=NNTrainHyperParams(
        local_num_epochs=1, local_learning_rate=0.05, local_batch_size=BATCH
    ),
    model_eval_params=NNEvalHyperParams(local_batch_size=50),
    callbacks=[Timed()],
)  # fmt: skip
