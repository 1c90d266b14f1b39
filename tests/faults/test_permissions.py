"""Users and rights: files of another user, and keys that may not do everything. One line names both users, or the right,
and the cure; nothing is lost."""

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.e2e.conftest import NewNode
from tests.e2e.helpers import FAKE, REPOSITORY, SYNCD, Bucket, Node, Process, Task, until
from tests.faults.disks import one, some, told
from tests.faults.scale import campaign
from tests.s3.rights import keys_by

pytestmark = pytest.mark.slow
NOBODY = 65534
AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
BOTH = ("root (uid 0)", "nobody (uid 65534)")
LINKS_ARE_GUARDED = Path("/proc/sys/fs/protected_hardlinks")

needs_users = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="setpriv and root are needed, to be two users"
)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A place that both users can reach: pytest's own belongs to one."""
    with tempfile.TemporaryDirectory(prefix="syncd-test-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
def shared(file_task: Task, new_node: NewNode, tmp_path: Path) -> Node:
    """A node whose volume root (the trainer) and nobody (syncd) both write to; the store is nobody's."""
    node = new_node(file_task)
    node.root.chmod(0o777)
    (tmp_path / "store").mkdir()
    os.chown(tmp_path / "store", NOBODY, NOBODY)
    return node


def save(root: Path, step: int, *, marker: bool = True) -> Path:
    """What a trainer leaves."""
    directory = root / f"checkpoint-{step}"
    (directory / "deep").mkdir(parents=True)
    (directory / "deep" / "optimizer.bin").write_bytes(b"o" * 1000)
    (directory / "weights.bin").write_bytes(b"w" * 1000)
    if marker:
        (directory / "_SUCCESS").write_text(json.dumps({"step": step, "files": {"weights.bin": 1000}}))
    else:
        (directory / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
        (directory / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return directory


def begun(node: Node) -> Process:
    life = node.start([*AS_NOBODY, SYNCD, "sidecar"], SYNCD_QUIET="1")
    until(lambda: node.own("ready.json") or life.ended, "syncd is ready", 30)
    node.alive(life, "it is ready")
    return life


@needs_users
@pytest.mark.parametrize(
    ("what", "mode"),
    some(("weights.bin", 0o600), ("", 0o700), ("_SUCCESS", 0o600), ("trainer_state.json", 0o600), ("deep", 0o700)),
)
def test_a_checkpoint_of_another_user_is_said_once_and_pushed_when_it_may_be_read(
    shared: Node, file_task: Task, what: str, mode: int
) -> None:
    life = begun(shared)
    directory = save(shared.root / ".hidden", 1, marker=what != "trainer_state.json")
    hindering = directory / what if what else directory
    before = hindering.stat().st_mode & 0o777
    hindering.chmod(mode)
    directory.rename(shared.root / directory.name)
    hindering = shared.root / directory.name / what if what else shared.root / directory.name
    until(lambda: told(life, "checkpoint_unreadable"), "syncd says that it may not read it", 20)
    time.sleep(2.5)  # two scans
    shared.alive(life, "it is no reason to end")
    one(told(life), *BOTH, str(hindering), f"mode {mode:04o}", "run both as one user", "umask 027")
    assert shared.committed() == []
    hindering.chmod(before)
    shared.until_committed(life, bool, "it is pushed once it may be read")
    if LINKS_ARE_GUARDED.read_text().strip() != "0":
        until(lambda: told(life, "not_pinned"), "syncd says that it cannot hold the files", 5)
        one(told(life, "not_pinned"), *BOTH, "hard-linked", "run both as one user")
    save(shared.root, 2)
    shared.until_committed(life, lambda steps: steps[-1] == 2, "the next one")
    assert len(told(life)) <= 2, "each is said once"
    assert (shared.root / "checkpoint-1").is_dir(), "it is left where it is"
    shared.signal(signal.SIGTERM, [life.pid])
    assert life.code(30) == 75
    file_task.verify()


@campaign
@needs_users
def test_an_older_checkpoint_that_may_be_read_late_does_not_become_the_newest(shared: Node, file_task: Task) -> None:
    life = begun(shared)
    first = save(shared.root / ".hidden", 1)
    (first / "weights.bin").chmod(0o600)
    first.rename(shared.root / "checkpoint-1")
    until(lambda: told(life, "checkpoint_unreadable"), "syncd says that it may not read it", 20)
    save(shared.root, 2)
    shared.until_committed(life, lambda steps: 2 in steps, "the next one")
    (shared.root / "checkpoint-1" / "weights.bin").chmod(0o644)
    until(lambda: shared.events("checkpoint_skipped"), "the first one is passed", 20)
    assert shared.committed() == [2]
    file_task.verify()


@needs_users
@pytest.mark.parametrize("what", some("root", "own directory", "store"))
def test_a_place_of_another_user_ends_the_start_with_a_line_that_names_both(
    shared: Node, tmp_path: Path, what: str
) -> None:
    place = {"root": shared.root, "own directory": shared.root / ".syncd", "store": tmp_path / "store"}[what]
    place.mkdir(exist_ok=True)
    os.chown(place, 0, 0)
    place.chmod(0o755)
    life = shared.start([*AS_NOBODY, SYNCD, "run", "--", "true"])
    assert life.code(30) == 78, life.text
    lines = life.text.splitlines()
    assert len(lines) == 1, life.text
    for word in (*BOTH, str(place)):
        assert word in lines[0]
    assert "Traceback" not in life.text


# ---- rights on a bucket


def narrowed(task: Task, policy: str, *, without: str = "") -> Task:
    """The same task with keys by a file of `deploy/s3/`, but for the statement that gives the right `without`."""
    assert isinstance(task.view, Bucket)
    text = (REPOSITORY / "deploy" / "s3" / f"{policy}.json").read_text()
    text = text.replace("BUCKET", task.view.name).replace("PREFIX", task.view.prefix.rstrip("/"))
    document = json.loads(text)
    if without:
        statements = [each for each in document["Statement"] if each["Action"] != without]
        assert len(statements) < len(document["Statement"])
        document["Statement"] = statements
    return Task(task.name, task.env | keys_by(task.view.server, document), task.view, task.home)


def refused(said: CompletedProcess[str], *words: str) -> None:
    """A command ended in 78 with one line that has these words."""
    assert said.returncode == 78, said
    lines = [line for line in said.stderr.splitlines() if '"level": "info"' not in line]
    assert len(lines) == 1, said.stderr
    for word in words:
        assert word in lines[0]


def unless_at_work(said: CompletedProcess[str]) -> CompletedProcess[str] | None:
    return None if "is at work" in said.stderr else said


def test_keys_that_may_not_delete_lose_nothing_and_it_is_said_once(
    s3_task: Task, new_node: NewNode, tmp_path: Path
) -> None:
    task = narrowed(s3_task, "policy-no-delete")
    first = new_node(task, SYNCD_KEEP="2")
    life = first.run([*FAKE, "--steps", "9", "--hold", f"6:{tmp_path / 'never'}"])
    first.until_committed(life, lambda steps: 6 in steps, "step 6")
    until(lambda: told(life, "not_deleted"), "syncd says that nothing is deleted", 20)
    one(told(life), "may not DeleteObject", "lifecycle rule", "deploy/s3/README.md")
    assert first.events("deleted") == []
    steps = first.committed()
    first.vanish()
    before = task.listing()
    said = until(lambda: unless_at_work(task.syncd("gc", "--keep", "2")), "the first node's heartbeat is old", 30)
    refused(said, "may not DeleteObject", "Nothing was changed", "'syncd gc'")
    assert task.listing() == before
    second = new_node(task, SYNCD_KEEP="2")
    life = second.run([*FAKE, "--steps", "9"])
    assert life.code(60) == 0
    assert second.events("attempt_begun")[0]["checkpoint"] == "checkpoint-6"
    one(told(life), "may not DeleteObject")
    assert [each["step"] for each in task.commits(1)] == steps, "nothing went"
    assert len(steps) > 2
    task.verify()
    before = task.listing()
    refused(task.syncd("reset", "--confirm", task.name), "may not DeleteObject", "Nothing was changed", "'syncd reset'")
    assert task.listing() == before


@campaign
def test_the_policy_that_is_recommended_is_enough_for_a_whole_life(s3_task: Task, new_node: NewNode) -> None:
    """With files of several parts, whose interrupted uploads are asked for."""
    task = narrowed(s3_task, "policy")
    node = new_node(task, SYNCD_KEEP="2")
    life = node.run([*FAKE, "--steps", "3", "--size", "20000000", "--pause", "0.5"])
    assert life.code(90) == 0
    assert told(life) == []
    assert node.events("deleted")
    task.verify()
    assert task.syncd("reset", "--confirm", task.name).returncode == 0


@campaign
def test_keys_that_may_only_read_restore_and_look_and_end_a_start_with_one_line(
    s3_task: Task, new_node: NewNode
) -> None:
    assert new_node(s3_task).run([*FAKE, "--steps", "2"]).code(60) == 0
    task = narrowed(s3_task, "policy-read-only")
    for verb in ("ls", "status"):
        assert task.syncd(verb).returncode == 0
    task.verify()
    assert (task.restore() / "weights.bin").exists()
    other = Task("other", task.env | {"SYNCD_TASK": "other"}, task.view, task.home)
    refused(other.syncd("run", "--", "true"), "may not PutObject", "grant it that right")


@pytest.mark.parametrize("verb", some(("run", "--", "true"), ("ls",)))
def test_keys_that_may_not_list_end_with_one_line(s3_task: Task, verb: tuple[str, ...]) -> None:
    task = narrowed(s3_task, "policy", without="s3:ListBucket")
    refused(task.syncd(*verb), "may not ListObjectsV2", "grant it that right")
