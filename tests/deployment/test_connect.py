"""A connection of its own for a command, and the user's others as they were."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

from server.simulation import PROJECT


def test_a_users_connections_stay(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[superlink]\ndefault = "mine"\n[superlink.mine]\naddress = "fl.example.org:9093"\n')
    for port in (1, 2):
        command = [sys.executable, "-m", "deploy.connect", f"127.0.0.1:{port}", "ca.crt", "--", "echo", "done"]
        environment = {**os.environ, "FLWR_HOME": str(tmp_path)}
        done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.endswith("done\n")
        found = tomllib.loads(path.read_text())["superlink"]
        assert found["default"] == "mine"
        assert found["mine"]["address"] == "fl.example.org:9093"
        assert found["federation"] == {"address": f"127.0.0.1:{port}", "root-certificates": str(PROJECT / "ca.crt")}


def test_a_home_without_a_configuration_gets_flowers_own_beside_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deploy.connect", "127.0.0.1:1", "ca.crt", "--", "true"]
    subprocess.run(command, cwd=PROJECT, env={**os.environ, "FLWR_HOME": str(tmp_path / "new")}, check=True)
    found = tomllib.loads((tmp_path / "new" / "config.toml").read_text())["superlink"]
    assert {"federation", found["default"]} <= set(found)
    assert found["default"] != "federation"
