"""Names and kinds of files: what is carried comes back as it was; what is not is told in one line, and nothing waits for it."""

import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from syncd.errors import ConfigError, Corrupt, Refused, StoreError
from syncd.local.completion import CORE_RULES
from syncd.local.lock import locked
from syncd.local.pins import LONGEST_NAME
from syncd.local.place import Place
from syncd.local.root import Root
from syncd.local.scan import scan
from syncd.local.tree import remove_tree
from syncd.local.watch import Nudge, watching
from syncd.model.event import silent
from syncd.model.keys import Keys
from syncd.model.names import step_of
from syncd.move import restore
from syncd.move.objects import read_manifest
from syncd.store.file import FileStore
from syncd.store.memory import MemoryStore
from syncd.testing import Node, open_gate, verify
from tests.faults.fuzzing import ALL, assert_told

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for mknod and other users")
NOBODY = 65534
SECONDS = 20.0 if ALL else 1.3
"""For which names are swapped under a reader."""


async def a_node(home: Path, store: object | None = None) -> Node:
    node = Node(store or MemoryStore(), home / "a")  # type: ignore[arg-type]
    await node.boot()
    return node


def told(node: Node, event: str) -> list[dict[str, object]]:
    return [fields for name, fields in node.events if name == event]


# ---- what is never carried


def symlink(to: str) -> Callable[[Path], None]:
    return lambda path: (path / "odd").symlink_to(to)


