"""All measurements, one after another: ``python -m benchmarks``. Each is a command of its own as well."""

from __future__ import annotations

import subprocess
import sys

COMMANDS = ("training", "compiled", "node_state", "rules", "attack_rounds", "sasrec", "engine")


def main() -> None:
    for name in COMMANDS:
        print(f"\n== python -m benchmarks.{name}", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)


if __name__ == "__main__":
    main()
