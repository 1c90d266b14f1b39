"""Whatever bytes come from the store or the disk: a value that can be written again, or one clear line. Never more (I9)."""

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.errors import Corrupt, Refused
from syncd.local.completion import CORE_RULES
from syncd.local.files import read_noun
from syncd.local.lock import lock_holder
from syncd.local.pins import Pins
from syncd.local.root import Root
from syncd.local.tree import OWN
from syncd.model import canonical
from syncd.model.attempt import Claim, Closed, DiskAttempt, Done, parse_item, parse_record
from syncd.model.checkpoint import Manifest, parse_manifest
from syncd.model.event import silent
from syncd.model.heartbeat import HeartbeatBody
from syncd.model.keys import Keys
from syncd.model.local import ChildMark, Notice, Order, Ready, TrainerState, parse_beat
from syncd.model.names import check_checkpoint_name, check_path, family, step_of
from syncd.move.disk import TAKEN, note_path, read_note, read_taken, write_taken
from syncd.move.loose import OutputLog
from syncd.move.objects import Owner
from syncd.show.status import read_beat
from tests.faults.documents import NAMES, NONCE, VALID, spoiled
from tests.faults.fuzzing import ALL, fuzzed, one_input
from trainer import contract

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600 if ALL else 120)]

WHERE = "task/attempt-0001/there.json"
STORED: dict[str, Callable[[bytes], object]] = {
    "manifest": lambda data: parse_manifest(data, WHERE),
    "record": lambda data: parse_record(data, WHERE),
    "claim": lambda data: canonical.decode(data, Claim, WHERE),
    "done": lambda data: canonical.decode(data, Done, WHERE),
    "closed": lambda data: canonical.decode(data, Closed, WHERE),
    "heartbeat": lambda data: canonical.decode(data, HeartbeatBody, WHERE),
}
DISK: dict[str, type] = {
    "ready": Ready, "order": Order, "trainer": TrainerState, "notice": Notice, "child": ChildMark,
}  # fmt: skip


@pytest.mark.parametrize("kind", STORED)
def test_I9_what_the_store_gives_is_a_value_or_one_clear_line(kind: str) -> None:
    read = STORED[kind]

    @fuzzed(700)
    @given(spoiled(kind))
    def check(data: bytes) -> None:
        with one_input(kind, where=WHERE, may=(Corrupt,)):
            value = read(data)
            assert read(canonical.encode(value)) == value
            if isinstance(value, Done):
                value.item(WHERE)
            if isinstance(value, Manifest):
                assert all(not entry.path.startswith("/") for entry in value.files)
                assert value.bytes >= 0

    check()


@pytest.mark.parametrize("kind", DISK)
def test_I9_small_files_of_the_volume_are_a_noun_or_nothing(kind: str, ram_path: Path) -> None:
    path = ram_path / f"{kind}.json"

    @fuzzed(150)
    @given(spoiled(kind))
    def check(data: bytes) -> None:
        path.write_bytes(data)
        with one_input(kind):
            value = read_noun(path, DISK[kind])
            if value is not None:
                assert canonical.decode(canonical.encode(value), DISK[kind], "x") == value

    check()


def test_I9_the_disks_note_is_an_attempt_or_nothing(ram_path: Path) -> None:
    note_path(ram_path).parent.mkdir()

    @fuzzed(300)
    @given(spoiled("note"))
    def check(data: bytes) -> None:
        note_path(ram_path).write_bytes(data)
        with one_input("note"):
            note = read_note(ram_path)
            assert note is None or canonical.decode(canonical.encode(note), DiskAttempt, "x") == note

    check()


def test_what_the_disk_says_is_done_with_is_names_or_nothing(ram_path: Path) -> None:
    (ram_path / OWN).mkdir()
    owner = Owner(Keys("task"), 1, NONCE)

    @fuzzed(150)
    @given(spoiled("taken"))
    def check(data: bytes) -> None:
        (ram_path / OWN / TAKEN).write_bytes(data)
        with one_input("taken"):
            taken = read_taken(ram_path, owner)
            if taken:
                assert all(isinstance(each, str) for pair in taken.marks.items() for each in pair)
                assert all(isinstance(each, str) for each in taken.left)

    check()
    (ram_path / "there").mkdir()
    write_taken(ram_path, owner, {"there": "1", "gone": "2"}, {"there", "gone"})
    taken = read_taken(ram_path, owner)
    assert taken
    assert (taken.marks, taken.left) == ({"there": "1"}, ("there",))


def test_I8_whatever_the_trainer_says_of_its_progress_can_be_told_on(ram_path: Path) -> None:
    path = ram_path / "progress.json"

    @fuzzed(700)
    @given(spoiled("beat"))
    def check(data: bytes) -> None:
        path.write_bytes(data)
        with one_input("beat"):
            parse_beat(data)
            if beat := read_beat(ram_path):
                body = HeartbeatBody(
                    task="t", attempt=1, node="n", session="s", seq=1, time=1.0, interval=1.0, state="training",
                    step=beat.step, total=beat.total, loss=beat.loss, phase=beat.phase,
                )  # fmt: skip
                assert canonical.decode(canonical.encode(body), HeartbeatBody, "x") == body
                assert json.loads(json.dumps(canonical.builtins(body), allow_nan=False))

    check()


