"""`syncd chaos`: finds what is lost and nothing else, ends what it began, and leaves nothing behind."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import botocore.session
import pytest

from syncd.cli import chaos
from syncd.decide import rehearsal
from syncd.decide.rehearsal import Damage, Fault, Round
from syncd.errors import Denied, SyncdError, Transient
from syncd.model.keys import Keys
from syncd.rehearsal import node, play
from syncd.rehearsal import scratch as scratch_module
from syncd.rehearsal.node import Failing, Node, Stuck
from syncd.rehearsal.scratch import sweep
from syncd.store.file import FileStore
from syncd.store.memory import MemoryStore
from syncd.store.wrap import Retrying
from syncd.testing.servers import Minio
from syncd.trainer_care import processes

from .conftest import Call

ALL = bool(os.environ.get("SYNCD_TEST_ALL_FAULTS"))
SABOTAGED = Path(__file__).with_name("sabotaged.py")


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the verb makes its scratch directories."""
    path = tmp_path / "scratch"
    path.mkdir()
    monkeypatch.setenv("TMPDIR", str(path))
    monkeypatch.setattr("tempfile.tempdir", str(path))
    return path


@pytest.fixture
def call(syncd: Call, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """`syncd chaos`. Steps are quicker than for people."""
    monkeypatch.setattr(play, "PAUSE", 0.15)
    return partial(syncd, "chaos")


def objects(tmp_path: Path) -> list[str]:
    """What is in the file store, empty directories too."""
    store = tmp_path / "store"
    found = (path.relative_to(store) for path in store.rglob("*") if path.is_file() or not any(path.iterdir()))
    return sorted(path.as_posix() for path in found if path.parts[0] != ".tmp")


def left_running(scratch: Path) -> list[int]:
    """Processes that have something to do with the scratch directory."""
    found = []
    for path in Path("/proc").iterdir():
        try:
            words = (path / "cmdline").read_bytes() + (path / "environ").read_bytes()
        except OSError:
            continue
        if node.MARK.encode() in words and str(scratch).encode() in words:
            found.append(int(path.name))
    return found


def one(fault: Fault, number: int = 1, *, commits: int = 1, failing: bool = False) -> Round:
    return Round(
        number, fault, commits, delay=0.0, failing=failing, keep_disk=False, damage=Damage.FLIPPED, seed=12345
    )  # fmt: skip


# ---- what is as it should be


@pytest.fixture(scope="module")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    with Minio(tmp_path_factory.mktemp("minio")) as server:
        yield server


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_all_faults_cost_nothing_and_nothing_is_left(
    minio: Minio, call: Call, scratch: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fault once, on a real server; no key of it is printed."""
    bucket = minio.make_bucket("chaos")
    if not ALL:
        monkeypatch.setattr(rehearsal, "FAILING_SHARE", 0.0)  # one round is enough of waiting
    for name, value in minio.env.items():
        monkeypatch.setenv(name, value)
    code, out, err = call(
        "--store", f"s3://{bucket}/some/prefix", "--rounds", f"{len(Fault)}", "--size", "300KiB",
        "--seed", str(rng.randrange(1 << 32)), "--json",
    )  # fmt: skip
    print(err)
    said = json.loads(out)
    assert (code, said["lost"], said["wrong"], said["left"], said["evidence"]) == (0, 0, [], [], None)
    assert (said["rounds"], said["planned"], said["finished"], said["interrupted"]) == (
        len(Fault),
        len(Fault),
        True,
        False,
    )
    assert {each["fault"]: each["rounds"] for each in said["faults"]} == dict.fromkeys(map(str, Fault), 1)
    assert all(each["wrong"] == 0 for each in said["faults"])
    assert (said["zombies_fenced"], said["damages_survived"]) == (2, 1)
    assert said["store_away"] > 0, "a store that fails was noticed"
    assert said["kills"] == len(Fault)  # a drain kills nothing, the trainer's end is another's
    assert said["lives"] >= 10
    assert said["commits"] >= 10
    assert said["restores"] >= 4
    assert set(said["seconds"]) == {"start", "restore", "commit"}
    assert said["seconds"]["restore"]["worst"] >= said["seconds"]["restore"]["median"] > 0
    assert said["deleted"] > 20
    assert len([line for line in err.splitlines() if line.startswith("round ")]) == len(Fault)
    data = minio.directory / "data" / bucket
    assert [path for path in data.rglob("*") if path.is_file()] == []
    assert list(scratch.iterdir()) == []
    assert left_running(scratch) == []
    assert minio.secret not in out + err


def unfinished(minio: Minio, bucket: str, keys: Iterable[str]) -> list[str]:
    """Keys that have an upload which was never ended, by the S3 API. MinIO lists those of an exact key only."""
    client = botocore.session.get_session().create_client(
        "s3", region_name="us-east-1", endpoint_url=minio.endpoint,
        aws_access_key_id=minio.key_id, aws_secret_access_key=minio.secret,
    )  # fmt: skip
    return [key for key in keys if client.list_multipart_uploads(Bucket=bucket, Prefix=key).get("Uploads")]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("options", [(), ("--keep-task",)] if ALL else [()])
def test_uploads_that_kills_cut_off_are_ended(
    minio: Minio,
    call: Call,
    tmp_path: Path,
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
) -> None:
    """Files of several parts at a pace at which a kill comes between two of them; keys in a file of the directory."""
    bucket = minio.make_bucket("parts")
    for name, value in minio.env.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    keys = f"[default]\naws_access_key_id={minio.key_id}\naws_secret_access_key={minio.secret}\n"
    (tmp_path / "keys").write_text(keys)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "keys")
    monkeypatch.setenv("SYNCD_UPLOAD_LIMIT", "12MiB")
    monkeypatch.setattr(chaos, "plan", lambda seed, rounds: [replace(one(Fault.NODE_LOST), delay=1.3)])
    asked: list[set[str]] = []

    def before(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(store: Any, keys: Keys, cut_off: set[str]) -> Any:
            asked.append({f"some/prefix/{key}" for key in cut_off})
            cut.extend(unfinished(minio, bucket, asked[-1]))
            return function(store, keys, cut_off)

        return call

    cut: list[str] = []
    monkeypatch.setattr(chaos, "sweep", before(chaos.sweep))
    monkeypatch.setattr(chaos, "end_uploads", before(chaos.end_uploads))
    code, out, err = call("--store", f"s3://{bucket}/some/prefix", "--size", "32MiB", "--json", *options)
    print(out, err)
    said = json.loads(out)
    assert (code, said["lost"]) == (0, 0)
    assert cut, "the kill came in the midst of an upload"
    assert unfinished(minio, bucket, asked[-1]) == []
    parts = minio.directory / "data" / ".minio.sys" / "multipart"
    assert list(parts.rglob("part.*")) == [], "nor of a key that was not asked for"
    assert len(said["left"]) == len(options), "the task that is kept"


async def test_parts_that_cannot_be_ended_are_told() -> None:
    class Tells(MemoryStore):
        said: bool | SyncdError = True

        @property
        def telling(self) -> "Tells":
            return self

        async def tidy(self, key: str) -> bool:
            if isinstance(self.said, SyncdError):
                raise self.said
            return self.said

    store, keys = Tells(), Keys("task")
    retrying = Retrying(store, patience=0.0)
    assert await sweep(retrying, keys, {"task/x"}) == (0, [])
    line = "parts of uploads that were cut off may be left below task/ ({}): the store's own rule must end them"
    store.said = False
    assert await sweep(retrying, keys, {"task/x"}) == (0, [line.format("this store does not tell")])
    assert await sweep(retrying, keys, set()) == (0, [])
    store.said = Denied("no right to list uploads")
    assert await sweep(retrying, keys, {"task/x"}) == (0, [line.format("no right to list uploads")])
    assert await sweep(Retrying(MemoryStore()), keys, {"task/x"}) == (0, [line.format("this store does not tell")])


@pytest.mark.slow
@pytest.mark.timeout(1800 if ALL else 120)
def test_a_campaign_on_a_directory_costs_nothing_and_leaves_nothing(
    call: Call, tmp_path: Path, scratch: Path, rng: random.Random
) -> None:
    """`make faults` plays ten times all, `make test` a few; files of several ranges."""
    rounds = 10 * len(Fault) if ALL else 2
    code, out, err = call("--rounds", str(rounds), "--seed", str(rng.randrange(1 << 32)), "--size", "24MiB")
    print(out, err)
    assert code == 0
    assert objects(tmp_path) == []
    assert list(scratch.iterdir()) == []


@pytest.mark.slow
def test_the_report_for_people_and_a_task_that_is_kept(
    call: Call, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file store; SYNCD_TASK, the operator's own run, is not touched, and what .env says of it does not count.

    The directory is a trainer's, whose modules may bear any name.
    """
    (tmp_path / ".env").write_text("SYNCD_GROUP=mine\nSYNCD_EXTRA=progress.json\nSYNCD_KEEP=4\n")
    (tmp_path / "queue.py").write_text("raise SystemExit('the trainer's own module')")
    mine = tmp_path / "store" / "my-run" / "attempt-0001" / "attempt.json"
    mine.parent.mkdir(parents=True)
    mine.write_text("{}")
    monkeypatch.setenv("SYNCD_TASK", "my-run")
    monkeypatch.setattr(
        chaos, "plan", lambda seed, rounds: [one(Fault.DRAINED), one(Fault.OBJECT_DAMAGED, 2, commits=2)]
    )
    code, out, err = call("--keep-task", "--seed", "5", "--size", "100KiB", "--task", "scratch-1")
    print(out, err)
    assert code == 0
    assert "task scratch-1 in file://" in err
    assert "lost: 0" in out.splitlines()
    assert "damages survived: 1; seed 5" in out
    assert "drained         1 " in out
    assert "the task scratch-1 is kept" in out
    tops = {key.partition("/")[0] for key in objects(tmp_path)}
    assert tops == {"my-run", "scratch-1"}
    assert "scratch-1/done.json" in objects(tmp_path)
    assert not [key for key in objects(tmp_path) if "/extra/" in key]
    claims = [json.loads(path.read_text()) for path in tmp_path.glob("store/scratch-1/attempt-*/attempt.json")]
    assert {claim["group"] for claim in claims} == {"chaos"}
    assert list(scratch.iterdir()) == []

    before = objects(tmp_path)
    code, _, err = call("--task", "scratch-1")
    assert code == 64
    assert "the task scratch-1 is there already" in err
    assert objects(tmp_path) == before


# ---- what is lost is found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "fault", "says"),
    [
        ("forgets", Fault.NODE_LOST, "began from zero, although step"),
        ("loses", Fault.NODE_LOST, "was told as committed, but the newest that the store holds is none"),
        ("lies", Fault.NODE_LOST, "is not what was saved: model-1.bin, model-2.bin, state.json"),
        ("hides", Fault.FROZEN, "an overtaken node that went on did not end within 4 s (exit code 77 was to come)"),
    ],
)
def test_a_product_that_loses_is_found_out(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, fault: Fault, says: str
) -> None:
    """Real nodes, of a syncd whose store breaks its promises: exit code 1, a line, and the evidence stays."""
    monkeypatch.setattr(node, "SOUND", [sys.executable, str(SABOTAGED), kind])
    monkeypatch.setattr(play, "FENCE_PATIENCE", 4.0)
    monkeypatch.setattr(play, "PATIENCE", 20.0)
    monkeypatch.setattr(chaos, "plan", lambda seed, rounds: [one(fault)])
    code, out, err = call("--size", "100KiB", "--json")
    said = json.loads(out)
    print(said["wrong"], err)
    assert code == 1
    assert said["lost"] == len(said["wrong"]) >= 1
    assert any(says in line for line in said["wrong"]), said["wrong"]
    assert said["deleted"] == 0
    assert objects(tmp_path), "the task stays for inspection"
    home = Path(said["evidence"])
    assert list(home.glob("node-1/*.log"))
    assert left_running(home) == []


def test_a_loss_is_a_line_with_the_place_of_its_evidence(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    async def played(self: play.Rehearsal) -> None:
        self.ledger.begin_round(one(Fault.NODE_KILLED, 3))
        self.ledger.note_wrong(["resumed step 4, although step 5 was committed"])

    monkeypatch.setattr(play.Rehearsal, "play", played)
    code, out, _ = call("--seed", "1")
    assert code == 1
    lines = out.splitlines()
    assert "lost: round 3 (node_killed): resumed step 4, although step 5 was committed" in lines
    assert lines[-1].startswith("lost: 1 things; disks and logs are in ")
    home = Path(lines[-1].rpartition(" ")[2])
    assert home.is_dir()


# ---- being ended


@pytest.fixture
def at_work(tmp_path: Path, scratch: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """`syncd chaos` as a process of its own, with a node that trains. Its parameter: the seed."""
    seed = ["--seed", str(request.param)] if hasattr(request, "param") else []
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SYNCD_", "AWS_", "MQTT_"))}
    store = tmp_path / "store"
    process = subprocess.Popen(
        [sys.executable, "-m", "syncd", "chaos", "--store", store.as_uri(), "--size", "100KiB", "--json", *seed],
        env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        try:
            until(lambda: process.poll() is not None or list(scratch.glob("syncd-chaos-*/node-1/notes.jsonl")))
            assert process.poll() is None, process.communicate()
            assert left_running(scratch)
            assert list(store.rglob("attempt.json"))
            yield process
        finally:
            process.kill()


def until(condition: Callable[[], object], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_ctrl_c_ends_what_was_begun_and_cleans_up(
    at_work: subprocess.Popen[str], tmp_path: Path, scratch: Path
) -> None:
    at_work.send_signal(signal.SIGINT)
    out, err = at_work.communicate(timeout=90)
    assert at_work.returncode == 130, err
    said = json.loads(out)
    assert (said["interrupted"], said["finished"], said["lost"], said["left"]) == (True, False, 0, [])
    assert said["lives"] >= 1
    assert left_running(scratch) == []
    assert list(scratch.iterdir()) == []
    assert objects(tmp_path) == []


@pytest.mark.slow
def test_nodes_do_not_outlive_a_rehearsal_that_is_killed(at_work: subprocess.Popen[str], scratch: Path) -> None:
    at_work.kill()
    until(lambda: not left_running(scratch))


FREEZES = next(
    seed for seed in range(1000) if (plan := rehearsal.plan(seed, 1)[0]).fault is Fault.FROZEN and not plan.failing
)


@pytest.mark.slow
@pytest.mark.parametrize("at_work", [FREEZES], indirect=True)
def test_nor_does_one_that_it_froze(at_work: subprocess.Popen[str], scratch: Path) -> None:
    def stopped() -> list[int]:
        return [pid for pid in left_running(scratch) if state(pid) == "T"]

    until(stopped)
    at_work.kill()
    until(lambda: not left_running(scratch))


def state(pid: int) -> str:
    """`T`: stopped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"


def test_a_node_that_ended_leaves_nothing_running_and_is_killed_where_it_was_frozen(tmp_path: Path) -> None:
    made = Node("node-1", tmp_path / "node-1", dict(os.environ), [])
    child = subprocess.Popen(["sleep", "60"], env={**os.environ, node.MARK: made._mark})
    try:
        made.freeze()
        until(lambda: state(child.pid) == "T")
        made.thaw()
        until(lambda: state(child.pid) == "S")
        made.freeze()
        made.kill()
        assert child.wait(10) == -signal.SIGKILL
        assert made.pids() == []
    finally:
        child.kill()
        child.wait()


def test_what_cannot_be_deleted_is_said(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    async def played(self: play.Rehearsal) -> None:
        await self.store.put(f"{self.keys.top}attempt-0001/x", b"1")
        await self.store.put(f"{self.keys.top}attempt-0001/locked", b"1")

    async def delete(self: FileStore, key: str) -> None:
        if key.endswith("locked"):
            raise Denied("the bucket's rules forbid it")
        await real(self, key)

    real = FileStore.delete
    monkeypatch.setattr(play.Rehearsal, "play", played)
    monkeypatch.setattr(FileStore, "delete", delete)
    code, out, _ = call("--task", "c", "--json")
    said = json.loads(out)
    assert (code, said["deleted"]) == (0, 1)
    assert said["left"] == ["1 objects below c/ are left in the store (the bucket's rules forbid it)"]


async def _goes_away(self: play.Rehearsal) -> None:
    await self.store.put(f"{self.keys.top}attempt-0001/x", b"1")
    raise Transient("connection refused")


def test_what_is_left_is_told_also_where_an_error_is_the_document(
    call: Call, monkeypatch: pytest.MonkeyPatch, scratch: Path
) -> None:
    """A store that went away, disks that cannot be removed, a process that nothing ends: a line each."""

    async def delete(self: FileStore, key: str) -> None:
        raise Transient("connection refused")

    async def cannot(self: play.Rehearsal) -> None:
        self.living.append("processes of node-1 survive SIGKILL: 17")
        await _goes_away(self)

    monkeypatch.setattr(play.Rehearsal, "play", cannot)
    monkeypatch.setattr(FileStore, "delete", delete)
    monkeypatch.setattr("syncd.cli.compose.PATIENCE", 0.0)
    monkeypatch.setattr(scratch_module.shutil, "rmtree", lambda path, ignore_errors: None)
    opened = chaos.opened
    monkeypatch.setattr(chaos, "opened", lambda settings, plugins: opened(settings, plugins, patience=0.0))
    code, out, err = call("--task", "c", "--json")
    assert code == 75
    assert json.loads(out)["error"] == "connection refused"
    lines = err.splitlines()
    assert "1 objects below c/ are left in the store (connection refused)" in lines
    assert "processes of node-1 survive SIGKILL: 17" in lines
    (home,) = scratch.iterdir()
    assert f"{home} is left: not all of it could be removed" in lines


def test_a_signature_in_the_stores_url_is_not_shown(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def open_store(plugins: object, settings: object) -> FileStore:
        return FileStore.open(tmp_path / "store")

    async def played(self: play.Rehearsal) -> None:
        return None

    monkeypatch.setattr("syncd.cli.compose.open_store", open_store)
    monkeypatch.setattr(play.Rehearsal, "play", played)
    for form in ((), ("--json",)):
        code, out, err = call("--store", "other://bucket/x?sig=canary", *form)
        assert code == 0
        assert "other://bucket/x" in out + err
        assert "canary" not in out + err


# ---- what cannot be


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rounds", "0"], "--rounds"),
        (["--rounds", "many"], "--rounds"),
        (["--seed", "-1"], "--seed"),
        (["--size", "0"], "0: between 1KiB and 1TiB"),
        (["--size", "2TiB"], "between 1KiB and 1TiB"),
        (["--size", "big"], "a size is expected"),
        (["--task", "no/name"], "letters, digits"),
        (["surplus"], "surplus"),
    ],
)
def test_nonsense_is_refused_before_anything_is_made(
    call: Call, tmp_path: Path, scratch: Path, arguments: list[str], says: str
) -> None:
    code, out, err = call(*arguments)
    assert (code, out) == (64, "")
    assert len(err.splitlines()) == 1
    assert says in err
    assert not (tmp_path / "store").exists()
    assert list(scratch.iterdir()) == []


def test_a_checkpoint_for_which_there_is_no_room_is_refused(call: Call, scratch: Path) -> None:
    code, _, err = call("--size", "900GiB")
    assert code == 78
    assert "smaller --size" in err
    assert list(scratch.iterdir()) == []


def test_a_store_that_cannot_be_used_is_said_before_a_node_starts(call: Call, tmp_path: Path, scratch: Path) -> None:
    code, _, err = call("--store", (tmp_path / "no" / "mount").as_uri())
    assert code == 78
    assert "create or mount it first" in err
    assert list(scratch.iterdir()) == []


def test_a_store_that_nothing_can_come_back_from_is_refused(call: Call, scratch: Path) -> None:
    code, _, err = call("--store", "memory:")
    assert code == 78
    assert "gone with each process" in err
    assert list(scratch.iterdir()) == []


@pytest.mark.slow
def test_a_node_that_cannot_start_at_all_is_a_matter_of_configuration(
    call: Call, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "SOUND", [sys.executable, "-c", "import sys; sys.exit('syncd: no right to write')"])
    monkeypatch.setattr(chaos, "plan", lambda seed, rounds: [one(Fault.NODE_LOST)])
    monkeypatch.setattr(node.Node, "code", property(lambda self: self._heads[-1].poll() and 78))
    code, _, err = call()
    assert code == 78
    assert "node-1 ended with exit code 78 before its trainer began: syncd: no right to write" in err
    assert list(scratch.iterdir()) == []
    assert objects(tmp_path) == []


def test_a_dry_run_shows_the_plan_of_the_seed_and_makes_nothing(call: Call, tmp_path: Path, scratch: Path) -> None:
    code, out, _ = call("--dry-run", "--seed", "7", "--rounds", "10", "--store", "s3://bucket/prefix")
    assert code == 0
    assert "would make the task chaos-" in out
    assert out.count("all of a node is killed") == 2
    code, out, _ = call("--dry-run", "--seed", "7", "--rounds", "10", "--json")
    said = json.loads(out)
    assert (said["dry_run"], said["seed"]) == (True, 7)
    assert [each["round"] for each in said["plan"]] == list(range(1, 11))
    assert {each["fault"] for each in said["plan"]} == set(map(str, Fault))
    assert not (tmp_path / "store").exists()
    assert list(scratch.iterdir()) == []


# ---- a node


async def test_a_node_signals_only_its_own_processes_and_says_how_it_ended(tmp_path: Path) -> None:
    other = subprocess.Popen(["sleep", "60"])
    try:
        made = Node("node-1", tmp_path / "node-1", dict(os.environ), [])
        made.signal(signal.SIGKILL, [other.pid])
        assert other.poll() is None
        made.env = {**made.env, "SYNCD_KEEP": "none"}
        made.start(Failing(1))
        with pytest.raises(Stuck, match=r"node-1 ended with exit code 78 before it woke: syncd: .*SYNCD_KEEP"):
            await made.until(lambda: False, "it woke", 60)
        assert processes.marked(node.MARK, made._mark) == []
    finally:
        other.kill()
        other.wait()


def test_what_a_node_was_sending_when_it_died_is_what_was_seen_and_not_committed(tmp_path: Path) -> None:
    """In any of its attempts, and under the next name where a name was seen again."""
    made = Node("node-1", tmp_path / "node-1", {}, [])
    assert made.cut_off == set()
    made.events = [
        {"event": "attempt_begun", "attempt": 1},
        {"event": "checkpoint_seen", "checkpoint": "checkpoint-1"},
        {"event": "checkpoint_committed", "checkpoint": "checkpoint-1", "commit": "checkpoint-1"},
        {"event": "checkpoint_seen", "checkpoint": "checkpoint-2"},
        {"event": "attempt_begun", "attempt": 3},
        {"event": "checkpoint_seen", "checkpoint": "checkpoint-2"},
        {"event": "checkpoint_committed", "checkpoint": "checkpoint-2", "commit": "checkpoint-2"},
    ]
    assert made.cut_off == {
        (1, "checkpoint-2"), (1, "checkpoint-2.2"), (1, "final"),
        (3, "checkpoint-1"), (3, "checkpoint-2.2"), (3, "final"),
    }  # fmt: skip


def test_a_tail_gives_whole_lines_once_and_passes_over_others(tmp_path: Path) -> None:
    path = tmp_path / "log"
    tail = node.Tail(path)
    assert tail.read() == []
    path.write_text('{"event":"a"}\nwords\n[1]\n{"event":')
    assert tail.read() == [{"event": "a"}]
    with path.open("a") as file:
        file.write('"b"}\n')
    assert tail.read() == [{"event": "b"}]
    assert tail.read() == []
