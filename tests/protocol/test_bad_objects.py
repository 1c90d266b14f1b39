"""Small objects that are not as they should be, one by one: what a start and `verify` make of each."""

from pathlib import Path

import pytest

from syncd.errors import ConfigError, Corrupt
from syncd.local.tree import OWN
from syncd.model import canonical
from syncd.model.attempt import Record, parse_item
from syncd.model.checkpoint import Manifest
from syncd.model.keys import MOST_ATTEMPTS, Keys
from syncd.move.audit import audit
from syncd.move.own import own, plan_gc
from syncd.move.retain import carry_out
from syncd.move.start import AlreadyDone
from syncd.store.file import FileStore
from syncd.store.memory import MemoryStore
from syncd.testing import Node, open_gate, verify

KEYS = Keys("task")


async def two_commits(ram_path: Path) -> Node:
    node = Node(MemoryStore(), ram_path / "a")
    await node.boot()
    for step in (1, 2):
        node.save(step)
        await node.push_all()
    return node


def objects(node: Node) -> dict[str, bytes]:
    assert isinstance(node.store, MemoryStore)
    return node.store.objects


async def test_I4_a_directory_that_looks_like_a_far_attempt_is_no_wait_of_years(ram_path: Path) -> None:
    node = await two_commits(ram_path)
    objects(node)["task/attempt-20240101/notes.txt"] = b"somebody's"
    begun = await Node(node.store, ram_path / "b").boot()
    assert (begun.attempt, begun.checkpoint) == (20240102, "checkpoint-2")


async def test_the_last_number_of_all_is_told_and_no_loop(ram_path: Path) -> None:
    node = await two_commits(ram_path)
    objects(node)[f"task/attempt-{MOST_ATTEMPTS}/x"] = b""
    with pytest.raises(ConfigError, match="the last number that there is") as caught:
        await Node(node.store, ram_path / "b").boot()
    assert str(caught.value).isprintable()


async def test_I5_a_disk_whose_record_was_damaged_claims_anew_and_resumes_its_newest_commit(ram_path: Path) -> None:
    node = await two_commits(ram_path)
    objects(node)[KEYS.record(1)] = b""
    begun = await node.boot()
    assert (begun.attempt, begun.checkpoint) == (2, "checkpoint-2")


async def test_I3_a_disk_whose_claim_was_damaged_goes_on_by_its_record(ram_path: Path) -> None:
    node = await two_commits(ram_path)
    objects(node)[KEYS.claim(1)] = b"{"
    begun = await node.boot()
    assert (begun.attempt, begun.checkpoint, begun.goes_on) == (1, "checkpoint-2", True)
    other = Record(line=(), nonce="f" * 32)
    objects(node)[KEYS.record(1)] = canonical.encode(other)
    assert (await node.boot()).attempt == 2, "neither says that it is ours"


async def test_I4_a_manifest_of_the_line_that_was_replaced_by_another_is_a_problem(ram_path: Path) -> None:
    node = await two_commits(ram_path)
    await Node(node.store, ram_path / "b").boot()
    key = KEYS.manifest(1, "checkpoint-1")
    replaced = canonical.decode(objects(node)[key], Manifest, key)
    objects(node)[key] = canonical.encode(replaced) + b" "
    found = await audit(node.store, KEYS, deep=True, gate=open_gate)
    (problem,) = found.problems
    assert problem.startswith(f"{key}: has sha256:")


async def test_what_another_wrote_into_a_claim_or_manifest_is_shown_in_one_printable_line(ram_path: Path) -> None:
    node = await two_commits(ram_path)
    key = KEYS.manifest(1, "checkpoint-1")
    for place in (KEYS.claim(1), key):
        objects(node)[place] = objects(node)[place].replace(
            b'"task":"task"', b'"task":"\\u001b[2J\\n' + b"x" * 900 + b'"'
        )
    found = await audit(node.store, KEYS, deep=True, gate=open_gate)
    assert len(found.problems) == 2
    for text in found.problems:
        assert text.isprintable() and len(text) <= 520 and r"\x1b[2J\n" in text
        assert text.count(key) <= 1, "the key stands twice"


DAMAGES = ("manifest cut", "manifest gone", "object flipped", "object gone")


async def with_final(ram_path: Path, *, done: bool) -> Node:
    """Two commits and a finished model; `done`: it is named as the result."""
    node = await two_commits(ram_path)
    (node.root / "final").mkdir()
    (node.root / "final" / "model").write_bytes(b"finished")
    if done:
        assert await node.keeper.finish()
    else:
        seen = await node.keeper.root.final()
        assert seen and await node.keeper.root.pin(seen)
        assert await node.keeper.push_next()
    return node


def spoil(stored: dict[str, bytes], damage: str) -> str:
    """Damage the finished model; the key of what was damaged."""
    what, how = damage.split()
    key = KEYS.manifest(1, "final") if what == "manifest" else "task/attempt-0001/final/model"
    if how == "gone":
        del stored[key]
    else:
        stored[key] = stored[key][:-9] if how == "cut" else b"F" + stored[key][1:]
    return key


