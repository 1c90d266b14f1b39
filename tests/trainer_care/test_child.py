"""The trainer as a child: how it ends, what it leaves, what it says. Real processes and signals throughout."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncd.errors import UsageError
from syncd.local.files import read_noun, write_noun
from syncd.model.local import ChildMark
from syncd.trainer_care import processes
from syncd.trainer_care.child import ChildTrainer, stop_orphan

from .helpers import joined, pid_in, runs, script, until

ENV = dict(os.environ)
IGNORES = """
    import signal, pathlib, os, time
    signal.signal(signal.SIGTERM, lambda *_: open({marks!r}, "a").write("T"))
    pathlib.Path({ready!r}).write_text(f"{{os.getpid()}}\\n")
    while True: time.sleep(0.05)
"""


@pytest.fixture
def null() -> Iterator[tuple[int, int]]:
    with open(os.devnull, "wb") as file:
        yield file.fileno(), file.fileno()


def child(command: list[str], root: Path, to: tuple[int, int], said: list[bytes] | None = None) -> ChildTrainer:
    return ChildTrainer(command, root, (said if said is not None else []).append, copy_to=to)


def ignoring(tmp_path: Path) -> list[str]:
    return script(tmp_path, IGNORES.format(marks=str(tmp_path / "marks"), ready=str(tmp_path / "ready")))


@pytest.mark.parametrize(
    ("line", "code"),
    [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -KILL $$", 137), ("kill -SEGV $$", 139)],
)
async def test_the_exit_code_is_that_of_the_command_or_128_plus_its_signal(
    line: str, code: int, tmp_path: Path, null: tuple[int, int]
) -> None:
    trainer = child(["sh", "-c", f"ulimit -c 0; {line}"], tmp_path, null)
    await trainer.start(ENV)
    end = await trainer.wait()
    assert (end.code, end.requested, end.seen) == (code, False, True)
    assert await trainer.wait() == end
    assert await trainer.stop(1) == end
    assert not trainer.alive
    assert not (tmp_path / ".syncd/child.json").exists()


async def test_a_life_can_follow_a_life(tmp_path: Path, null: tuple[int, int]) -> None:
    trainer = child(["sh", "-c", f"cd {tmp_path}; test -e again && exit 4; : >again; exit 5"], tmp_path, null)
    await trainer.start(ENV)
    assert (await trainer.wait()).code == 5
    await trainer.start(ENV)
    assert (await trainer.wait()).code == 4


async def test_sigterm_lets_the_trainer_save_and_leave_with_75(tmp_path: Path, null: tuple[int, int]) -> None:
    text = f"""
        import signal, pathlib, time, sys
        def save(*_):
            pathlib.Path({str(tmp_path / "saved")!r}).write_text("x")
            sys.exit(75)
        signal.signal(signal.SIGTERM, save)
        pathlib.Path({str(tmp_path / "ready")!r}).write_text("1")
        time.sleep(60)
    """
    trainer = child(script(tmp_path, text), tmp_path, null)
    await trainer.start(ENV)
    await until((tmp_path / "ready").exists)
    assert trainer.alive
    waiting = asyncio.ensure_future(trainer.wait())
    end = await trainer.stop(20)
    assert (end.code, end.requested) == (75, True)
    assert (tmp_path / "saved").exists()
    assert await waiting == end


async def test_a_trainer_that_ignores_sigterm_is_told_once_and_killed_after_its_grace(
    tmp_path: Path, null: tuple[int, int]
) -> None:
    trainer = child(ignoring(tmp_path), tmp_path, null)
    await trainer.start(ENV)
    await until(lambda: pid_in(tmp_path / "ready"))
    long = asyncio.ensure_future(trainer.stop(60))
    await until((tmp_path / "marks").exists)
    begin = time.monotonic()
    end = await trainer.stop(0.3)
    assert (end.code, end.requested) == (137, True)
    assert 0.3 <= time.monotonic() - begin < 10
    assert await long == end
    assert (tmp_path / "marks").read_text() == "T"


async def test_kill_ends_it_at_once(tmp_path: Path, null: tuple[int, int]) -> None:
    trainer = child(ignoring(tmp_path), tmp_path, null)
    await trainer.start(ENV)
    await until(lambda: pid_in(tmp_path / "ready"))
    await trainer.kill()
    assert not trainer.alive
    assert (await trainer.wait()).code == 137
    assert not (tmp_path / "marks").exists()


async def test_a_cancelled_wait_may_be_called_again(tmp_path: Path, null: tuple[int, int]) -> None:
    trainer = child(["sleep", "60"], tmp_path, null)
    await trainer.start(ENV)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await trainer.wait()
    assert trainer.alive
    assert (await trainer.stop(10)).code == 143


async def test_only_the_main_process_gets_sigterm_before_it_has_ended(tmp_path: Path, null: tuple[int, int]) -> None:
    text = f"""
        import signal, subprocess, time, sys
        worker = subprocess.Popen(["sleep", "60"])
        def save(*_):
            time.sleep(0.3)
            sys.exit(20 if worker.poll() is None else 21)
        signal.signal(signal.SIGTERM, save)
        open({str(tmp_path / "worker")!r}, "w").write(f"{{worker.pid}}\\n")
        while True: time.sleep(1)
    """
    trainer = child(script(tmp_path, text), tmp_path, null)
    await trainer.start(ENV)
    await until(lambda: pid_in(tmp_path / "worker"))
    assert (await trainer.stop(20)).code == 20
    assert not runs(pid_in(tmp_path / "worker"))


@pytest.mark.slow
@pytest.mark.parametrize("session", ["", "setsid "])
async def test_what_the_trainer_leaves_behind_is_ended_even_outside_of_its_group(
    session: str, tmp_path: Path, null: tuple[int, int]
) -> None:
    left = f"(trap '' TERM; {session}sh -c 'echo $$ >{tmp_path}/left; exec sleep 60') &"
    line = f"{left} until [ -s {tmp_path}/left ]; do sleep 0.01; done; exit 7"
    trainer = child(["sh", "-c", line], tmp_path, null)
    await trainer.start(ENV)
    end = await trainer.wait()
    assert (end.code, end.requested) == (7, False)
    assert not runs(pid_in(tmp_path / "left"))


@pytest.mark.slow
async def test_a_stranger_who_holds_the_pipes_does_not_hold_up_the_end(tmp_path: Path, null: tuple[int, int]) -> None:
    stranger = f"setsid env -i sh -c 'echo $$ >{tmp_path}/left; exec sleep 60' &"
    line = f"{stranger} until [ -s {tmp_path}/left ]; do sleep 0.01; done; exit 0"
    trainer = child(["sh", "-c", line], tmp_path, null)
    begin = time.monotonic()
    await trainer.start(ENV)
    assert (await trainer.wait()).code == 0
    assert time.monotonic() - begin < 20
    os.kill(pid_in(tmp_path / "left"), signal.SIGKILL)


async def test_the_environment_is_passed_on_with_the_root(tmp_path: Path, null: tuple[int, int]) -> None:
    said: list[bytes] = []
    trainer = child(["env"], tmp_path, null, said)
    await trainer.start({"PATH": ENV["PATH"], "MINE": "1", "AWS_SECRET_ACCESS_KEY": "kept"})
    await trainer.wait()
    lines = joined(said).decode().splitlines()
    assert {f"SYNCD_ROOT={tmp_path}", "MINE=1", "PYTHONUNBUFFERED=1", "AWS_SECRET_ACCESS_KEY=kept"} <= set(lines)


async def test_the_trainer_starts_with_no_signal_ignored(tmp_path: Path, null: tuple[int, int]) -> None:
    said: list[bytes] = []
    trainer = child(["grep", "SigIgn", "/proc/self/status"], tmp_path, null, said)
    await trainer.start(ENV)
    await trainer.wait()
    ignored = int(joined(said).split()[1], 16)
    libcs_own = 0b11 << 31  # 32 and 33 belong to the C library, which lets nobody touch them
    assert ignored & ~libcs_own == 0


async def test_a_command_that_cannot_run_is_a_usage_error(tmp_path: Path, null: tuple[int, int]) -> None:
    plain = tmp_path / "plain"
    plain.write_text("x")
    for command, why in [
        (["no-such-command-here"], "no directory of PATH"),
        ([str(tmp_path / "missing")], "no such file"),
        ([str(plain)], "not an executable"),
        ([], "no command"),
    ]:
        with pytest.raises(UsageError, match=why):
            await child(command, tmp_path, null).start(ENV)
    with pytest.raises(UsageError, match="PATH"):
        await child(["sh"], tmp_path, null).start({"PATH": str(tmp_path)})


async def test_a_script_with_a_bad_interpreter_ends_with_127_and_one_line(
    tmp_path: Path, null: tuple[int, int]
) -> None:
    (tmp_path / "bad").write_text("#!/no/such/interpreter\n")
    (tmp_path / "bad").chmod(0o755)
    said: list[bytes] = []
    trainer = child([str(tmp_path / "bad")], tmp_path, null, said)
    await trainer.start(ENV)
    assert (await trainer.wait()).code == 127
    assert joined(said).decode() == f"syncd: cannot execute {tmp_path / 'bad'}: No such file or directory\n"


async def test_before_the_first_start_there_is_nothing_to_wait_for_or_to_stop(
    tmp_path: Path, null: tuple[int, int]
) -> None:
    trainer = child(["true"], tmp_path, null)
    with pytest.raises(RuntimeError):
        await trainer.wait()
    end = await trainer.stop(1)
    assert (end.code, end.requested, end.seen) == (143, True, False)
    await trainer.kill()


async def test_a_second_start_during_a_life_is_refused(tmp_path: Path, null: tuple[int, int]) -> None:
    trainer = child(["sleep", "60"], tmp_path, null)
    await trainer.start(ENV)
    with pytest.raises(RuntimeError):
        await trainer.start(ENV)
    await trainer.kill()


DAEMON = """
    import asyncio, os, sys
    from pathlib import Path
    from syncd.trainer_care.child import ChildTrainer
    async def main():
        trainer = ChildTrainer(sys.argv[2:], Path(sys.argv[1]), lambda data: None)
        await trainer.start(os.environ)
        await trainer.wait()
    asyncio.run(main())
