"""What ``make setup`` writes into the environment, so that every process in it has it when it starts."""

import subprocess
import sys

from deploy.environment import keep_token, startup_line, variables


def test_a_process_has_the_variables_and_its_user_s_own_stay(tmp_path) -> None:
    token = keep_token(tmp_path / "token")
    program = startup_line(token) + f"; print([os.environ[name] for name in sorted({list(variables(token))})])"
    own = {"GRPC_ENABLE_FORK_SUPPORT": "1"}
    found = subprocess.run([sys.executable, "-S", "-c", program], env=own, check=True, capture_output=True, text=True)
    expected = {**variables(token), **own}
    assert found.stdout.strip() == str([expected[name] for name in sorted(expected)])


def test_the_token_is_random_private_and_stays(tmp_path) -> None:
    first, second = keep_token(tmp_path / "a"), keep_token(tmp_path / "b")
    text = first.read_text()
    assert len(text) == 64
    assert text != second.read_text()
    assert first.stat().st_mode & 0o777 == 0o600
    assert keep_token(first).read_text() == text
