"""The script of the trainer's container, under every shell that is here: its state table, line by line."""

import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from syncd.local.files import read_noun, write_noun
from syncd.model.local import Order, Ready, TrainerState
from syncd.trainer_care.sidecar import install_script

from .helpers import pid_in, runs, until

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[2] / "syncd/trainer_care/with-syncd"
SHELLS = [
    pytest.param(command, id=command[0], marks=pytest.mark.skipif(not shutil.which(command[0]), reason="not installed"))
    for command in (["dash"], ["bash", "--posix"], ["busybox", "sh"])
]
TRAINER = """
trap 'echo T >>{root}/marks; {on_term}' TERM
echo $$ >>{root}/starts
while :; do sleep 0.05; done
"""


class Container:
    """One with-syncd at a time on a root, as its container runs it."""

    def __init__(self, root: Path, shell: list[str]) -> None:
        self.root = root
        self.shell = shell
        self.process: subprocess.Popen[bytes] | None = None
        self.script = install_script(root)

    def run(self, *command: str, before: tuple[str, ...] = ()) -> None:
        env = {key: value for key, value in os.environ.items() if key != "SYNCD_ROOT"}
        env["WITH_SYNCD_POLL"] = "0.1"
        line = [*before, *self.shell, str(self.script), *command]
        self.process = subprocess.Popen(line, env=env, start_new_session=True)

    def trainer(self, on_term: str = "exit 0") -> list[str]:
        return ["sh", "-c", TRAINER.format(root=self.root, on_term=on_term)]

    @property
    def starts(self) -> list[int]:
        path = self.root / "starts"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    @property
    def state(self) -> TrainerState | None:
        return read_noun(self.root / ".syncd/trainer.json", TrainerState)

    @property
    def told(self) -> int:
        """When it last wrote its state, ns."""
        return (self.root / ".syncd/trainer.json").stat().st_mtime_ns

    def says(self, state: str, code: int | None = None) -> Callable[[], bool]:
        return lambda: (now := self.state) is not None and now.state == state and now.exit_code == code

    def ready(self) -> str:
        session = secrets.token_hex(4)
        noun = Ready(attempt=1, checkpoint=None, step=None, session=session, time=time.time())
        write_noun(self.root / ".syncd/ready.json", noun)
        return session

    def order(self, action: str, code: int = 0, grace: float = 20.0, life: str | None = None) -> str:
        name = secrets.token_hex(4)
        order = Order(id=name, action=action, exit_code=code, grace=grace, life=life, time=1.0)  # type: ignore[arg-type]
        write_noun(self.root / ".syncd/order.json", order)
        return name

    def end(self) -> int:
        assert self.process
        return self.process.wait(20)

    def vanish(self) -> None:
        """As an out-of-memory kill of the whole container."""
        assert self.process
        for pid in (*self.starts, self.process.pid):
            if runs(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(params=SHELLS)
def container(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Container]:
    container = Container(tmp_path, request.param)
    yield container
    if container.process and container.process.poll() is None:
        container.vanish()


async def running(container: Container, on_term: str = "exit 0") -> TrainerState:
    container.ready()
    container.run(*container.trainer(on_term))
    await until(lambda: container.starts, "the start")
    await until(container.says("running"))
    assert container.state
    return container.state


async def test_it_waits_for_ready_then_runs_the_command_with_the_root(container: Container) -> None:
    container.run("sh", "-c", f'echo "$SYNCD_ROOT" >{container.root}/said; exit 3')
    await until(container.says("waiting"))
    assert container.state and container.state.pid == 0
    session = container.ready()
    await until(container.says("exited", 3))
    assert (container.root / "said").read_text() == f"{container.root}\n"
    assert (container.state.requested, container.state.session) == (False, session)
    container.order("exit", 7)
    assert container.end() == 7


@pytest.mark.parametrize(("line", "code"), [("exit 0", 0), ("exit 255", 255), ("kill -KILL $$", 137)])
async def test_the_exit_code_is_told_and_the_next_order_awaited(container: Container, line: str, code: int) -> None:
    container.ready()
    container.run("sh", "-c", line)
    await until(container.says("exited", code))
    container.order("exit", 0)
    assert container.end() == 0


async def test_a_command_that_does_not_exist_ends_with_127(container: Container) -> None:
    container.ready()
    container.run("no-such-command-here")
    await until(container.says("exited", 127))


async def test_a_stop_lets_the_trainer_save(container: Container) -> None:
    before = await running(container, "exit 75")
    name = container.order("stop")
    await until(container.says("exited", 75))
    assert container.state and container.state.order == name
    assert container.state.requested
    assert container.state.id == before.id
    container.order("stop")
    container.order("exit", 75)
    assert container.end() == 75


async def test_a_trainer_that_ignores_a_stop_is_told_once_and_killed(container: Container) -> None:
    await running(container, ":")
    container.order("stop", grace=60)
    await until((container.root / "marks").exists)
    container.order("stop", grace=1)
    await until(container.says("exited", 137))
    assert (container.root / "marks").read_text() == "T\n"


async def test_a_stop_without_grace_kills_at_once(container: Container) -> None:
    await running(container, ":")
    container.order("stop", grace=0)
    await until(container.says("exited", 137))
    assert not (container.root / "marks").exists()


async def test_a_restart_is_a_new_life_and_is_obeyed_once(container: Container) -> None:
    before = await running(container)
    container.order("restart", life=before.id)
    await until(lambda: len(container.starts) == 2)
    await until(container.says("running"))
    after = container.state
    assert after and after.id != before.id
    assert not runs(container.starts[0])
    container.order("stop")
    await until(container.says("exited", 0))
    container.order("restart")
    await until(lambda: len(container.starts) == 3)
    told = container.told
    await until(lambda: container.told > told + 500_000_000)
    assert len(container.starts) == 3


async def test_a_restart_of_a_life_that_is_gone_leaves_the_new_one_alone(container: Container) -> None:
    before = await running(container)
    name = container.order("restart", life="another.1")
    await until(lambda: container.state and container.state.order == name)
    assert container.state and container.state.id == before.id
    assert len(container.starts) == 1


async def test_a_restart_while_a_stop_is_under_way_takes_its_place(container: Container) -> None:
    before = await running(container, "sleep 1; exit 0")
    container.order("stop")
    await until((container.root / "marks").exists)
    container.order("restart", life=before.id)
    await until(lambda: len(container.starts) == 2)
    assert (container.root / "marks").read_text() == "T\n"


async def test_an_exit_stops_the_trainer_before(container: Container) -> None:
    await running(container)
    container.order("exit", 76)
    assert container.end() == 76
    assert (container.root / "marks").exists()
    assert container.state and (container.state.state, container.state.exit_code) == ("exited", 0)


async def test_an_exit_is_obeyed_before_ready(container: Container) -> None:
    container.run(*container.trainer())
    await until(container.says("waiting"))
    container.order("exit", 78)
    assert container.end() == 78
    assert not container.starts


async def test_a_stop_before_ready_keeps_the_trainer_from_starting_until_a_restart(container: Container) -> None:
    container.run(*container.trainer())
    await until(container.says("waiting"))
    container.order("stop")
    await until(container.says("exited"))
    container.ready()
    container.order("restart")
    await until(lambda: container.starts)


@pytest.mark.parametrize(("on_term", "code"), [("exit 0", 75), ("exit 75", 75), ("exit 143", 75), ("exit 9", 9)])
async def test_a_sigterm_is_forwarded_and_a_saved_trainer_is_75(container: Container, on_term: str, code: int) -> None:
    await running(container, on_term)
    assert container.process
    container.process.terminate()
    assert container.end() == code
    assert (container.root / "marks").read_text() == "T\n"
    assert container.state and container.state.requested
    assert container.state.state == "exited"


async def test_an_order_names_the_code_while_a_sigterm_is_under_way(container: Container) -> None:
    await running(container, f"until [ -e {container.root}/go ]; do sleep 0.05; done; exit 0")
    assert container.process
    container.process.terminate()
    await until((container.root / "marks").exists)
    container.order("stop", grace=0)  # has no effect any more
    name = container.order("exit", 77)
    await until(lambda: container.state and container.state.order == name)
    (container.root / "go").touch()
    assert container.end() == 77


async def test_a_sigterm_while_waiting_is_75(container: Container) -> None:
    container.run(*container.trainer())
    await until(container.says("waiting"))
    assert container.process
    container.process.terminate()
    assert container.end() == 75


async def test_what_the_command_leaves_behind_is_ended(container: Container) -> None:
    container.ready()
    left = container.root / "left"
    line = f"(trap '' TERM; sh -c 'echo $$ >{left}; exec sleep 60') & "
    container.run("sh", "-c", f"{line} until [ -s {left} ]; do sleep 0.01; done; exit 4")
    await until(container.says("exited", 4))
    assert not runs(pid_in(left))


async def test_a_container_that_restarts_runs_nothing_until_syncd_decides(container: Container) -> None:
    before = await running(container)
    container.vanish()
    container.run(*container.trainer())
    await until(lambda: container.state and container.state.id != before.id)
    assert container.says("waiting")()
    name = container.order("restart", life=before.id)
    await until(lambda: len(container.starts) == 2)
    container.vanish()
    container.run(*container.trainer())
    await until(container.says("waiting"))
    assert container.state and container.state.order == name
    container.ready()
    await until(lambda: len(container.starts) == 3)


async def test_an_exit_is_not_obeyed_again_by_a_container_that_restarts(container: Container) -> None:
    await running(container)
    container.order("exit", 75)
    assert container.end() == 75
    container.run(*container.trainer())
    await until(container.says("waiting"))
    container.order("exit", 0)
    assert container.end() == 0
    assert len(container.starts) == 1


async def test_a_ready_that_appears_while_the_trainer_runs_is_used_up(container: Container) -> None:
    await running(container)
    session = container.ready()
    await until(lambda: container.state and container.state.session == session)
    assert len(container.starts) == 1


async def test_nonsense_is_no_order(container: Container) -> None:
    before = await running(container)
    path = container.root / ".syncd/order.json"
    for text in ("", "{", "[]", '{"id":"a b"}', '{"action":"exit","id":"$(touch x)"}', '{"action":"fly","id":"x9"}'):
        path.write_text(text + "\n")
        told = container.told
        await until(lambda told=told: container.told > told)  # type: ignore[misc]
    await until(lambda: container.state and container.state.order == "x9")
    assert container.says("running")()
    assert container.state and container.state.id == before.id


async def test_as_process_1_it_forwards_sigterm(container: Container) -> None:
    unshare = ("unshare", "--pid", "--fork", "--kill-child", *(() if os.geteuid() == 0 else ("--user", "-r")))
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no right to make a pid namespace here")
    container.ready()
    command = container.trainer()
    command[2] = command[2].replace("echo $$ >>", f"echo 1 >>{container.root}/began; : >>")
    container.run(*command, before=unshare)
    await until(container.says("running"))
    await until((container.root / "began").exists)
    assert container.process
    inner = Path(f"/proc/{container.process.pid}/task/{container.process.pid}/children").read_text().split()
    os.kill(int(inner[0]), signal.SIGTERM)
    assert container.end() == 75
    assert (container.root / "marks").exists()


@pytest.mark.parametrize("shell", SHELLS)
def test_it_says_what_is_wrong_with_its_call(shell: list[str], tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"]}
    for arguments, extra, said in [
        ([], {}, "usage"),
        (["true"], {}, "SYNCD_ROOT is not set"),
        (["true"], {"SYNCD_ROOT": str(tmp_path / "missing")}, "no directory"),
    ]:
        line = [*shell, str(SCRIPT), *arguments]
        result = subprocess.run(line, env={**env, **extra}, capture_output=True, text=True, check=False)
        assert result.returncode == 64
        assert said in result.stderr


def test_the_script_is_clean_shell() -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("SHELLCHECK IS NOT INSTALLED: the script was not checked")
    result = subprocess.run(["shellcheck", "--shell=sh", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_installing_replaces_the_script_and_forgets_old_orders(tmp_path: Path) -> None:
    container = Container(tmp_path, [])
    container.order("exit")
    container.script.write_text("old")
    script = install_script(tmp_path)
    assert script == tmp_path / ".syncd/bin/with-syncd"
    assert script.read_bytes() == SCRIPT.read_bytes()
    assert script.stat().st_mode & 0o777 == 0o755
    assert not (tmp_path / ".syncd/order.json").exists()
