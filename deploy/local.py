"""A whole federation on this machine for one run: ``python -m deploy.local``, or ``make deploy-local``.

Starts a SuperLink, benign nodes and one attacker's node with TLS and node authentication on, submits a run,
streams it, and takes everything down again, also on Ctrl-C. Options of the run follow as ``name=value``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import robust_fedrec
from deploy.certificates import make_certificates
from deploy.federation import Federation, TomlScalar, local_place
from deploy.processes import Processes, interruptible
from settings.options import OptionError
from settings.paths import absolute

PROJECT = Path(__file__).resolve().parent.parent

DEFAULTS: dict[str, TomlScalar] = {
    "dataset": "synthetic",
    "num-server-rounds": 5,
    "eval-every": 5,
    "attack": "cluster",
    "malicious-fraction": 0.05,
    "defense": "union+norm-bound",
}
"""Seconds pass for each round whatever it computes: five of them are enough to see one."""


def run_locally(options: dict[str, TomlScalar], benign: int, attackers: int, folder: Path) -> int:
    """One run from keys to summary; 0 where it completed. What the processes log goes to ``folder/logs``."""
    keys = folder / "keys"
    names = {f"benign-{index}": ("benign", index, benign) for index in range(benign)}
    names |= {f"attacker-{index}": ("attacker", index, attackers) for index in range(attackers)}
    make_certificates(keys, nodes=names)
    output = Path(str(options.setdefault("output-dir", str(folder / "runs"))))
    options["output-dir"] = str(absolute("output-dir", output))
    before = {path: path.stat().st_mtime_ns for path in output.glob("*/summary.json")}
    print(
        f"A federation of {benign} benign nodes and {_attackers(attackers)}: attack = {options.get('attack')}, "
        f"defense = {options.get('defense')}.\n"
        f"Results: {options['output-dir']}; what the processes log: {folder / 'logs'}",
        flush=True,
    )
    with interruptible(), Processes(folder / "logs") as processes:
        federation = Federation(local_place(folder, keys), processes)
        print("Starting a SuperLink.", flush=True)
        federation.start_superlink()
        print(f"Starting {len(names)} SuperNodes: {', '.join(names)}.", flush=True)
        for key, (role, index, count) in names.items():
            node: dict[str, TomlScalar] = {"role": role, "partition-id": index, "num-partitions": count}
            federation.start_node(key, {**node, "state-dir": str(folder / "state" / key)})
        subprocess.run(
            federation.run_command(app_in(folder), options),
            env=federation.environment,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    # A run that is resumed writes its summary anew.
    made = [path for path in output.glob("*/summary.json") if path.stat().st_mtime_ns != before.get(path)]
    return _report(made, folder)


def app_in(folder: Path, project: Path = PROJECT) -> Path:
    """The folder that Flower makes its bundle of: the project, or of an installed wheel a copy in ``folder``.

    A wheel has the package ``robust_fedrec`` outside of the folder with the others.
    """
    name = robust_fedrec.__name__
    if (project / name).is_dir():
        return project
    app = folder / "app"
    shutil.copytree(project, app, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    (app / name).mkdir(exist_ok=True)
    shutil.copy(str(robust_fedrec.__file__), app / name)
    return app


def _attackers(number: int) -> str:
    return "1 attacker's node" if number == 1 else f"{number} attackers' nodes"


def _report(summaries: list[Path], folder: Path) -> int:
    completed = False
    for path in summaries:
        summary = json.loads(path.read_text())
        completed = summary["status"] == "completed"
        print(f"{summary['status']}: {path.parent}\n{json.dumps(summary['test'], indent=2)}")
    if not completed:
        print(f"The run did not complete; {folder / 'logs'} says what each process saw.", file=sys.stderr)
    return 0 if completed else 1


def _options(texts: list[str]) -> dict[str, TomlScalar]:
    options: dict[str, TomlScalar] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator:
            raise SystemExit(f"{text!r} is no option: expected name=value.")
        try:
            options[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            options[name] = value
    return options


def main(arguments: list[str] | None = None) -> int:
    """``python -m deploy.local``."""
    parser = argparse.ArgumentParser(prog="robust-fedrec deploy local", description="Run a whole federation here.")
    parser.add_argument("options", nargs="*", metavar="name=value", help="options of the run, as in pyproject.toml")
    parser.add_argument("--nodes", type=int, default=3, help="benign nodes")
    parser.add_argument("--attackers", type=int, default=1, help="attacker's nodes")
    parser.add_argument("--folder", type=Path, help="where keys, logs, state and results go (default: a new one)")
    chosen = parser.parse_args(arguments)
    folder = chosen.folder or Path(tempfile.mkdtemp(prefix="robust-fedrec-"))
    options = DEFAULTS | _options(chosen.options)
    if not chosen.attackers:
        options["attack"] = "none"
    try:
        return run_locally(options, chosen.nodes, chosen.attackers, folder.absolute())
    except OptionError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted: everything is taken down.", file=sys.stderr)
        return 130
    except (RuntimeError, TimeoutError) as error:
        print(f"{error} {folder / 'logs'} says what each process saw.", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
