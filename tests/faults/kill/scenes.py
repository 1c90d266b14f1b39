"""What a `syncd` process is killed in the midst of, and what must hold on the disk and in the store afterwards."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from syncd.model.checkpoint import Committed
from syncd.model.keys import Keys
from syncd.move.objects import standing
from syncd.move.overview import present_line, read_task
from syncd.move.start import AlreadyDone
from syncd.store import Store
from syncd.testing import Node, verify
from syncd.testing.node import content

FILES = 5
AGAIN = 60.0
"""Seconds that a process may take which is not killed."""
TASK = "task"


@dataclass
class Stage:
    """One kill point's store (by its URL, and opened) and disks."""

    home: Path
    store: Store
    url: str
    env: dict[str, str]
    """For every process that works on it."""
    seed: Path = field(init=False)

    def __post_init__(self) -> None:
        self.seed = self.home / "seed"

    def node(self, name: str, *, keep: int = 99) -> Node:
        return Node(self.store, self.home / name, keep=keep, url=self.url)

    def save(self, node: Node, step: int) -> None:
        """A checkpoint of several files, in two directories."""
        write(node.root / f"checkpoint-{step}", step)

    async def trained(self, name: str, *steps: int) -> Node:
        """A machine that has trained and committed these steps."""
        node = self.node(name)
        await node.boot()
        for step in steps:
            self.save(node, step)
            await node.push_all()
        return node


def write(path: Path, step: int) -> None:
    """What the trainer writes at a step, its marker last."""
    (path / "sub").mkdir(parents=True)
    for name, data in expected(step).items():
        (path / name).write_bytes(data)


def expected(step: int) -> dict[str, bytes]:
    files = [f"{'sub/' * (n % 2)}part-{n}.bin" for n in range(FILES)]
    return {**{name: content(step, name) for name in files}, "_SUCCESS": b""}


def found_in(path: Path) -> dict[str, bytes]:
    return {each.relative_to(path).as_posix(): each.read_bytes() for each in path.rglob("*") if each.is_file()}


@dataclass(frozen=True)
class Scene:
    """`set_up` makes what was there before; `verb` is run and killed; `disk` is the root that it works on.

    `again`: a new process with the same words must bring it to its end.
    """

    verb: Callable[[Stage], Sequence[str]]
    set_up: Callable[[Stage], Awaitable[None]]
    disk: str | None
    durable: int
    """The step that is committed before."""
    again: bool = False


async def _nothing(stage: Stage) -> None:
    write(stage.home / "new" / "checkpoint-1", 1)


async def _overtaken(stage: Stage) -> None:
    await stage.trained("old", 1, 2)
    write(stage.home / "new" / "checkpoint-3", 3)


async def _goes_on(stage: Stage) -> None:
    node = await stage.trained("old", 1, 2)
    stage.save(node, 3)


async def _with_orphans(stage: Stage) -> None:
    await stage.trained("old", 1, 2, 3, 4)
    await stage.store.put(f"{TASK}/attempt-0001/checkpoint-7/part-0.bin", b"of no commit")
    await stage.trained("other", 5)


async def _to_be_restored(stage: Stage) -> None:
    await stage.trained("old", 1, 2)
    (stage.home / "new").mkdir()


async def _to_be_trained(stage: Stage) -> None:
    await stage.trained("old", 1, 2)
    write(stage.seed / "3", 3)
    write(stage.seed / "4", 4)
    (stage.home / "new").mkdir()


