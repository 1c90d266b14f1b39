"""A trainer that nobody changed: no marker, no callback, its own rotation, `resume_from_checkpoint=True`."""

import signal
import sys
from pathlib import Path

import pytest

from .conftest import NewNode
from .helpers import Task

PLAIN = [sys.executable, str(Path(__file__).with_name("plain_trainer.py"))]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_an_unchanged_script_resumes_the_right_checkpoint_though_a_torn_one_is_newer(
    file_task: Task, new_node: NewNode
) -> None:
    node = new_node(file_task, SYNCD_QUIET="0.5", SYNCD_SCAN_INTERVAL="0.3")
    life = node.run(PLAIN)
    node.until_committed(life, lambda steps: 40 in steps, "the second commit")
    node.signal(signal.SIGKILL)
    torn = node.root / "checkpoint-9000"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half")
    again = node.run(PLAIN)
    assert again.code(120) == 0
    assert not torn.exists()
    assert "checkpoint-9000" in str(node.events("torn_set_aside"))
    begun = node.events("attempt_begun")
    assert [line["attempt"] for line in begun] == [1, 1]
    assert begun[1]["step"] >= 40
    assert f"resuming from {node.root}/checkpoint-{begun[1]['step']}" in again.text
    assert file_task.read("done.json")["result"].startswith("attempt-0001/checkpoint-100 ")
    file_task.verify()

    elsewhere = new_node(file_task)
    assert elsewhere.run(PLAIN).code(60) == 0
    assert "already_done" in elsewhere.processes[-1].text