@pytest.mark.parametrize("damage", DAMAGES)
async def test_I5_I7_a_damaged_result_stays_the_result_is_told_and_nothing_more_goes(
    ram_path: Path, damage: str
) -> None:
    node = await with_final(ram_path, done=True)
    key = spoil(objects(node), damage)
    before = dict(objects(node))
    for root in ("a", "b"):
        with pytest.raises(AlreadyDone):
            await Node(node.store, ram_path / root).boot()
    found = await audit(node.store, KEYS, deep=True, gate=open_gate)
    assert any(key in problem for problem in found.problems), found
    with pytest.raises(AlreadyDone):
        await own(node.store, KEYS, node="operator", now=0.0, gate=open_gate)
    changed = {each for each in before.keys() | objects(node).keys() if before.get(each) != objects(node).get(each)}
    assert all(each.endswith("/attempt.json") for each in changed), changed


@pytest.mark.parametrize("damage", DAMAGES)
async def test_I4_I7_a_damaged_finished_model_that_is_no_result_hinders_no_start_and_stays(
    ram_path: Path, damage: str
) -> None:
    node = await with_final(ram_path, done=False)
    key = spoil(objects(node), damage)
    left = {each for each in objects(node) if "/final" in each}
    begun = await Node(node.store, ram_path / "b").boot()
    assert (begun.attempt, begun.checkpoint) == (2, "checkpoint-2")
    told = (await audit(node.store, KEYS, deep=True, gate=open_gate)).problems
    if damage == "manifest cut":
        assert any(key in problem for problem in told)
    owner, started = await own(node.store, KEYS, node="operator", now=0.0, gate=open_gate)
    assert [item.commit for item in started.record.items("record")] == ["checkpoint-2", "checkpoint-1"]
    await carry_out(node.store, await plan_gc(node.store, owner, started, 2))
    assert {each for each in objects(node) if "/final" in each} == left


@pytest.mark.parametrize("damage", ["manifest cut", "manifest gone"])
async def test_I2_the_disk_of_a_finished_model_whose_manifest_was_damaged_commits_it_again(
    ram_path: Path, damage: str
) -> None:
    node = await with_final(ram_path, done=False)
    key = spoil(objects(node), damage)
    assert (await node.boot()).attempt == 1
    done = await node.keeper.finish()
    assert done
    commit = done.item("done").commit
    assert commit == "final.2", "rule 9"
    assert objects(node)[f"task/attempt-0001/{commit}/model"] == b"finished"
    problems = (await audit(node.store, KEYS, deep=True, gate=open_gate)).problems
    assert [problem.split(": ")[0] for problem in problems] == ([key] if damage == "manifest cut" else [])


def test_a_digest_in_a_line_has_the_form_of_a_digest() -> None:
    good = "attempt-0001/checkpoint-1 sha256:" + "0" * 64
    assert str(parse_item(good, "x")) == good
    for bad in ("sha256:", "1" * 400 + "sha256:" + "0" * 64, "sha256:" + "0" * 200, "sha256:0"):
        with pytest.raises(Corrupt, match="is not 'attempt-0001/name digest'"):
            parse_item(f"attempt-0001/checkpoint-1 {bad}", "x")


async def test_a_checkpoint_with_a_directory_of_the_stores_temporary_name_is_committed(ram_path: Path) -> None:
    node = Node(FileStore.open(ram_path / "store", create=True), ram_path / "a")
    await node.boot()
    path = node.save(1, marker=False)
    (path / ".tmp").mkdir()
    (path / ".tmp" / "x").write_text("x")
    (path / "_SUCCESS").write_text("")
    await node.push_all()
    assert len(node.keeper.commits) == 1
    await verify(node.store)


@pytest.mark.parametrize("name", [b"\xff.json", b"pipe.json"])
async def test_I5_what_is_no_object_in_a_stores_directory_is_passed_over(ram_path: Path, name: bytes) -> None:
    import os

    node = Node(FileStore.open(ram_path / "store", create=True), ram_path / "a")
    await node.boot()
    node.save(1)
    await node.push_all()
    there = os.fsencode(ram_path / "store" / KEYS.manifests(1)) + name
    if name.startswith(b"pipe"):
        os.mkfifo(there)
    else:
        with open(there, "wb") as file:
            file.write(b"{")
    begun = await Node(node.store, ram_path / "b").boot()
    assert begun.checkpoint == "checkpoint-1"


async def test_an_event_log_that_is_a_link_or_a_pipe_is_not_written_to(ram_path: Path) -> None:
    import os

    from syncd.show.events import EventLog

    (ram_path / OWN).mkdir()
    (ram_path / "outside").write_text("theirs")
    (ram_path / OWN / "link").symlink_to(ram_path / "outside")
    os.mkfifo(ram_path / OWN / "pipe")
    for name in ("link", "pipe"):
        EventLog(ram_path / OWN / name)("checkpoint_seen", checkpoint="c")
    assert (ram_path / "outside").read_text() == "theirs"
