"""Where a deployed round's seconds go: ``python -m benchmarks.deployment``; ``--messages 9`` repeats each nine times.

First part: one message to one node, from the moment at which Flower's ``flwr-clientapp`` loads the app to its
reply, in a process of its own as Flower starts it, against an app that answers with an empty message. Second part
(``--rounds 5``): whole rounds on a SuperLink with SuperNodes, TLS and node authentication on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

from flwr.app import Context, Message, RecordDict

from settings.options import Scalar

PROJECT = Path(__file__).resolve().parent.parent
NODES = 3

PROCESS = """
import sys, time
import flwr.supernode.cli.flwr_clientapp  # what is loaded when Flower gets to the app
sys.argv[0] = "flwr-clientapp"
sys.path.insert(0, sys.argv[1])
import pickle
with open(sys.argv[2], "rb") as file:
    message, context = pickle.load(file)
start = time.perf_counter()
from client.app import app
app(message, context)
seconds = time.perf_counter() - start
with open(sys.argv[3], "w") as file:
    file.write(str(seconds))
"""

NOTHING = """
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
app = ClientApp()
@app.query()
def query(message, context): return Message(RecordDict({"nothing": ConfigRecord()}), reply_to=message)
@app.train()
def train(message, context): return Message(RecordDict({"nothing": ConfigRecord()}), reply_to=message)
@app.evaluate()
def evaluate(message, context): return Message(RecordDict({"nothing": ConfigRecord()}), reply_to=message)
"""

NOTHING_SERVER = """
import json, time
import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.serverapp import ServerApp
from server.exchange import exchange
app = ServerApp()
@app.main()
def main(grid, context):
    while len(list(grid.get_node_ids())) < context.run_config["nodes"]:
        time.sleep(0.2)
    model = ArrayRecord({"items": Array(np.zeros((3706, 64), np.float32))})
    seconds = []
    for number in range(context.run_config["rounds"] + 1):
        start = time.perf_counter()
        content = RecordDict({"model": model})
        exchange(grid, [Message(content, node, "train", group_id=str(number)) for node in grid.get_node_ids()], 300)
        seconds.append(time.perf_counter() - start)
    with open(context.run_config["out"], "w") as file:
        json.dump(seconds[1:], file)
