"""The options of a run, each once: what it means, what it can be, who reads it, and what depends on it.

``python -m settings`` makes the reference and the section of ``pyproject.toml`` of this table and of the options of
attacks, rules and models, which stand with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from settings.options import Declaration, option, options_of, require
from settings.paths import LONGEST, is_name

TrackerName = Literal["auto", "none", "tensorboard", "mlflow"]
UploadDtype = Literal["float32", "float16", "bfloat16"]

DEVICE = r"auto|cpu|cuda(:\d{1,3})?"
"""The names of devices, as a pattern; ``DEVICE_IN_WORDS`` says the same."""

DEVICE_IN_WORDS = "auto, cpu, cuda, or cuda:N for the GPU of that number, such as cuda:1"


@dataclass(frozen=True)
class RunOptions:
    """What a run is, where it is made, and how safely."""

    dataset: str = option(
        "synthetic",
        "synthetic, ml-1m, gowalla, scale, or the absolute path of an .inter(.gz), .csv or .parquet file; "
        "images: mnist, cifar10, synthetic-images",
        topic="What is trained on what",
        read_by="both",
    )
    columns: str = option(
        "",
        "of a .csv or .parquet file: which column is which, such as user=userId item=movieId time=timestamp",
        read_by="both",
    )
    data_dir: str = option(
        "",
        'where data sets are kept; "": ROBUST_FEDREC_DATA, else ~/.cache/robust-fedrec',
        read_by="both",
        resume=True,
        numbers=False,
    )
    model: str = option("mf", "mf, sasrec, ncf; of images: lenet, resnet8, resnet18", read_by="both")
    embedding_dim: int = option(64, "of recommenders: numbers in an item's vector", at_least=1)
    max_length: int = option(
        200,
        "of sasrec: a user's newest items that count; the paper takes 100 on Gowalla",
        at_least=1,
        read_by="both",
    )
    max_batch_tokens: int = option(
        4096,
        "of sasrec: positions that a node works on at a time; more on a GPU",
        at_least=1,
        read_by="node",
        resume=True,
        numbers=False,
    )
    num_server_rounds: int = option(1000, "rounds of training; the paper: 6000", at_least=1, resume=True)
    clients_per_round: int = option(50, "users who are asked for an update in a round", at_least=1, read_by="both")
    learning_rate: float = option(
        0.0,
        "of the server; 0: the model's (mf 0.002, sasrec and ncf 0.001, of images 1, which is FedAvg)",
        at_least=0,
        follows=True,
    )
    weight_decay: float = option(
        1e-5, "λ of Eq. 1, the L2 term; the paper takes 1e-6 for MF on Gowalla", at_least=0, follows=True
    )
    dropout: float = option(0.2, "of recommenders: the share of a vector that training leaves out", at_least=0, below=1)
    negatives: Literal["static", "fresh"] = option("static", "static: drawn once for the run; fresh: in each round")
    seed: int = option(
        0, "of all that is random: data, model, cohorts, training", at_least=0, below=1 << 63, read_by="both"
    )

    num_clients: int = option(20, "how many share the images", at_least=1, topic="Clients with images", read_by="both")
    dirichlet_alpha: float = option(
        0.0,
        "how unlike each other their shares are: a small α gives few classes each; 0: IID",
        at_least=0,
        read_by="both",
    )

    contrastive_task: Literal["auto", "on", "off"] = option(
        "auto", "auto: on where the defense has union; on; off", topic="UNION's task on the clients (Eq. 4)"
    )
    contrastive_weight: float = option(1.0, "α of Eq. 4: how much the task counts", at_least=0, follows=True)
    contrastive_negatives: int = option(15, "items drawn for each positive one", at_least=1)

    pieck_item_weight: float = option(
        0.0,
        "how much clients draw their rows to popular ones; 0: not at all",
        at_least=0,
        topic="PIECK's regularisers on the clients",
    )
    pieck_user_weight: float = option(
        0.0, "how much they keep user vectors unlike popular rows; 0: not at all", at_least=0
    )
    pieck_items: int = option(10, "how many rows are popular: those that moved furthest", at_least=1)

    attack: str = option(
        "none",
        "none, label-flip, gaussian, lie, fang, ipm, sign-flip, min-max, min-sum, mimic; of recommenders fed-attack, "
        "cluster, cluster+cl, cluster-uniform, explicit-boosting, a-ra, a-hum, pieck-ipe, pieck-uea, psmu, "
        "fed-rec-attack, spattack-o, spattack-l; of images "
        'deep-poisoning, backdoor, alternating-minimization; or "my_module:MyAttack"',
        topic="Who attacks",
        read_by="both",
    )
    target_items: str = option(
        "",
        'items to measure the promotion of: ids as in the data, joined by ","; coldest:N, or random:N of the less '
        "popular half, drawn by the seed",
    )
    public_share: float = option(
        0.0,
        "the share of all training interactions that is public: fed-rec-attack knows it",
        at_least=0,
        at_most=1,
        read_by="both",
    )
    malicious_fraction: float = option(0.01, "the attacker's share of the users", at_least=0, below=1, read_by="both")
    attacker_seed: int = option(
        -1,
        "of who is malicious, apart from all else that is random; -1: the seed",
        at_least=-1,
        below=1 << 63,
        expected="a seed, 0 or more, or -1 for the run's",
        read_by="node",
    )
    attack_start: int = option(1, "the first round in which malicious users poison", read_by="both")
    attack_stop: int = option(0, "the last round in which they do; 0: no end", at_least=0, read_by="both")
    attack_examples: Literal["honest", "median", "cap"] = option(
        "honest",
        "how many examples they claim: honest; median: as the attacker's users have; cap: max-examples",
        read_by="node",
    )

    defense: str = option(
        "none",
        'none, or rules joined by "+", the first one outermost (docs/defenses.md); or "my_module:MyRule"',
        topic="Who defends",
        read_by="both",
    )

    eval_every: int = option(
        100, "rounds from one evaluation to the next", at_least=1, topic="Rounds and results", resume=True
    )
    eval_users: int = option(0, "how many benign users an evaluation asks; 0: all", at_least=0)
    output_dir: str = option(
        "", 'where run directories go, an absolute path; "": ~/robust-fedrec/runs', resume=True, numbers=False
    )
    run_name: str = option(
        "", 'of the run directory; "": made from the options and the time', resume=True, numbers=False
    )
    tracker: TrackerName = option(
        "auto", "none, tensorboard, mlflow; auto: tensorboard where it is installed", numbers=False
    )
    record_updates: str = option(
        "", 'rounds whose updates are kept: 10 for every tenth, 100-120, 100-500/10, several by ","'
    )

    engine: Literal["ray", "flower", "local"] = option(
        "ray",
        "in simulation: ray, flower (Flower's own), local (this process); no matter when deployed",
        topic="Where it runs",
        numbers=False,
    )
    num_nodes: int = option(
        0,
        "of engine ray and local: how many; 0: one a core, and one for the attacker",
        at_least=0,
        resume=True,
        numbers=False,
    )
    nodes_per_process: int = option(
        1,
        "of engine ray: more share a process, which takes about 190 MiB",
        at_least=1,
        resume=True,
        numbers=False,
    )
    ray_address: str = option(
        "",
        '"": a Ray of its own on this machine; auto: RAY_ADDRESS, or the one of "ray start"; or an address',
        resume=True,
        numbers=False,
    )
    cpus_per_node: float = option(
        0.0,
        "of engine ray: CPUs that a process reserves (of nodes-per-process nodes)",
        at_least=0,
        resume=True,
        numbers=False,
    )
    gpus_per_node: float = option(
        0.0,
        "of engine ray: GPUs, or a share of one, that a process reserves (of nodes-per-process nodes)",
        at_least=0,
        resume=True,
        numbers=False,
    )
    device: str = option(
        "auto",
        "where nodes compute, unless their own configuration says it: auto, cpu, cuda, cuda:1, …; auto: on a GPU that "
        "gpus-per-node gives; on other engines one that is there, where the model gains by it (docs/gpu.md)",
        matches=DEVICE,
        expected=DEVICE_IN_WORDS,
        read_by="both",
        resume=True,
    )
    deterministic: bool = option(
        True,
        "on a GPU: the same numbers each time, as far as torch offers that; slower",
        read_by="node",
        resume=True,
    )
    min_nodes: int = option(
        0, "nodes to wait for; 0: until every user of the data set is hosted", at_least=0, resume=True, numbers=False
    )
    node_timeout: float = option(300.0, "seconds to wait for the nodes", at_least=0, resume=True, numbers=False)
    round_timeout: float = option(
        600.0, "seconds to wait for a round's replies", at_least=0, resume=True, numbers=False
    )
    round_patience: float = option(
        4.0,
        "once half of a round's nodes have answered, the others get so many times as long; 0: round-timeout",
        at_least=0,
        resume=True,
        numbers=False,
    )
    min_updates: int = option(1, "a round with fewer valid updates is skipped", at_least=1, resume=True)
    max_examples: int = option(
        1_000_000,
        "a user that claims more is dropped; nobody weighs more than there are items",
        at_least=1,
        below=1 << 31,
        read_by="both",
    )
    value_bound: float = option(
        24.0,
        "no value of an upload is larger than so many times the cohort's median of largest values (Adam); 0: no bound",
        at_least=1,
        also=0,
        expected="at least 1, or 0 for no bound",
        resume=False,
    )
    upload_dtype: UploadDtype = option("float32", "what updates travel in: float32, float16, bfloat16 (docs/scale.md)")
    quarantine_after: int = option(
        -1,
        "a node that failed, was late or had a user rejected so many rounds in a row is not asked again; 0: never; "
        "-1: 5 where deployed, never in simulation",
        at_least=-1,
        expected="0 or more, or -1 for the usual",
        resume=True,
    )

    checkpoint_every: int = option(
        100,
        "rounds from one checkpoint to the next; 0: never",
        at_least=0,
        topic="What survives a crash",
        resume=True,
        numbers=False,
    )
    keep_checkpoints: int = option(
        3, "how many checkpoints stay; older ones go", at_least=1, resume=True, numbers=False
    )
    resume: str = option(
        "", "the run to go on with: latest, a run's directory, or one of its checkpoints", resume=True, numbers=False
    )
    resume_without_state: bool = option(
        False, "go on although nodes have lost their state of the run: their users start anew", resume=True
    )
    state_dir: str = option(
        "",
        'where nodes keep private vectors; "": on the engines ray and local the run\'s directory, else '
        "~/.cache/robust-fedrec/state",
        read_by="node",
        numbers=False,
    )
    plugin_dir: str = option(
        "",
        "a folder with attacks and defenses of your own; an absolute path, or ~/…",
        topic="Of your own",
        read_by="both",
        resume=True,
        numbers=False,
    )
    plugin_options: str = option("", "their options: \"my-strength=3 my-mode='x'\" (docs/extending.md)", read_by="both")

    def __post_init__(self) -> None:
        name = f"a name without slashes, of at most {LONGEST} bytes"
        require(is_name(self.run_name), "run-name", self.run_name, name)

        if self.attack != "none":
            self._require_attacked_round()

    def _require_attacked_round(self) -> None:
        """Refuse an attack that no round of the run would see."""
        start, stop, last = self.attack_start, self.attack_stop, self.num_server_rounds
        require(start <= last, "attack-start", start, f"at most num-server-rounds = {last}, else nobody attacks")
        require(not stop or start <= stop, "attack-start", start, f"at most attack-stop = {stop}, else nobody attacks")

    @property
    def attacked(self) -> bool:
        """Whether anybody is malicious in this run."""
        return self.attack != "none" and self.malicious_fraction > 0


_DECLARED = {one.name: one.declared for one in options_of(RunOptions)}


def declaration(name: str) -> Declaration:
    """What is declared of an option of a run; for one of an attack or a rule what holds of all of these.

    Those change numbers, and no resume may change them.
    """
    return _DECLARED.get(name, Declaration())
