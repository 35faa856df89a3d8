"""What ``make setup`` writes into the environment, so that every process in it has it when it starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.environment import keep_token, write_startup
from deploy.startup import variables, with_loopback

NAMES = ["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION", "GRPC_ENABLE_FORK_SUPPORT", "no_grpc_proxy"]
NAMES += ["RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"]


def started(folder: Path, token: Path, **own: str) -> dict[str, str]:
    """The variables that a process of such an environment finds; ``own`` are its user's."""
    folder.mkdir()
    write_startup(folder, token)
    program = f"import json, os, site, sys; site.addsitedir({str(folder)!r}); print(json.dumps(dict(os.environ)))"
    own = {"HOME": str(folder), **own}
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], env=own, check=True, capture_output=True, text=True
    )
    assert done.stderr == ""
    found = json.loads(done.stdout)
    return {name: found[name] for name in NAMES if name in found}


def test_a_process_has_the_variables_and_its_user_s_own_stay(tmp_path: Path) -> None:
    token = keep_token(tmp_path / "token")
    expected = {
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "GRPC_ENABLE_FORK_SUPPORT": "0",
        "no_grpc_proxy": "localhost,127.0.0.1,::1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
    }
    assert started(tmp_path / "a", token) == expected
    own = {"GRPC_ENABLE_FORK_SUPPORT": "1", "RAY_AUTH_MODE": "disabled"}
    assert started(tmp_path / "b", token, **own) == {**expected, **own}


def test_a_user_s_own_token_for_ray_is_used(tmp_path: Path) -> None:
    token = keep_token(tmp_path / "token")
    for own in ({"RAY_AUTH_TOKEN": "abc"}, {"RAY_AUTH_TOKEN_PATH": "/elsewhere"}):
        found = started(tmp_path / next(iter(own)), token, **own)
        assert {name: value for name, value in found.items() if name.startswith("RAY")} == {
            "RAY_AUTH_MODE": "token",
            **own,
        }
    home = tmp_path / "home"
    (home / ".ray").mkdir(parents=True)
    keep_token(home / ".ray" / "auth_token")
    found = started(tmp_path / "packages", token, HOME=str(home))
    assert found["RAY_AUTH_MODE"] == "token"
    assert "RAY_AUTH_TOKEN_PATH" not in found


def test_an_environment_without_a_readable_token_starts_without_one(tmp_path: Path) -> None:
    """Ray ends where it is told to ask for a token and cannot read it."""
    found = started(tmp_path / "packages", tmp_path / "missing")
    assert not [name for name in found if name.startswith("RAY")]
    assert found["GRPC_ENABLE_FORK_SUPPORT"] == "0"


def test_this_machine_is_not_asked_of_a_proxy_and_what_the_user_listed_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_loopback("") == "localhost,127.0.0.1,::1"
    assert with_loopback("a.example, ::1") == "a.example,::1,localhost,127.0.0.1"
    # The environment that the tests run in may have its variables already.
    monkeypatch.delenv("no_grpc_proxy", raising=False)
    monkeypatch.setenv("no_proxy", "a.example")
    assert variables("")["no_grpc_proxy"] == "a.example,localhost,127.0.0.1,::1"


def test_the_token_is_random_private_and_stays(tmp_path: Path) -> None:
    first, second = keep_token(tmp_path / "a"), keep_token(tmp_path / "b")
    text = first.read_text()
    assert len(text) == 64
    assert text != second.read_text()
    assert first.stat().st_mode & 0o777 == 0o600
    assert keep_token(first).read_text() == text
    assert os.access(first, os.R_OK)
