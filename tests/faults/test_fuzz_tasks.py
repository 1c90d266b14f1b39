"""A store or a disk with one spoilt object: what starts there resumes a good checkpoint; readers say what is wrong."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.__main__ import main
from syncd.errors import ConfigError, Corrupt
from syncd.local.lock import locked
from syncd.model.checkpoint import parse_manifest
from syncd.model.keys import Keys
from syncd.move.audit import audit
from syncd.move.overview import present_line, read_task
from syncd.move.start import AlreadyDone
from syncd.store.memory import MemoryStore
from syncd.testing import Node, open_gate
from tests.faults.documents import NAMES, spoiled
from tests.faults.fuzzing import ALL, INPUTS, TRACEBACKS, assert_told, fuzzed, one_input

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600 if ALL else 120)]
KEYS = Keys("task")
KINDS = {
    "task/attempt-0001/attempt.json": "claim",
    "task/attempt-0001/resume.json": "record",
    "task/attempt-0001/manifests/checkpoint-1.json": "manifest",
    "task/attempt-0001/manifests/checkpoint-2.json": "manifest",
    "task/attempt-0001/closed.json": "closed",
    "task/attempt-0002/attempt.json": "claim",
    "task/attempt-0002/resume.json": "record",
    "task/attempt-0002/manifests/checkpoint-3.json": "manifest",
    "task/attempt-0002/heartbeat.json": "heartbeat",
    "task/done.json": "done",
    "task/attempt-0001/checkpoint-2/model.bin": "beat",
    "task/attempt-0002/checkpoint-3/sub/state.json": "beat",
    "task/attempt-0002/checkpoint-3/_SUCCESS": "beat",
}
"""What can be spoilt, and as which kind of document; what is not there is added."""
WHOLE = {1: "checkpoint-1", 2: "checkpoint-2", 3: "checkpoint-3"}


async def two_attempts(home: Path) -> dict[str, bytes]:
    """Two nodes' lives: 1 and 2 committed by the first, 3 by the second."""
    store = MemoryStore()
    for name, steps in (("a", (1, 2)), ("b", (3,))):
        node = Node(store, home / name, keep=3)
        await node.boot()
        for step in steps:
            node.save(step)
            await node.push_all()
    return store.objects


@pytest.fixture(scope="module")
def sound() -> Iterator[dict[str, bytes]]:
    """A sound task's objects."""
    import tempfile

    where = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=where, prefix="syncd-fuzz-") as made:
        yield asyncio.run(two_attempts(Path(made)))


@st.composite
def spoilt_object(draw: st.DrawFn) -> tuple[str, str, object]:
    """`(key, way, what)`: replaced by what, or gone."""
    key = draw(st.sampled_from(sorted(KINDS)))
    way = draw(st.sampled_from(["spoil", "spoil", "spoil", "own", "drop"]))
    return key, way, draw(st.data() if way == "own" else spoiled(KINDS[key]) if way == "spoil" else st.none())


def with_spoilt(objects: dict[str, bytes], spoilt: tuple[str, str, object]) -> dict[str, bytes]:
    key, way, what = spoilt
    made = dict(objects)
    if way == "drop":
        made.pop(key, None)
    elif way == "spoil":
        assert isinstance(what, bytes)
        made[key] = what
    elif key in made and key.endswith(".json"):
        made[key] = what.draw(spoiled(KINDS[key], made[key]))  # type: ignore[attr-defined]
    return made


def line_of(objects: dict[str, bytes]) -> list[str]:
    """The names of the whole checkpoints that a reader finds in the line."""

    async def look() -> list[str]:
        store = MemoryStore(dict(objects))
        view = await read_task(store, KEYS)
        return [found.manifest.name for found in await present_line(store, view)]

    return asyncio.run(look())


@fuzzed(220)
@given(spoilt_object(), st.booleans())
def test_I5_a_start_on_a_spoilt_store_resumes_a_whole_checkpoint(
    sound: dict[str, bytes], one_place: Path, spoilt: tuple[str, str, object], same_disk: bool
) -> None:
    shutil.rmtree(one_place)
    one_place.mkdir()
    if same_disk:
        asyncio.run(two_attempts(one_place))
    objects = with_spoilt(sound, spoilt)
    node = Node(MemoryStore(objects), one_place / ("b" if same_disk else "c"), keep=3)
    with one_input("start"):  # one spoilt object is never a reason to refuse
        try:
            begun = asyncio.run(node.boot())
        except AlreadyDone:
            assert KEYS.done in objects
            return
        assert begun.checkpoint is not None, f"from zero, though {line_of(objects)} is there"
        step = int(begun.checkpoint.rpartition("-")[2])
        assert node.holds(step), "what is resumed is not what the trainer wrote"
        node.save(9)
        asyncio.run(node.push_all())
        assert "checkpoint-9" in line_of(objects)


NEWEST = "task/attempt-0002/manifests/checkpoint-3.json"
"""The one manifest that no record's line names yet, so that no sum says what it was."""


def must_be_told(key: str, before: bytes | None, after: bytes | None) -> bool:
    """Whether a reader can tell that the object is another: a sum vouches for it, or it can no longer be read."""
    if before == after or not ("/manifests/" in key or "/checkpoint-" in key):
        return False
    if key != NEWEST or after is None:
        return True
    try:
        parse_manifest(after, key)
    except Corrupt:
        return True
    return False