def test_I9_a_pins_note_is_a_pin_or_nothing(ram_path: Path) -> None:
    pins = Pins(ram_path)
    pins.load()
    checkpoint = ram_path / "checkpoint-6"
    checkpoint.mkdir()
    (checkpoint / "model.bin").write_bytes(b"owned")
    found = (checkpoint / "model.bin").stat()
    about = {"dev": found.st_dev, "ino": found.st_ino, "size": 5, "mtime_ns": found.st_mtime_ns, "mode": found.st_mode}
    sound = json.dumps(json.loads(VALID["pin"]) | {"files": {"model.bin": about}}).encode()

    (pins.home / "000001").mkdir()
    (pins.home / "000001" / "pin.json").write_bytes(sound)
    assert [pin.name for pin in pins.load()] == ["checkpoint-6"]

    @fuzzed(400)
    @given(spoiled("pin", sound))
    def check(data: bytes) -> None:
        home = pins.home / "000001"
        home.mkdir(exist_ok=True)
        (home / "pin.json").write_bytes(data)
        with one_input("pin"):
            for pin in pins.load():
                check_checkpoint_name(pin.commit or "x", "x")
                again = pins.assign(pin, "checkpoint-6.2", 2)
                assert Pins(ram_path).load()[0].commit == again.commit

    check()


@pytest.mark.parametrize("kind", ["marker", "trainer_state.json", "model.safetensors.index.json", "m.safetensors"])
def test_I8_whatever_a_trainer_writes_a_look_goes_on_to_the_next_checkpoint(kind: str, ram_path: Path) -> None:
    """The spoilt one is complete, torn or nobody's; the sound one beside it is always found."""
    root = Root(ram_path, silent, rules=CORE_RULES)
    odd, sound = ram_path / "checkpoint-6", ram_path / "sound-7"
    for path in (odd, sound):
        path.mkdir()
        (path / "model.bin").write_bytes(b"owned")
    (odd / "trainer_state.json").write_bytes(VALID["trainer_state.json"])
    (odd / "m.safetensors").write_bytes(VALID["m.safetensors"])
    (sound / "_SUCCESS").write_text("")
    target = odd / {"marker": "_SUCCESS"}.get(kind, kind)

    @fuzzed(250)
    @given(spoiled(kind))
    def check(data: bytes) -> None:
        target.write_bytes(data)
        with one_input(kind):
            seen = {each.name: each for each in root.scan_now()}
            assert seen["sound-7"].complete()
        with one_input(f"contract {kind}"):
            contract.is_complete(odd)
            assert contract.latest_complete(ram_path) is not None

    check()


@pytest.mark.parametrize("kind", ["ready", "notice", "finished", "status"])
def test_I8_the_trainers_half_reads_whatever_lies_there(kind: str, ram_path: Path) -> None:
    own = ram_path / ".syncd"
    own.mkdir()
    (ram_path / "checkpoint-1").mkdir()

    @fuzzed(150)
    @given(spoiled(kind))
    def check(data: bytes) -> None:
        (own / f"{kind}.json").write_bytes(data)
        with one_input(f"contract {kind}"):
            if kind == "notice":
                said = contract.notice(ram_path)
                assert said is None or isinstance(said, dict)
                return
            try:
                found = contract.wait_ready(timeout=0, root=ram_path)
            except (TimeoutError, ValueError, FileNotFoundError) as error:
                assert str(error)  # documented: never a start from zero on these
            else:
                assert found is None or found.parent == ram_path or ram_path in found.parents

    check()


@fuzzed(1500)
@given(st.text(max_size=300) | st.sampled_from(NAMES) | st.binary(max_size=40).map(os.fsdecode))
def test_I9_a_name_is_carried_or_refused_in_one_clear_line(name: str) -> None:
    with one_input("name", where="here", may=(Refused,)):
        family(name)
        step = step_of(name)
        assert step is None or step >= 0
        check_path(name, "here")
        check_checkpoint_name(name, "here")
        assert ".." not in name.split("/")
        name.encode()


@fuzzed(500)
@given(
    st.text(max_size=80)
    | st.sampled_from(NAMES)
    | st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)).map("/".join)
)
def test_I9_a_lines_item_is_what_was_written_or_one_clear_line(text: str) -> None:
    with one_input("item", where=WHERE, may=(Corrupt,)):
        assert str(parse_item(text, WHERE)) == text


@fuzzed(150)
@given(
    st.sampled_from([*NAMES, *"0123456789²٣"]).filter(
        lambda name: name not in ("", ".", "..") and len(os.fsencode(name)) < 240 and not set(name) & {"/", "\0"}
    )
)
def test_I8_strange_names_in_the_daemons_own_directories_are_passed_over(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    home = tmp_path_factory.mktemp("own")
    (home / ".syncd" / "pins").mkdir(parents=True)
    (home / ".syncd" / "logs").mkdir()
    (home / ".syncd" / "pins" / name).mkdir()
    (home / ".syncd" / "logs" / f"{name}.log").write_bytes(b"x")
    (home / ".syncd" / "lock").write_text(f"pid {name}\n")
    with one_input("own directory"):
        assert Pins(home).load() == []
        OutputLog(home / ".syncd" / "logs").open().write(b"x")
        root = Root(home, silent)
        (home / "checkpoint-1").mkdir()
        (home / "checkpoint-1" / "_SUCCESS").write_text("")
        (seen,) = root.scan_now()
        (home / ".syncd" / "pins" / name).mkdir(exist_ok=True)
        assert asyncio.run(root.pin(seen)) is not None
        assert lock_holder(home) is None
