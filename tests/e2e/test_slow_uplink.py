"""Saves come faster than they can be uploaded, and the trainer removes or rewrites what is under way."""

import json
from pathlib import Path

import pytest

from .conftest import NewNode
from .fake_trainer import state_after, weights
from .helpers import FAKE, Task, trace, until

pytestmark = pytest.mark.slow
SIZE = 2_000_000
SAVES = 12


@pytest.mark.parametrize(
    "style",
    [
        pytest.param("--keep 1", id="only the newest directory is kept"),
        pytest.param("--keep 1 --slow-removal", id="old directories go file by file"),
        pytest.param("--keep 1 --slow-removal --bare", id="old directories with empty markers go file by file"),
        pytest.param("--style in-place", id="one directory is rewritten, unmarked meanwhile"),
        pytest.param("--style rude", id="one directory is rewritten under its marker"),
    ],
)
def test_the_newest_save_is_committed_whole_and_nothing_torn_ever_is(
    file_task: Task, new_node: NewNode, tmp_path: Path, style: str
) -> None:
    notes = tmp_path / "trace"
    node = new_node(file_task, SYNCD_UPLOAD_LIMIT="2MB", SYNCD_KEEP="100")
    fake = [*FAKE, "--steps", f"{SAVES}", "--pause", "0.2", "--size", f"{SIZE}", *style.split()]
    life = node.run([*fake, "--no-final", "--trace", str(notes)])
    assert life.code(90) == 0

    saved = trace(notes, "saved")
    seen = {name: len(node.events(f"checkpoint_{name}")) for name in ("seen", "skipped", "torn", "committed")}
    print(f"{len(saved)} saves: {seen}")
    assert len(saved) == SAVES
    commits = file_task.commits(1)
    assert 1 <= len(commits) < SAVES
    if "--keep 1" in style:
        assert seen["skipped"]
        assert not seen["torn"], "a rotation that removes its own names tears nothing"
        assert [found["step"] for found in commits] == sorted(found["step"] for found in commits)
    file_task.verify()
    for found in commits:  # each is one save, not a mixture
        prefix = f"attempt-0001/{found['commit']}"
        said = json.loads(file_task.get(f"{prefix}/state.json"))
        assert file_task.get(f"{prefix}/weights.bin") == weights(said["state"], SIZE)
    newest = json.loads((file_task.restore() / "state.json").read_text())
    assert (newest["step"], newest["state"]) == (SAVES, state_after(SAVES))
    assert file_task.read("done.json")["result"].startswith(f"attempt-0001/{commits[-1]['commit']} ")


def test_without_file_events_scans_alone_find_every_checkpoint(file_task: Task, new_node: NewNode) -> None:
    node = new_node(file_task, SYNCD_WATCH_EVENTS="0", SYNCD_SCAN_INTERVAL="0.3")
    life = node.run([*FAKE, "--steps", "4", "--pause", "0.9"])
    assert life.code() == 0
    print(f"committed {node.committed()}")
    assert node.committed() == [1, 2, 3, 4]
    waited = [line["waited"] for line in node.events("checkpoint_seen") if "step" in line]
    assert max(waited) < 0.9, "found while training went on, not at its end"
    file_task.verify()


def test_auto_paces_uploads_by_the_saves_and_lifts_it_at_the_end(file_task: Task, new_node: NewNode) -> None:
    node = new_node(file_task, SYNCD_UPLOAD_LIMIT="auto", SYNCD_KEEP="100")
    life = node.run([*FAKE, "--steps", "8", "--pause", "0.8", "--size", f"{SIZE}"])
    limit = until(lambda: (node.own("status.json") or {}).get("upload_limit"), "uploads are paced", 30)
    assert isinstance(limit, int)
    assert SIZE / 0.8 <= limit <= 8 * SIZE / 0.4
    assert life.code() == 0
    last = node.own("status.json")
    assert last and last["upload_limit"] is None
    assert node.committed()[-1] == 8
    file_task.verify()
