"""Which of the folders that nodes kept belong to a run."""

from pathlib import Path

from client.state.about import kept_states, states_of
from client.state.store import FILE


def test_a_run_of_the_same_name_is_another_run(tmp_path: Path) -> None:
    for run in ("demo-0a1b2c3d", "demo-00112233", "demo-2-00112233"):
        (tmp_path / run / "node").mkdir(parents=True)
        (tmp_path / run / "node" / FILE).touch()
    found = kept_states(tmp_path)
    assert len(found) == 3
    assert states_of("demo-0a1b2c3d", found) == [tmp_path / "demo-0a1b2c3d" / "node"]
    assert states_of("demo-2-00112233", found) == [tmp_path / "demo-2-00112233" / "node"]
    assert states_of("demo", found) == []