"""


def daemon(tmp_path: Path, command: list[str]) -> subprocess.Popen[bytes]:
    (tmp_path / "daemon.py").write_text(textwrap.dedent(DAEMON))
    env = {**ENV, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen([sys.executable, str(tmp_path / "daemon.py"), str(tmp_path), *command], env=env)


@pytest.mark.slow
async def test_a_killed_daemon_takes_its_trainer_along(tmp_path: Path) -> None:
    text = f"""
        import signal, pathlib, os, time, sys
        def save(*_):
            pathlib.Path({str(tmp_path / "saved")!r}).write_text("x")
            sys.exit(0)
        signal.signal(signal.SIGTERM, save)
        pathlib.Path({str(tmp_path / "ready")!r}).write_text(f"{{os.getpid()}}\\n")
        while True: time.sleep(1)
    """
    process = daemon(tmp_path, script(tmp_path, text))
    await until(lambda: pid_in(tmp_path / "ready"))
    process.kill()
    process.wait()
    await until((tmp_path / "saved").exists)
    await until(lambda: not runs(pid_in(tmp_path / "ready")))
    assert not await stop_orphan(tmp_path, grace=1)
    assert not (tmp_path / ".syncd/child.json").exists()


@pytest.mark.slow
async def test_an_orphan_that_ignores_the_death_signal_is_stopped_with_its_group(tmp_path: Path) -> None:
    text = IGNORES.format(marks=str(tmp_path / "marks"), ready=str(tmp_path / "ready")).replace(
        "pathlib.Path", f"import subprocess; w = subprocess.Popen(['sleep', '60']); "
        f"open({str(tmp_path / 'worker')!r}, 'w').write(f'{{w.pid}}\\n'); pathlib.Path", 1)  # fmt: skip
    process = daemon(tmp_path, script(tmp_path, text))
    await until(lambda: pid_in(tmp_path / "ready"))
    await until(lambda: (m := read_noun(tmp_path / ".syncd/child.json", ChildMark)) is not None and m.pid > 0)
    process.kill()
    process.wait()
    await until((tmp_path / "marks").exists)
    assert runs(pid_in(tmp_path / "ready"))
    assert await stop_orphan(tmp_path, grace=0.3)
    assert not runs(pid_in(tmp_path / "ready"))
    assert not runs(pid_in(tmp_path / "worker"))
    assert not await stop_orphan(tmp_path)


@pytest.mark.slow
async def test_what_an_orphan_left_is_found_after_its_main_process_is_gone(tmp_path: Path) -> None:
    life = "0123456789abcdef"
    left = subprocess.Popen(["sleep", "60"], env={**ENV, processes.MARK: life}, start_new_session=True)
    (tmp_path / ".syncd").mkdir()
    mark = ChildMark(boot_id=processes.boot_id(), life=life, pid=os.getpid(), pgid=os.getpgid(0), started=1)
    write_noun(tmp_path / ".syncd/child.json", mark)
    await until(lambda: processes.members(0, life))
    assert await stop_orphan(tmp_path)  # and this test, whose pid the mark has with another start, lives
    assert left.wait() == -signal.SIGTERM


@pytest.mark.parametrize("change", ["start", "boot"])
async def test_a_recycled_pid_is_not_touched(change: str, tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    began = processes.started(stranger.pid)
    assert began is not None
    (tmp_path / ".syncd").mkdir()
    mark = ChildMark(
        boot_id="another" if change == "boot" else processes.boot_id(),
        life="ab",
        pid=stranger.pid,
        pgid=stranger.pid,
        started=began - 1 if change == "start" else began,
    )
    write_noun(tmp_path / ".syncd/child.json", mark)
    try:
        assert not await stop_orphan(tmp_path, grace=0.1)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


async def test_a_launcher_whose_parent_is_gone_starts_nothing(tmp_path: Path) -> None:
    launcher = Path(processes.__file__).with_name("launch.py")
    command = [sys.executable, "-I", "-S", str(launcher), "1", "touch", str(tmp_path / "started")]
    if os.getpid() == 1:
        pytest.skip("this test is process 1 itself")
    assert subprocess.run(command, check=False).returncode == 143
    assert not (tmp_path / "started").exists()
