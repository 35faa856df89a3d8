"""The clients, some of whom attack."""

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from attacks.flower import first_nodes, poisoning
from quickstart.task import Net, load_data, test, train


def attacking(message: Message, context: Context, call_next):
    """The mod with the run's attack; a user of it would name the attack where the app is made."""
    attack = context.run_config["attack"]
    if not attack:
        return call_next(message, context)
    options = {"sign-flip-factor": 20.0}
    malicious = first_nodes(float(context.run_config["malicious-fraction"]))
    return poisoning(attack, malicious=malicious, options=options)(message, context, call_next)


app = ClientApp(mods=[attacking])


@app.train()
def train_fn(message: Message, context: Context) -> Message:
    torch.manual_seed(int(context.node_config["partition-id"]))
    net = Net()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    inputs, labels = load_data(int(context.node_config["partition-id"]))
    loss = train(net, inputs, labels)
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(inputs)})
    content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)


@app.evaluate()
def evaluate_fn(message: Message, context: Context) -> Message:
    net = Net()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    inputs, labels = load_data(int(context.node_config["partition-id"]))
    metrics = MetricRecord({"accuracy": test(net, inputs, labels), "num-examples": len(inputs)})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=message)
