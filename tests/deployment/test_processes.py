"""Who is started together ends together, also those who have left the process group."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from deploy.processes import Processes, descendants, wait_until

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="who belongs to whom is read from /proc")

PARENT = """
import subprocess, sys, time
child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
time.sleep(600)
"""
"""As a SuperLink does with its SuperExec; this child does not even listen."""


@pytest.mark.parametrize("at_once", [True, False])
def test_a_child_in_a_session_of_its_own_ends_too(
    tmp_path: Path, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.processes.GRACE", 1.0)
    with Processes(tmp_path) as processes:
        parent = processes.start("parent", [sys.executable, "-c", PARENT], os.environ)
        wait_until(lambda: "deaf" in processes.log("parent"), 60, "The child has started")
        [child] = descendants(parent.pid)
        assert child.alive
        assert os.getsid(child.pid) == child.pid != os.getsid(parent.pid)
        if at_once:
            processes.stop("parent", at_once=True)
            wait_until(lambda: not child.alive, 10, "The child has ended")
    wait_until(lambda: not child.alive, 10, "The child has ended")
    assert parent.returncode == (-signal.SIGKILL if at_once else -signal.SIGTERM)
