"""The real trainer, through MinIO, on nodes that vanish: its adapter is that of a run which nothing disturbed."""

import random
import signal
import time

import pytest

from .conftest import NewNode
from .helpers import FAKE, REAL, Node, Task, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
ADAPTER = "adapter_model.safetensors"


def check_result(task: Task, uninterrupted: bytes, attempts: int) -> None:
    assert (task.restore("final") / ADAPTER).read_bytes() == uninterrupted
    assert task.verify()["checkpoints"] >= 3
    assert task.attempts == attempts
    assert task.read("done.json")["result"].startswith(f"attempt-{attempts:04}/final ")


def test_two_lost_nodes_and_a_killed_daemon_leave_no_trace_in_the_adapter(
    s3_task: Task, new_node: NewNode, uninterrupted: bytes, rng: random.Random
) -> None:
    first = new_node(s3_task)
    life = first.run(REAL)
    steps = first.until_committed(life, lambda steps: 20 in steps, "the first commit")
    time.sleep(rng.uniform(0, 0.5))  # anywhere between two saves, or within one
    first.alive(life, "it was to be killed at work")
    print(f"node 1 vanishes with {steps} committed")
    first.vanish()

    second = new_node(s3_task)
    life = second.run(REAL)
    steps = second.until_committed(life, bool, "a commit of the second attempt")
    assert second.events("attempt_begun")[0]["attempt"] == 2
    assert min(steps) >= 40
    second.alive(life, "it was to be killed at work")
    second.signal(signal.SIGKILL, [life.pid])
    assert life.code() == -signal.SIGKILL
    print(f"node 2 loses syncd alone with {steps} committed")

    again = second.run(REAL)
    before = max(steps)
    steps = second.until_committed(again, lambda steps: max(steps) >= before + 20, "more of the same attempt")
    begun = second.events("attempt_begun")
    assert [line["attempt"] for line in begun] == [2, 2], begun
    assert "same" in begun[1]["how"]
    assert begun[1]["step"] >= before
    time.sleep(rng.uniform(0, 0.3))
    print(f"node 2 vanishes with {steps} committed")
    second.vanish()

    third = new_node(s3_task)
    assert third.run(REAL).code(120) == 0
    begun = third.events("attempt_begun")
    print(f"node 3 began with {begun}, committed {third.committed()}")
    assert begun[0]["step"] >= max(steps)
    check_result(s3_task, uninterrupted, attempts=3)

    fourth = new_node(s3_task)
    began = time.monotonic()
    late = fourth.run(FAKE)
    assert late.code(20) == 0
    assert time.monotonic() - began < 10
    assert "already_done" in late.text
    assert not fourth.events("trainer_started")
    assert s3_task.attempts == 3


def trainer_pid(node: Node) -> int:
    said = node.own("trainer.json")
    return said["pid"] if said and said["state"] == "running" else 0


def test_beside_a_sidecar_each_half_dies_alone_and_a_zombie_is_overtaken(
    s3_task: Task, new_node: NewNode, uninterrupted: bytes
) -> None:
    a = new_node(s3_task)
    sidecar, container = a.sidecar(), a.with_syncd(REAL)
    a.until_committed(sidecar, lambda steps: 20 in steps, "the first commit")

    # the sidecar alone
    pid = trainer_pid(a)
    assert pid
    a.signal(signal.SIGKILL, [sidecar.pid])
    sidecar.code()
    sidecar = a.sidecar()
    until(lambda: len(a.events("attempt_begun")) == 2, "the restarted sidecar goes on", 20)
    assert a.events("attempt_begun")[1]["attempt"] == 1
    steps = a.until_committed(sidecar, lambda steps: len(steps) > 1, "a commit after the sidecar's restart")
    print(f"the sidecar was killed and went on: {steps} committed")
    assert len(a.events("trainer_started")) == 1, "the living trainer is adopted, not started again"
    assert trainer_pid(a) == pid

    # the trainer alone
    a.alive(container, "with-syncd outlives its trainer")
    pid = until(lambda: trainer_pid(a), "the trainer runs")
    before = len(steps)
    a.signal(signal.SIGKILL, a.tree(pid))
    until(lambda: len(a.events("trainer_started")) == 2, "the trainer is started again", 30)
    ended = a.events("trainer_ended")[-1]
    assert (ended["code"], ended["verdict"]) == (137, "failed")
    assert until(lambda: trainer_pid(a), "with-syncd starts it") != pid
    steps = a.until_committed(sidecar, lambda steps: len(steps) > before, "a commit after the trainer's restart")
    print(f"the trainer was killed and went on: {steps} committed")

    # both freeze, and another node takes over
    a.freeze()
    b = new_node(s3_task)
    sidecar_b, container_b = b.sidecar(), b.with_syncd(REAL)
    b.until_committed(sidecar_b, bool, "a commit of node B")
    line = s3_task.line(2)
    a.thaw()
    assert sidecar.code(30) == 77
    assert container.code(30) == 77
    assert not a.pids()
    assert not list(a.root.glob("checkpoint-*")), "a zombie's checkpoints are set aside"
    late = [found["commit"] for found in s3_task.commits(1)]
    print(f"node A committed {a.committed()}, of which {late} are there; node B's line is {line}")

    assert sidecar_b.code(90) == 0
    assert container_b.code(30) == 0
    assert line[0] == f"attempt-0001/checkpoint-{max(steps)}"
    assert s3_task.line(2) == line
    check_result(s3_task, uninterrupted, attempts=2)