"""


def requests(data_dir: str, state: Path) -> tuple[dict[str, Message], Context]:
    """The population query, a round's train message and an evaluate message of one of ``NODES`` ML-1M nodes."""
    import torch

    from data.partition import partition
    from protocol.messages import model_record, request_content
    from protocol.requests import EvaluateRequest, GlobalModel, LossOptions, TrainRequest
    from server.simulation import default_options

    users = torch.arange(6040)[torch.from_numpy(partition(torch.arange(6040).numpy(), NODES)[0])]
    loss = LossOptions(contrastive_weight=1.0)
    model = model_record(GlobalModel(torch.randn(3706, 64, generator=torch.Generator().manual_seed(0)), torch.empty(0)))
    train = TrainRequest(1, users[:: len(users) // 17][:17], "bench", loss)
    evaluate = EvaluateRequest(1, torch.empty(0, dtype=torch.int64), "bench", loss)
    messages = {
        "query": Message(RecordDict(), 1, "query", group_id="0"),
        "train": Message(request_content(model, train), 1, "train", group_id="1"),
        "evaluate": Message(request_content(model, evaluate), 1, "evaluate", group_id="1"),
    }
    node: dict[str, Scalar] = {"partition-id": 0, "num-partitions": NODES, "state-dir": str(state)}
    run = {**default_options(), "dataset": "ml-1m", "data-dir": data_dir, "defense": "union"}
    return messages, Context(1, 1, node, RecordDict(), run)


def one_message(app_dir: Path, message: Message, context: Context, folder: Path) -> tuple[float, float]:
    """Seconds from loading the app to its reply, and of the whole process."""
    path = folder / "message.pickle"
    path.write_bytes(pickle.dumps((message, context)))
    out = folder / "seconds"
    start = time.perf_counter()
    # No pipe: the process that stays would hold it open.
    subprocess.run([sys.executable, "-c", PROCESS, str(app_dir), str(path), str(out)], check=True)
    return float(out.read_text()), time.perf_counter() - start


def measure_messages(data_dir: str, repeats: int) -> None:
    """Print the table of the first part."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "nothing" / "client").mkdir(parents=True)
        (folder / "nothing" / "client" / "__init__.py").touch()
        (folder / "nothing" / "client" / "app.py").write_text(NOTHING)
        print("| app | message | first, s | later: median (lowest to highest), s | whole process, s |")
        print("| --- | --- | --- | --- | --- |")
        for label, app_dir, seconds in (
            ("none", folder / "nothing", 0.0),
            ("ours", PROJECT, 60.0),
            ("ours, `resident-seconds=0`", PROJECT, 0.0),
        ):
            messages, context = requests(data_dir, folder / "state")
            context.node_config["resident-seconds"] = seconds
            for kind, message in messages.items():
                # A train message that comes twice is trained anew, as the same round.
                times = [one_message(app_dir, message, context, folder) for _ in range(repeats + 1)]
                later = [reply for reply, _ in times[1:]]
                whole = statistics.median(process for _, process in times[1:])
                spread = f"{statistics.median(later):.2f} ({min(later):.2f} to {max(later):.2f})"
                print(f"| {label} | {kind} | {times[0][0]:.2f} | {spread} | {whole:.2f} |", flush=True)


def measure_rounds(data_dir: str, rounds: int) -> None:
    """Print the table of the second part."""
    from deploy.certificates import make_certificates
    from deploy.federation import Federation, local_place
    from deploy.processes import Processes

    names = [f"benign-{index}" for index in range(NODES)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_certificates(folder / "keys", nodes=names)
        nothing = _nothing_app(folder / "nothing")
        with Processes(folder / "logs") as processes:
            federation = Federation(local_place(folder, folder / "keys"), processes)
            federation.start_superlink()
            for index, key in enumerate(names):
                state = str(folder / "state" / key)
                federation.start_node(key, {"partition-id": index, "num-partitions": NODES, "state-dir": state})
            out = folder / "seconds.json"
            ours: dict[str, Scalar] = {
                "dataset": "ml-1m",
                "data-dir": data_dir,
                "num-server-rounds": rounds,
                "eval-every": rounds,
            }
            ours |= {"defense": "union+norm-bound", "output-dir": str(folder / "runs"), "run-name": "run"}
            empty: dict[str, Scalar] = {"rounds": rounds, "nodes": NODES, "out": str(out)}
            for app, options in ((nothing, empty), (PROJECT, ours)):
                command = federation.run_command(app, options)
                done = subprocess.run(command, env=federation.environment, capture_output=True, text=True, check=True)
                print(done.stdout[-1500:] if "ERROR" in done.stdout else "", end="", file=sys.stderr)
        taken = {"none": json.loads(out.read_text())}
        lines = (folder / "runs" / "run" / "rounds.jsonl").read_text().splitlines()
        taken["ours"] = [json.loads(line)["seconds"] for line in lines]
    print(f"\n| app | a round with {NODES} nodes: median (lowest to highest), s |\n| --- | --- |")
    for label, seconds in taken.items():
        print(f"| {label} | {statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f}) |")


def _nothing_app(folder: Path) -> Path:
    """An app that sends the same model and computes nothing."""
    for package, text in (("client", NOTHING), ("server", NOTHING_SERVER)):
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").touch()
        (folder / package / "app.py").write_text(text)
    for name in ("exchange.py", "direct_grid.py"):
        (folder / "server" / name).write_text((PROJECT / "server" / name).read_text())
    (folder / "pyproject.toml").write_text(
        textwrap.dedent("""
            [project]
            name = "nothing"
            version = "0.1.0"
            license = "Apache-2.0"
            dependencies = []
            [tool.flwr.app]
            publisher = "nobody"
            [tool.flwr.app.components]
            serverapp = "server.app:app"
            clientapp = "client.app:app"
            [tool.flwr.app.config]
            rounds = 1
            nodes = 1
            out = ""
        """)
    )
    return folder


def main() -> None:
    """``python -m benchmarks.deployment``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.deployment")
    parser.add_argument("--messages", type=int, default=5, help="how often each message is repeated; 0: not measured")
    parser.add_argument("--rounds", type=int, default=5, help="how many whole rounds; 0: not measured")
    parser.add_argument("--data-dir", default=os.environ.get("ROBUST_FEDREC_DATA", ""))
    chosen = parser.parse_args()
    if chosen.messages:
        measure_messages(chosen.data_dir, chosen.messages)
    if chosen.rounds:
        measure_rounds(chosen.data_dir, chosen.rounds)


if __name__ == "__main__":
    main()
