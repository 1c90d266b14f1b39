"""The trainer in another container, through the real script and real processes."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncd.trainer_care import Exit, Trainer, sidecar
from syncd.trainer_care.child import ChildTrainer
from syncd.trainer_care.sidecar import SidecarTrainer

from .helpers import runs, until
from .test_with_syncd import Container

pytestmark = pytest.mark.slow


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    container = Container(tmp_path, ["sh"])
    yield container
    if container.process and container.process.poll() is None:
        container.vanish()


def trainer_of(container: Container, silence: float = 60.0) -> SidecarTrainer:
    return SidecarTrainer(container.root, poll=0.05, silence=silence)


async def started(container: Container, *command: str) -> SidecarTrainer:
    trainer = trainer_of(container)
    container.ready()
    await trainer.start({})
    container.run(*(command or container.trainer()))
    return trainer


async def begun(container: Container, trainer: SidecarTrainer, starts: int = 1) -> None:
    await until(lambda: len(container.starts) == starts)
    await until(lambda: trainer.alive)


def facts(end: Exit) -> tuple[int, bool, bool]:
    return end.code, end.requested, end.seen


def test_both_kinds_are_trainers(tmp_path: Path) -> None:
    kinds: list[Trainer] = [SidecarTrainer(tmp_path), ChildTrainer(["true"], tmp_path, lambda data: None)]
    assert not any(kind.alive for kind in kinds)


@pytest.mark.parametrize(("line", "code"), [("exit 0", 0), ("exit 9", 9), ("kill -KILL $$", 137)])
async def test_the_exit_code_of_the_other_container_is_known(container: Container, line: str, code: int) -> None:
    trainer = await started(container, "sh", "-c", line)
    end = await trainer.wait()
    assert facts(end) == (code, False, True)
    assert await trainer.wait() == end
    assert await trainer.stop(5) == end
    assert not trainer.alive
    assert await trainer.leave(3)
    assert container.end() == 3


async def test_one_start_is_one_life_whoever_comes_first(container: Container) -> None:
    container.run(*container.trainer())
    await until(container.says("waiting"))
    trainer = trainer_of(container)
    container.ready()
    await until(container.says("running"))  # by ready.json, before the order: which is for a life that is gone
    await trainer.start({})
    before = container.state
    await until(lambda: container.state and before and container.state.order != before.order)
    await begun(container, trainer)
    assert container.state and container.state.id.endswith(".1")


async def test_a_stop_waits_for_the_save_and_a_start_begins_anew(container: Container) -> None:
    trainer = await started(container)
    await begun(container, trainer)
    waiting = asyncio.ensure_future(trainer.wait())
    end = await trainer.stop(20)
    assert facts(end) == (0, True, True)
    assert facts(await waiting) == (0, True, True)
    assert not trainer.alive
    await trainer.start({})
    await begun(container, trainer, starts=2)
    await trainer.kill()
    assert facts(await trainer.wait()) == (137, True, True)


async def test_a_crash_is_followed_by_a_restart(container: Container) -> None:
    trainer = await started(container, "sh", "-c", f"test -e {container.root}/again && exit 5; exit 4")
    assert (await trainer.wait()).code == 4
    (container.root / "again").touch()
    await trainer.start({})
    assert (await trainer.wait()).code == 5


async def test_a_stop_shortens_one_that_is_under_way(container: Container) -> None:
    trainer = await started(container, *container.trainer(on_term=":"))
    await begun(container, trainer)
    long = asyncio.ensure_future(trainer.stop(60))
    await until((container.root / "marks").exists)
    assert facts(await trainer.stop(1)) == (137, True, True)
    assert facts(await long) == (137, True, True)


async def test_a_restarted_sidecar_adopts_the_trainer_and_its_end(container: Container) -> None:
    first = await started(container)
    await begun(container, first)
    second = trainer_of(container)
    container.ready()
    assert await second.adopt()
    assert second.alive
    assert facts(await second.stop(20)) == (0, True, True)
    assert len(container.starts) == 1
    third = trainer_of(container)  # the end is not judged yet, for all it knows
    assert await third.adopt()
    assert facts(await third.wait()) == (0, True, True)


async def test_a_superseded_sidecar_stops_a_trainer_that_it_did_not_adopt(container: Container) -> None:
    first = await started(container)
    await begun(container, first)
    assert facts(await trainer_of(container).stop(20)) == (0, True, True)
    assert not runs(container.starts[0])


async def test_a_relic_is_not_adopted_and_its_code_is_not_believed(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await started(container, "sh", "-c", "exit 6")
    await first.wait()
    container.vanish()
    trainer = trainer_of(container)
    assert not await trainer.adopt(patience=1.0)
    assert not trainer.alive
    container.ready()
    await trainer.start({})
    container.run(*container.trainer())
    await begun(container, trainer)
    await trainer.kill()


async def test_a_container_that_restarts_by_itself_has_lost_its_life(container: Container) -> None:
    trainer = await started(container)
    await begun(container, trainer)
    container.vanish()
    container.run(*container.trainer())
    assert facts(await trainer.wait()) == (137, False, False)
    await trainer.start({})
    await begun(container, trainer, starts=2)
    await trainer.kill()


async def test_a_with_syncd_that_falls_silent_is_lost(container: Container) -> None:
    trainer = SidecarTrainer(container.root, poll=0.05, silence=1.5)
    container.ready()
    await trainer.start({})
    container.run(*container.trainer())
    await begun(container, trainer)
    container.vanish()
    assert facts(await trainer.wait()) == (137, False, False)
    assert not trainer.alive


async def test_stopping_where_nobody_is_ends_soon(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    assert facts(await trainer_of(container).stop(60)) == (143, True, False)
    monkeypatch.setattr(sidecar, "PRESENCE", 0.5)
    first = await started(container)
    await begun(container, first)
    container.vanish()
    assert facts(await trainer_of(container).stop(60)) == (137, True, False)


async def test_a_stop_order_meets_a_container_that_comes_later(container: Container) -> None:
    trainer = trainer_of(container)
    container.ready()
    await trainer.start({})
    assert facts(await trainer.stop(60)) == (137, True, False)
    container.run(*container.trainer())
    await until(container.says("exited"))
    assert not container.starts


async def test_a_container_without_with_syncd_ends_by_its_finished_file(tmp_path: Path) -> None:
    (tmp_path / ".syncd").mkdir()
    (tmp_path / "finished.json").write_text("{}")  # of an earlier training
    trainer = SidecarTrainer(tmp_path, poll=0.05)
    await trainer.start({})
    waiting = asyncio.ensure_future(trainer.wait())
    for step in range(3):
        (tmp_path / "progress.json").write_text(f'{{"step":{step}}}')
        await asyncio.sleep(0.1)
        assert trainer.alive
    assert not waiting.done()
    (tmp_path / "finished.json").write_text('{"step":3}')
    assert facts(await waiting) == (0, False, True)
    assert not trainer.alive


async def test_without_with_syncd_a_restarted_sidecar_sees_what_finished_meanwhile(tmp_path: Path) -> None:
    (tmp_path / ".syncd").mkdir()
    trainer = SidecarTrainer(tmp_path, poll=0.05)
    assert not await trainer.adopt(patience=0.3)
    with pytest.raises(RuntimeError):
        await trainer.wait()
    (tmp_path / "finished.json").write_text("{}")
    assert await trainer.adopt(patience=0.3)
    assert facts(await trainer.wait()) == (0, False, True)


async def test_without_with_syncd_a_stop_waits_while_the_trainer_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sidecar, "PRESENCE", 1.0)
    (tmp_path / ".syncd").mkdir()
    (tmp_path / "progress.json").write_text("{}")
    trainer = SidecarTrainer(tmp_path, poll=0.05)
    await trainer.start({})
    stopping = asyncio.ensure_future(trainer.stop(60))
    begin = time.monotonic()
    for step in range(5):
        (tmp_path / "progress.json").write_text(f'{{"step":{step}}}')
        await asyncio.sleep(0.3)
    assert not stopping.done()
    assert facts(await stopping) == (137, True, False)
    assert time.monotonic() - begin < 10


async def test_nobody_obeys_a_leave_where_nobody_is(container: Container) -> None:
    assert not await trainer_of(container).leave(75, patience=0.2)
