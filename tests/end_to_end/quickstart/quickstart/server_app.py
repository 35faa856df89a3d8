"""The server: FedAvg, or FedAvg behind a robust rule."""

import json
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from quickstart.task import Net, load_data, test
from strategies.flower import Robust

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    strategy = FedAvg(fraction_evaluate=0.5, min_available_nodes=10)
    if config["rule"]:
        strategy = Robust(strategy, rule=config["rule"])
    torch.manual_seed(0)
    result = strategy.start(grid, ArrayRecord(Net().state_dict()), num_rounds=int(config["num-server-rounds"]))
    net = Net()
    net.load_state_dict(result.arrays.to_torch_state_dict())
    metrics = {number: dict(record) for number, record in result.train_metrics_clientapp.items()}
    found = {"accuracy": test(net, *load_data(10_000, 2000)), "train": metrics}
    Path(config["out"]).write_text(json.dumps(found))