@fuzzed(120)
@given(spoilt_object())
def test_I2_audit_names_whatever_is_wrong_with_the_line(
    sound: dict[str, bytes], spoilt: tuple[str, str, object]
) -> None:
    objects = with_spoilt(sound, spoilt)
    with one_input("audit"):
        found = asyncio.run(audit(MemoryStore(objects), KEYS, deep=True, gate=open_gate))
        for text in (*found.problems, *found.notes):
            assert_told(text, "task/" if text in found.problems else None)
        if must_be_told(spoilt[0], sound.get(spoilt[0]), objects.get(spoilt[0])):
            assert found.problems or found.notes, "another, and nothing was said"


DOCUMENTED = {0, 1, 64, 75, 77, 78}
COMMANDS = [
    ["verify", "--deep"], ["verify", "--json"], ["ls"], ["ls", "--json"], ["status"], ["status", "--json"],
    ["gc", "--dry-run"], ["gc", "--dry-run", "--json"], ["restore", "--dry-run"], ["reset", "--dry-run"], ["restore", "--to"],
]  # fmt: skip


@contextmanager
def settings_of(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        for name, value in {
            "STORE": (home / "store").as_uri(),
            "ROOT": str(home / "root"),
            "TASK": "task",
            "LOG_FORMAT": "text",
        }.items():
            patch.setenv(f"SYNCD_{name}", value)
        patch.chdir(home)
        yield


def write_out(objects: dict[str, bytes], home: Path) -> None:
    """The objects as a file store has them."""
    shutil.rmtree(home / "store", ignore_errors=True)
    shutil.rmtree(home / "to", ignore_errors=True)
    (home / "root").mkdir(exist_ok=True)
    for key, data in objects.items():
        path = home / "store" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def call(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Run a command in this process: a documented exit code, and text without a traceback."""
    INPUTS["command"] += 1
    code = main(arguments)
    out = capsys.readouterr()
    if "Traceback" in out.out + out.err or code not in DOCUMENTED:
        TRACEBACKS["command"] += 1
    assert "Traceback" not in out.out + out.err, out.err
    assert code in DOCUMENTED, f"{code}: {out.err}"
    for line in (out.err if "--json" in arguments else out.out + out.err).splitlines():
        assert line.isprintable(), line
        assert len(line) <= 3000, line[:300]
    if code >= 64:
        assert len([line for line in out.err.splitlines() if line.startswith("syncd: ")]) >= 1, out.err
    if "--json" in arguments:
        assert json.loads(out.out)["version"] == 1


@fuzzed(50)
@given(spoilt_object(), st.integers(0, len(COMMANDS) - 1))
def test_every_command_on_a_spoilt_store_ends_as_documented(
    sound: dict[str, bytes], one_place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    spoilt: tuple[str, str, object], at: int,
) -> None:  # fmt: skip
    write_out(with_spoilt(sound, spoilt), one_place)
    with settings_of(one_place, monkeypatch):
        for arguments in (COMMANDS[at], COMMANDS[(at + 3) % len(COMMANDS)]):
            call([*arguments, "to"] if arguments[-1] == "--to" else arguments, capsys)


@pytest.fixture
def one_place(ram_path: Path) -> Path:
    """One directory for all inputs of a test."""
    place = ram_path / "place"
    place.mkdir()
    return place


STRAY = [
    "task/attempt-999999999999/x", "task/attempt-20240101/attempt.json", "task/attempt-00001/attempt.json", "task/attempt-0000/attempt.json",
    "task/attempt-0001x/attempt.json", "task/attempt-٠٠٠٣/attempt.json", "task/attempt-0002/manifests/x", "task/attempt-0002/manifests/.json",
    "task/attempt-0002/manifests/a/b.json", "task/attempt-0002/kept/checkpoint-3.json", "task/attempt-0002/events/x", "task/done.json.bak",
    "task/attempt-0002/checkpoint-9/orphan", "task/attempt-0002/\n.json", "task/attempt-0002/manifests/\x1b[31m.json", "task/x",
    "task/attempt-0003/resume.json", "task/attempt-0002/manifests/" + "x" * 200 + ".json",
]  # fmt: skip


@fuzzed(60)
@given(st.sampled_from(STRAY), st.binary(max_size=20) | st.just(b""), st.sampled_from(NAMES))
def test_I5_stray_objects_neither_hold_up_nor_mislead_a_start(
    sound: dict[str, bytes], one_place: Path, key: str, data: bytes, name: str
) -> None:
    shutil.rmtree(one_place)
    one_place.mkdir()
    objects = {**sound, key: data}
    node = Node(MemoryStore(objects), one_place / "c", keep=3)

    async def boot() -> None:
        async with asyncio.timeout(20):
            begun = await node.boot()
        assert begun.checkpoint == "checkpoint-3"

    with one_input("stray", may=(ConfigError, Corrupt)):
        asyncio.run(boot())


@fuzzed(40)
@given(spoiled("status"), st.booleans())
def test_status_beside_a_daemon_shows_what_the_store_says_whatever_the_daemons_own_file_does(
    sound: dict[str, bytes], one_place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    data: bytes, as_json: bool,
) -> None:  # fmt: skip
    if not (one_place / "store").exists():
        write_out(sound, one_place)
        (one_place / "root" / ".syncd").mkdir()
    (one_place / "root" / ".syncd" / "status.json").write_bytes(data)
    with settings_of(one_place, monkeypatch), locked(one_place / "root"):
        call(["status", "--json"] if as_json else ["status"], capsys)