TRAINER = (
    'for s in 3 4; do [ -e "$SYNCD_ROOT/checkpoint-$s/_SUCCESS" ] && continue; rm -rf "$SYNCD_ROOT/checkpoint-$s";'
    ' cp -r "$SEED/$s" "$SYNCD_ROOT/part-$s"; mv "$SYNCD_ROOT/part-$s" "$SYNCD_ROOT/checkpoint-$s"; done'
)
SCENES: dict[str, Scene] = {
    "push of a first checkpoint": Scene(lambda stage: ["push", "new/checkpoint-1"], _nothing, "new", 0),
    "push from another machine": Scene(lambda stage: ["push", "new/checkpoint-3"], _overtaken, "new", 2),
    "push on the same disk": Scene(lambda stage: ["push", "old/checkpoint-3"], _goes_on, "old", 2),
    "gc": Scene(lambda stage: ["gc", "--keep", "2", "--root", "operator"], _with_orphans, None, 5),
    "restore": Scene(lambda stage: ["restore", "--to", "new", "--root", "operator"], _to_be_restored, "new", 2),
    "run": Scene(
        lambda stage: ["run", "--root", "new", "--", "sh", "-c", TRAINER], _to_be_trained, "new", 2, again=True
    ),
}


async def newest(store: Store) -> Committed | None:
    """The commit that the next machine owes its trainer, as the store says."""
    line = await present_line(store, await read_task(store, Keys(TASK)))
    return line[0] if line else None


async def judge(stage: Stage, scene: Scene) -> None:
    """Raise AssertionError unless all is whole, the same disk recovers without help, and so does another one."""
    keys = Keys(TASK)
    await verify(stage.store)
    before = await newest(stage.store)
    assert (before.manifest.step if before else 0) >= scene.durable, "I7: a commit that was durable is gone"
    if scene.again:
        return await _again(stage, scene)
    if (await standing(stage.store, keys)).done:
        return await _result(stage)
    if scene.disk:
        await _same_disk(stage, scene.disk, before)
    after = await newest(stage.store)
    await _restores(stage, after)
    await verify(stage.store)
    return None


async def _same_disk(stage: Stage, disk: str, before: Committed | None) -> None:
    for path in (stage.home / disk).glob("checkpoint-*"):  # whatever bears a checkpoint's name is whole (I5)
        step = int(path.name.rpartition("-")[2])
        assert found_in(path) == expected(step), f"I5: {path.name} on the killed disk is not whole"
    node = stage.node(disk)
    begun = await node.boot()
    assert (begun.step or 0) >= (before.manifest.step or 0 if before else 0), f"I5: resumed {begun.step}"
    await node.push_all()
    for path in node.root.glob("checkpoint-*"):
        assert found_in(path) == expected(int(path.name.rpartition("-")[2])), f"I5: {path.name} is not whole"


async def _restores(stage: Stage, wanted: Committed | None) -> None:
    node = stage.node("next")
    begun = await node.boot()
    step = wanted.manifest.step if wanted else None
    assert begun.step == step, f"I5: the next machine resumed {begun.step}, {step} was committed"
    if begun.checkpoint:
        assert found_in(node.root / begun.checkpoint) == expected(step or 0), "I5: torn restore"


async def _again(stage: Stage, scene: Scene) -> None:
    """A daemon after the one that was killed, beside whatever that one left on the disk, ends the task without help."""
    for path in (stage.home / "new").glob("checkpoint-*"):
        assert found_in(path) == expected(int(path.name.rpartition("-")[2])), f"I5: {path.name} is not whole"
    for verb in (
        scene.verb(stage),
        ["verify", "--deep", "--root", "operator"],
        ["restore", "--to", "copy", "--root", "operator"],
    ):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "syncd", *verb, cwd=stage.home, env=stage.env, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        async with asyncio.timeout(AGAIN):
            said, _ = await process.communicate()
        assert process.returncode == 0, f"'syncd {verb[0]}' ended with {process.returncode}: {said.decode()[-1000:]}"
    copied = next((stage.home / "copy").iterdir(), stage.home / "copy")
    assert found_in(copied) == expected(4), "I5: torn restore"
    await _result(stage)


async def _result(stage: Stage) -> None:
    try:
        await stage.node("next").boot()
    except AlreadyDone:
        found = await newest(stage.store)
        assert found
        assert found.manifest.step == 4, "the task is done before its last checkpoint"
        return
    raise AssertionError("DONE: a finished task was started again")