def bound(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = os.getcwd()
        os.chdir(path)  # a socket's path has 108 bytes
        try:
            made.bind("odd")
        finally:
            os.chdir(here)


def loop(path: Path) -> None:
    (path / "odd").symlink_to("odd too")
    (path / "odd too").symlink_to("odd")


def deep(levels: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        fd = os.open(path, os.O_RDONLY)
        for _ in range(levels):
            os.mkdir("odd", dir_fd=fd)
            below = os.open("odd", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        os.close(fd)

    return make


def named(name: str | bytes) -> Callable[[Path], None]:
    return lambda path: os.close(os.open(os.fsencode(path) + b"/" + os.fsencode(name), os.O_CREAT | os.O_WRONLY))


def long_path(path: Path) -> None:
    below = path / ("odd" * 70) / ("d" * 240) / ("e" * 240) / ("f" * 240)
    below.mkdir(parents=True)
    (below / "file").write_text("x")


NEVER: dict[str, Callable[[Path], None]] = {
    "link to a file": symlink("model.bin"),
    "link to a directory": symlink("sub"),
    "link upwards": symlink(".."),
    "dangling link": symlink("nowhere"),
    "absolute link": symlink("/etc/passwd"),
    "links in a loop": loop,
    "pipe": lambda path: os.mkfifo(path / "odd"),
    "socket": bound,
    "newline": named("odd\n"),
    "tab": named("odd\t"),
    "carriage return": named("odd\r"),
    "escape": named("odd\x1b[31m"),
    "backslash": named("odd\\x"),
    "not UTF-8": named(b"odd\xff\xfe"),
    "a path of over 900 bytes": long_path,
    "directories 1,000 deep": deep(1000),
    "directories 5,000 deep": deep(5000),
}


@pytest.fixture
def deep_path(ram_path: Path) -> Iterator[Path]:
    """A directory that may come to hold what only `remove_tree` removes."""
    made = ram_path / "deep"
    made.mkdir()
    yield made
    remove_tree(made)


@pytest.mark.parametrize("kind", NEVER)
async def test_I9_what_is_never_carried_is_told_once_and_holds_up_nothing_else(deep_path: Path, kind: str) -> None:
    node = await a_node(deep_path)
    NEVER[kind](node.save(1))
    node.save(2)
    node.keeper.backlog = 10
    for _ in range(3):
        await node.push_all()
    (refused,) = told(node, "checkpoint_refused")
    assert refused["checkpoint"] == "checkpoint-1"
    assert_told(str(refused["why"]), "odd")
    assert "checkpoint-1" in str(refused["why"])
    assert [found.manifest.name for found in node.keeper.commits] == ["checkpoint-2"]
    assert isinstance(node.store, MemoryStore)
    assert not [key for key in node.store.objects if "checkpoint-1" in key]
    await verify(node.store)


@AS_ROOT
@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK], ids=["character", "block"])
async def test_I9_a_device_is_never_opened(ram_path: Path, kind: int) -> None:
    node = await a_node(ram_path)
    path = node.save(1)
    try:
        os.mknod(path / "odd", kind | 0o600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("mknod of devices is refused here")
    await node.push_all()
    (refused,) = told(node, "checkpoint_refused")
    assert_told(str(refused["why"]), "odd is a device")


async def test_I8_once_what_was_refused_is_mended_it_is_pushed(ram_path: Path) -> None:
    node = await a_node(ram_path)
    (node.save(1) / "odd").symlink_to("model.bin")
    await node.push_all()
    (node.root / "checkpoint-1" / "odd").unlink()
    await node.push_all()
    assert [found.manifest.name for found in node.keeper.commits] == ["checkpoint-1"]


LONG_NAMES = {"longest": "x" * (LONGEST_NAME - 2) + "-1", "too long": "x" * 250 + "-1", "multi-byte": "é漢" * 50}


@pytest.mark.parametrize("kind", LONG_NAMES)
@pytest.mark.parametrize("where", ["memory", "file"])
async def test_I8_a_long_name_of_a_checkpoint_is_carried_or_refused_and_never_waited_for(
    ram_path: Path, kind: str, where: str
) -> None:
    node = await a_node(ram_path, FileStore.open(ram_path / "store", create=True) if where == "file" else None)
    path = node.root / LONG_NAMES[kind]
    for generation in range(3):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        (path / "w").write_text(str(generation))
        (path / "_SUCCESS").write_text("")
        await node.push_all()
    committed = [found.commit for found in node.keeper.commits]
    assert committed == ([path.name, f"{path.name}.2", f"{path.name}.3"] if kind == "longest" else [])
    for refused in told(node, "checkpoint_refused"):
        assert_told(str(refused["why"]), "shorten it")
    if kind == "longest":
        other = Node(node.store, ram_path / "b")
        assert (await other.boot()).checkpoint == path.name


# ---- what is carried

ODD_BUT_CARRIED = [
    "Model.bin", "MODEL.BIN", "-rf", "--help", "~", "$HOME", "a b", " ", "\u00e9", "e\u0301", "漢" * 85, "x" * 255, "%2e%2e", "...", "a:b",
    "?*[", '"\'', "\u202etxt", ".hidden", ".tmp/x", "a.json/b", "manifests/x", "attempt.json", "done.json", "#;&|", "final", "\U0001f600",
]  # fmt: skip


@pytest.mark.parametrize("where", ["memory", "file"])
async def test_I5_odd_names_come_back_byte_for_byte_case_and_unicode_twins_as_two_files(
    ram_path: Path, where: str
) -> None:
    store = FileStore.open(ram_path / "store", create=True) if where == "file" else MemoryStore()
    node = await a_node(ram_path, store)
    path = node.save(1, marker=False)
    for number, name in enumerate(ODD_BUT_CARRIED):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(f"content of {number}")
    (path / "empty").write_bytes(b"")
    (path / "empty directory").mkdir()
    with (path / "sparse").open("wb") as file:
        file.truncate(5 << 20)
    os.link(path / "model.bin", path / "second name")
    (path / "_SUCCESS").write_text("")
    await node.push_all()
    assert [found.manifest.name for found in node.keeper.commits] == ["checkpoint-1"], node.events
    await verify(store)
    other = Node(store, ram_path / "b")
    assert (await other.boot()).checkpoint == "checkpoint-1"
    back = other.root / "checkpoint-1"
    for number, name in enumerate(ODD_BUT_CARRIED):
        assert (back / name).read_text() == f"content of {number}", name
    assert (back / "empty").read_bytes() == b""
    assert (back / "sparse").stat().st_size == 5 << 20
    assert (back / "second name").read_bytes() == (back / "model.bin").read_bytes()
    assert (back / "second name").stat().st_nlink == 1
    assert not (back / "empty directory").exists(), "a store has no directories"


@pytest.mark.parametrize(
    "name",
    [
        "checkpoint-20261126152200",
        "checkpoint-" + "9" * 18,
        "checkpoint-" + "9" * 60,
        "checkpoint-٣",
        "checkpoint-0007",
    ],
)
async def test_I5_a_step_of_any_length_is_committed_and_restored(ram_path: Path, name: str) -> None:
    store = MemoryStore()
    node = await a_node(ram_path, store)
    path = node.root / name
    path.mkdir()
    (path / "model.bin").write_bytes(b"w")
    (path / "trainer_state.json").write_text(
        f'{{"global_step": {int(name.rpartition("-")[2])}}}'
    )  # without a marker too
    await node.keeper.root.look()
    await node.push_all()
    other = Node(store, ram_path / "b")
    begun = await other.boot()
    assert (begun.checkpoint, begun.step) == (name, step_of(name))


async def test_I5_what_could_not_be_read_back_is_refused_before_a_byte_is_sent(
    ram_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncd.model.canonical.MAX_JSON", 600)
    node = await a_node(ram_path)
    path = node.save(1)
    for number in range(20):
        (path / f"file-{number}").write_text("x")
    await node.push_all()
    await node.push_all()
    (refused,) = told(node, "checkpoint_refused")
    assert_told(str(refused["why"]), "could not be restored")
    assert isinstance(node.store, MemoryStore)
    assert not [key for key in node.store.objects if "checkpoint-1" in key]
    (node.root / "checkpoint-1").rename(node.root / "final")
    assert await node.keeper.finish() is None, "and a finished model of that kind ends too"


# ---- what cannot be read

READ_AS_NOBODY = """
import asyncio, os, sys
from pathlib import Path
from syncd.store.memory import MemoryStore
from syncd.testing import Node

async def main():
    node = Node(MemoryStore(), Path(sys.argv[1]))
    await node.boot()
    node.save(2)
    node.keeper.backlog = 10
    for _ in range(3):
        await node.push_all()
    for event, fields in node.events:
        if event in ("checkpoint_unreadable", "checkpoint_refused"):
            print(event, fields["checkpoint"], fields["why"])
    print("committed", [found.manifest.name for found in node.keeper.commits])
    os.chmod(Path(sys.argv[1], "checkpoint-3", sys.argv[2]), 0o700)
    await node.push_all()
    print("committed", [found.manifest.name for found in node.keeper.commits])

asyncio.run(main())
"""


@AS_ROOT
@pytest.mark.slow
@pytest.mark.parametrize("what", ["model.bin", "sub"])
def test_I8_what_may_not_be_read_is_told_once_and_pushed_once_it_may(what: str) -> None:
    import tempfile

    home = Path(tempfile.mkdtemp(dir="/tmp", prefix="syncd-test-"))
    try:
        root = home / "root"
        path = root / "checkpoint-3"
        (path / "sub").mkdir(parents=True)
        (path / "model.bin").write_text("x")
        (path / "sub" / "x").write_text("x")
        (path / "_SUCCESS").write_text("")
        (path / what).chmod(0)
        for each in (home, root, path, *path.rglob("*")):
            os.chown(each, NOBODY, NOBODY)
        done = subprocess.run(
            ["setpriv", f"--reuid={NOBODY}", "--clear-groups", sys.executable, "-c", READ_AS_NOBODY, str(root), what],
            capture_output=True, text=True, timeout=60, check=False, env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
    finally:
        shutil.rmtree(home)
    assert done.returncode == 0, done.stderr
    first, committed, at_last = done.stdout.splitlines()
    assert_told(first, f"checkpoint-3/{what}")
    assert "cannot be read" in first
    assert committed == "committed ['checkpoint-2']"
    assert at_last == "committed ['checkpoint-2', 'checkpoint-3']"


# ---- links in the place of directories


def outside(home: Path) -> Path:
    """A directory that is none of ours, with something to lose in it."""
    made = home / "outside"
    (made / "sub").mkdir(parents=True)
    (made / "secret").write_bytes(SECRET)
    (made / "sub" / "secret").write_bytes(SECRET)
    return made


SECRET = b"the secret of another " * 40


def untouched(made: Path) -> bool:
    there = {path.relative_to(made).as_posix() for path in made.rglob("*")}
    return there == {"secret", "sub", "sub/secret"} and (made / "secret").read_bytes() == SECRET


async def test_I9_a_checkpoint_that_is_a_link_is_none(ram_path: Path) -> None:
    node = await a_node(ram_path)
    (outside(ram_path) / "_SUCCESS").write_text("")
    (node.root / "checkpoint-1").symlink_to(ram_path / "outside")
    (node.root / "checkpoint-latest").symlink_to("checkpoint-2")
    node.save(2)
    await node.push_all()
    await node.push_all()
    (refused,) = told(node, "checkpoint_refused")
    assert_told(str(refused["why"]), "checkpoint-1 is a link")
    assert [found.manifest.name for found in node.keeper.commits] == ["checkpoint-2"]
    assert isinstance(node.store, MemoryStore)
    assert not [key for key, data in node.store.objects.items() if SECRET in data]


async def test_a_root_that_is_a_link_is_the_directory_that_it_leads_to(ram_path: Path) -> None:
    from syncd.config import Settings

    (ram_path / "real").mkdir()
    (ram_path / "link").symlink_to("real")
    assert Settings(root=ram_path / "link").root == ram_path / "real"


@pytest.mark.parametrize("what", [".syncd", ".syncd/staging", ".syncd/quarantine", ".syncd/pins"])
def test_I9_an_own_directory_that_is_a_link_is_refused_in_one_line(ram_path: Path, what: str) -> None:
    made = outside(ram_path)
    root = ram_path / "root"
    (root / what).parent.mkdir(parents=True)
    (root / what).symlink_to(made)
    with pytest.raises(ConfigError) as caught:
        Place(root).make()
    assert_told(str(caught.value), "is a link")
    assert untouched(made)


@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
def test_I9_a_lock_that_is_no_file_is_refused_and_what_it_leads_to_is_left_as_it_is(ram_path: Path, kind: str) -> None:
    made = outside(ram_path)
    place = Place(ram_path)
    place.make()
    lock = place.own / "lock"
    if kind == "link":
        lock.symlink_to(made / "secret")
    elif kind == "pipe":
        os.mkfifo(lock)
    else:
        lock.mkdir()
    with pytest.raises(ConfigError) as caught, locked(ram_path):
        pass
    assert_told(str(caught.value), "lock")
    assert untouched(made)


async def committed_at(ram_path: Path, name: str) -> MemoryStore:
    """A store with one commit of this name."""
    node = await a_node(ram_path)
    path = node.root / name
    (path / "sub").mkdir(parents=True)
    (path / "model.bin").write_bytes(b"w" * 1000)
    (path / "sub" / "x").write_bytes(b"x" * 1000)
    (path / "_SUCCESS").write_text("")
    await node.push_all()
    assert isinstance(node.store, MemoryStore)
    return node.store


async def test_I9_a_folder_of_checkpoints_that_is_a_link_is_neither_written_to_nor_made_in(ram_path: Path) -> None:
    store = await committed_at(ram_path, "runs/7/checkpoint-1")
    made = outside(ram_path)
    other = Node(store, ram_path / "b")
    other.root.mkdir()
    (other.root / "runs").symlink_to(made)
    with pytest.raises(ConfigError) as caught:
        await other.boot()
    assert_told(str(caught.value), "by a link")
    assert untouched(made)


async def test_I9_a_link_of_the_checkpoints_name_is_set_aside_and_not_followed(ram_path: Path) -> None:
    store = await committed_at(ram_path, "checkpoint-1")
    made = outside(ram_path)
    other = Node(store, ram_path / "b")
    other.root.mkdir()
    (other.root / "checkpoint-1").symlink_to(made)
    assert (await other.boot()).checkpoint == "checkpoint-1"
    assert not (other.root / "checkpoint-1").is_symlink()
    assert untouched(made)


async def test_I5_a_disk_that_takes_two_names_for_one_is_told_and_nothing_appears(
    ram_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As vfat does, or ext4 with +F: here the second name is another link to the first's file."""
    node = await a_node(ram_path)
    path = node.save(1, marker=False)
    (path / "Model.bin").write_bytes((path / "model.bin").read_bytes())
    (path / "_SUCCESS").write_text("")
    await node.push_all()
    honest = os.open

    def folding(path: object, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        return honest("model.bin" if path == "Model.bin" else path, flags, mode, dir_fd=dir_fd)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", folding)
    place = Place(ram_path / "b")
    place.make()
    found = await read_manifest(node.store, Keys("task"), 1, "checkpoint-1")
    with pytest.raises(ConfigError) as caught:
        await restore.fetch(node.store, Keys("task"), found, place, open_gate)
    assert_told(str(caught.value), "ignores case")
    assert not (ram_path / "b" / "checkpoint-1").exists()


# ---- names that are swapped while we look


@pytest.mark.slow
async def test_I9_no_byte_from_outside_is_stored_while_names_are_swapped_for_links(ram_path: Path) -> None:
    """A thread swaps a directory and a file for links to the outside, and back, as fast as it can."""
    made = outside(ram_path)
    node = await a_node(ram_path)
    node.keeper.backlog = 10
    path = node.save(1)
    (path / "sub" / "secret").write_bytes(b"harmless")
    (path / "secret").write_bytes(b"harmless")
    stop, swaps = threading.Event(), [0]

    def swap() -> None:
        spare = ram_path / "spare"
        spare.mkdir()
        while not stop.is_set():
            for name, target in (("sub", made / "sub"), ("secret", made / "secret"), ("", made)):
                at = path / name if name else path
                at.rename(spare / "kept")
                at.symlink_to(target)
                swaps[0] += 1
                at.unlink()
                (spare / "kept").rename(at)

    swapping = threading.Thread(target=swap)
    swapping.start()
    rounds, deadline = 0, time.monotonic() + 3 * SECONDS
    try:
        while time.monotonic() < deadline:
            rounds += 1
            node.keeper.root.known.pop("checkpoint-1", None)
            await node.keeper.root.look()
            while node.keeper.root.waiting:
                await node.keeper.push_next()
    finally:
        stop.set()
        swapping.join()
    assert isinstance(node.store, MemoryStore)
    assert not [key for key, data in node.store.objects.items() if SECRET[:22] in data]
    assert untouched(made)
    node.keeper.root.known.clear()
    await node.push_all()
    await verify(node.store)
    print(
        f"{rounds} rounds, {swaps[0]} swaps, {len(node.keeper.commits)} commits, {len(told(node, 'checkpoint_torn'))} torn"
    )
    assert rounds > 20
    assert swaps[0] > 100


@pytest.mark.slow
@pytest.mark.parametrize("what", ["staging", "staged", "sub", "root", "parent"])
async def test_I9_nothing_is_written_outside_while_a_restores_places_are_swapped_for_links(
    ram_path: Path, what: str
) -> None:
    store = await committed_at(ram_path, "runs/checkpoint-1")
    found = await read_manifest(store, Keys("task"), 1, "runs/checkpoint-1")
    made = outside(ram_path)
    home = ram_path / "b"
    place = Place(home)
    place.make()
    (home / "runs").mkdir()
    mark = restore._mark(found.manifest)
    (place.staging / mark / "sub").mkdir(parents=True)
    at = {
        "staging": place.staging,
        "staged": place.staging / mark,
        "sub": place.staging / mark / "sub",
        "root": home,
        "parent": home / "runs",
    }[what]
    stop = threading.Event()

    def swap() -> None:
        spare = ram_path / "spare"
        while not stop.is_set():
            try:
                at.rename(spare)
                at.symlink_to(made)
                at.unlink()
                spare.rename(at)
            except OSError:  # it was moved into its place meanwhile, or is there anew
                with suppress(OSError):
                    if at.is_symlink():
                        at.unlink()
                    if spare.is_dir() and at.parent.is_dir() and not at.exists():
                        spare.rename(at)
                    elif spare.is_dir():
                        shutil.rmtree(spare)

    swapping = threading.Thread(target=swap)
    swapping.start()
    whole, deadline = 0, time.monotonic() + SECONDS
    try:
        while time.monotonic() < deadline:
            try:
                await restore.fetch(store, Keys("task"), found, place, open_gate)
                whole += 1
            except (ConfigError, Corrupt, StoreError, Refused) as error:
                assert_told(str(error))
            if (home / "runs" / "checkpoint-1").is_dir():
                shutil.rmtree(home / "runs" / "checkpoint-1", ignore_errors=True)
    finally:
        stop.set()
        swapping.join()
    print(f"{whole} restores")
    assert untouched(made)


# ---- beside the daemon


def test_I8_a_look_at_what_is_5000_deep_takes_no_time_and_no_descriptors(deep_path: Path) -> None:
    (deep_path / "runs").mkdir()
    deep(5000)(deep_path / "runs")
    (deep_path / "checkpoint-1").mkdir()
    (deep_path / "checkpoint-1" / "_SUCCESS").write_text("")
    began = time.monotonic()
    assert [seen.name for seen in scan(deep_path, CORE_RULES)] == ["checkpoint-1"]
    assert time.monotonic() - began < 20.0


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "moved in", "made"])
async def test_I8_events_are_heard_beside_directories_that_no_path_reaches(deep_path: Path, when: str) -> None:
    root, aside = deep_path / "root", deep_path / "aside"
    root.mkdir(), aside.mkdir()
    if when != "made":
        deep(2100)(aside)
    if when == "before":
        aside.rename(root / "runs")
    nudge = Nudge()
    with watching(root, nudge, enabled=True) as events:
        assert events
        if when == "moved in":
            aside.rename(root / "runs")
        elif when == "made":
            deep(2100)(root)
        while await nudge.wait(1.0):
            pass
        (root / "checkpoint-1").mkdir()
        assert await nudge.wait(10.0)
        while await nudge.wait(0.5):
            pass
        (root / "checkpoint-1" / "_SUCCESS").write_text("")
        assert await nudge.wait(10.0)


def test_what_is_torn_and_deep_is_set_aside_and_removed_in_its_turn(deep_path: Path) -> None:
    place = Place(deep_path)
    place.make()
    for number in range(6):
        path = deep_path / f"torn-{number}"
        path.mkdir()
        deep(1500)(path)
        place.set_aside([path.name], torn=True)
    assert len(list(place.quarantine.iterdir())) == 4


@pytest.mark.parametrize("name", ["漢" * 85, "x" * 255])
def test_a_torn_checkpoint_with_the_longest_name_is_set_aside(ram_path: Path, name: str) -> None:
    place = Place(ram_path)
    place.make()
    (ram_path / name).mkdir()
    (moved,) = place.set_aside([name], torn=True)
    assert moved.is_dir()


async def test_I8_a_rule_of_a_plugin_that_fails_is_no_reason_to_stop_looking(
    ram_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        name = "broken"

        def judge(self, view: object) -> object:
            raise KeyError("weight_map")

    root = Root(ram_path, silent, rules=[*CORE_RULES, Broken()])  # type: ignore[list-item]
    root.place.make()
    root.pins.load()
    (ram_path / "checkpoint-1").mkdir()
    (ram_path / "checkpoint-1" / "_SUCCESS").write_text("")
    assert [pin.name for pin in await root.look()] == ["checkpoint-1"]
