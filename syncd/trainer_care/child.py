"""The trainer as our child: a process group of its own that dies with us and leaves nothing behind."""

import asyncio
import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from syncd.errors import UsageError
from syncd.local.files import read_noun, write_noun
from syncd.local.tree import OWN
from syncd.model.local import ChildMark
from syncd.trainer_care import Exit, processes
from syncd.trainer_care.output import Copier

log = logging.getLogger("syncd")
LAUNCHER = Path(__file__).with_name("launch.py")
LEFTOVER_PATIENCE = 2.0
"""Seconds between SIGTERM and SIGKILL for what the main process leaves behind."""
PIPE_PATIENCE = 3.0
"""Seconds without progress to wait for the end of the output once all is ended: a stranger may hold the pipes."""
PIPE_SIZE = 1 << 20
"""Bytes of output that the kernel takes while our event loop is busy."""
STALL = 2.0
"""Seconds for which a reader that does not read our output may hold up the trainer, once, before output is dropped."""


class ChildTrainer:
    """Runs `command` as a `Trainer`. SYNCD_ROOT is added to its environment, nothing is taken out of it.

    `on_output` gets each chunk of both streams, in the event loop; what it raises comes out of `wait`.
    `copy_to`: the descriptors that its stdout and stderr are copied to.

    The parent-death signal is sent when the *thread* that started the trainer ends: call `start` from an event loop
    in the main thread. asyncio's child watchers of 3.11 (a thread per child) and later (pidfd) both do without
    SIGCHLD, so nothing is to be set up.
    """

    def __init__(
        self,
        command: Sequence[str],
        root: Path,
        on_output: Callable[[bytes], None],
        copy_to: tuple[int, int] = (1, 2),
    ) -> None:
        self._command = list(command)
        self._root = root
        self._on_output = on_output
        self._copiers = {1: Copier(copy_to[0]), 2: Copier(copy_to[1])}
        self._life: _Life | None = None

    @property
    def alive(self) -> bool:
        """Whether the main process runs."""
        return self._life is not None and not self._life.ended.is_set()

    async def start(self, env: Mapping[str, str]) -> None:
        """As in `Trainer`; the mark of the new life is on disk before its first process exists."""
        if self.alive:
            raise RuntimeError("the trainer runs already")
        check_command(self._command, env)
        life = _Life(self._on_output, self._copiers)
        mark = ChildMark(boot_id=processes.boot_id(), life=life.name)
        path = _mark_path(self._root)
        path.parent.mkdir(exist_ok=True)
        await asyncio.to_thread(write_noun, path, mark)
        launch = (sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()))
        transport, _ = await asyncio.get_running_loop().subprocess_exec(
            lambda: life,
            *launch,
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            env={"PYTHONUNBUFFERED": "1", **env, "SYNCD_ROOT": str(self._root), processes.MARK: life.name},
        )
        life.pid = transport.get_pid()
        self._life = life
        began = processes.started(life.pid) or 0
        mark = ChildMark(boot_id=mark.boot_id, life=life.name, pid=life.pid, pgid=life.pid, started=began)
        try:
            await asyncio.to_thread(write_noun, path, mark)
        except OSError as error:  # it runs: its processes are found by the life that stands in their environment
            log.debug("%s: %s", path, error.strerror)

    async def wait(self) -> Exit:
        """As in `Trainer`; raises also what `on_output` raised, and `RuntimeError` before the first `start`."""
        if self._life is None:
            raise RuntimeError("the trainer was not started")
        result = await self._life.finish()
        with contextlib.suppress(OSError):  # of a life that ended: who finds it finds none of its processes
            _mark_path(self._root).unlink(missing_ok=True)
        return result

    async def stop(self, grace: float) -> Exit:
        """As in `Trainer`. Only the main process gets SIGTERM: data loaders that die of it break its last save."""
        life = self._life
        if life is None:
            return Exit(128 + signal.SIGTERM, True, time.time(), seen=False)
        if grace > 0:
            life.ask()
        if await life.ends_within(grace) or await life.kill():
            return await self.wait()
        return Exit(128 + signal.SIGKILL, True, time.time(), seen=False)

    async def kill(self) -> None:
        """As in `Trainer`."""
        if self.alive:
            await self.stop(0)


class _Life(asyncio.SubprocessProtocol):
    """One life: its output, its end. Callbacks instead of tasks, so that nothing runs that nobody owns."""

    def __init__(self, on_output: Callable[[bytes], None], copiers: Mapping[int, Copier]) -> None:
        self.name = secrets.token_hex(16)
        self.pid = 0
        self.ended = asyncio.Event()
        self._piped = asyncio.Event()
        self._on_output = on_output
        self._copiers = copiers
        self._transport: asyncio.SubprocessTransport | None = None
        self._asked = False
        self._end: tuple[int, bool, float] | None = None
        self._exit: Exit | None = None
        self._failure: Exception | None = None
        self._finishing = asyncio.Lock()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)
        self._transport = transport
        for fd in self._copiers:
            pipe = transport.get_pipe_transport(fd)
            assert pipe is not None
            with contextlib.suppress(OSError):  # the user's share of pipe memory is spent: 64 KiB do as well
                fcntl.fcntl(pipe.get_extra_info("pipe"), fcntl.F_SETPIPE_SZ, PIPE_SIZE)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        copier = self._copiers[fd]
        copier.put(data)
        try:
            self._on_output(data)
        except Exception as error:  # asyncio would log it and go on: `finish` raises it
            self._failure = self._failure or error
        if copier.full and not copier.dropping:
            self._hold(fd, copier)

    def process_exited(self) -> None:
        assert self._transport is not None
        code = self._transport.get_returncode()
        assert code is not None
        self._end = (code if code >= 0 else 128 - code, self._asked, time.time())
        self.ended.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._piped.set()

    def ask(self) -> None:
        """SIGTERM to the main process, the first time: many trainers quit without saving on the second one."""
        if not self._asked:
            self._asked = True
            self._signal(signal.SIGTERM)

    async def ends_within(self, seconds: float) -> bool:
        """Whether the main process ends in time."""
        try:
            async with asyncio.timeout(seconds):
                await self.ended.wait()
        except TimeoutError:
            return False
        return True

    async def kill(self) -> bool:
        """SIGKILL to all of it; whether it ended."""
        self._asked = True
        self._signal(signal.SIGKILL)
        await processes.kill(self.pid, self.name)
        return await self.ends_within(1.0)

    async def finish(self) -> Exit:
        """Wait for the end, end what is left, and take the last output. May be cancelled and called again."""
        await self.ended.wait()
        async with self._finishing:
            if self._exit is None:
                await processes.end(self.pid, self.name, LEFTOVER_PATIENCE)
                await self._close()
                assert self._end is not None
                self._exit = Exit(*self._end)
        if self._failure:
            raise self._failure
        return self._exit

    async def _close(self) -> None:
        assert self._transport is not None
        written = -1
        while not self._piped.is_set() and written != (written := sum(c.written for c in self._copiers.values())):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PIPE_PATIENCE):
                    await self._piped.wait()
        # Without an end: a process that left the group and cleared its environment holds the pipes. It loses its reader.
        self._transport.close()
        for copier in self._copiers.values():
            await copier.flush(STALL)

    def _signal(self, number: signal.Signals) -> None:
        # Not transport.send_signal(): it polls the child, can take the exit code away from the watcher's waitpid,
        # and the code would be reported as 255.
        if not self.ended.is_set():
            processes.send([self.pid], number)

    def _hold(self, fd: int, copier: Copier) -> None:
        """Read no more of this stream while our own output is behind; drop instead once its reader has stalled."""
        assert self._transport is not None
        pipe = self._transport.get_pipe_transport(fd)
        assert isinstance(pipe, asyncio.ReadTransport)
        if pipe.is_closing() or not pipe.is_reading():
            return
        loop = asyncio.get_running_loop()
        pipe.pause_reading()

        def look(written: int, deadline: float) -> None:
            if copier.written != written:
                written, deadline = copier.written, loop.time() + STALL
            if copier.full and loop.time() < deadline:
                loop.call_later(0.02, look, written, deadline)
                return
            copier.drop()
            if not pipe.is_closing():
                pipe.resume_reading()

        look(copier.written, loop.time() + STALL)


def check_command(command: Sequence[str], env: Mapping[str, str]) -> None:
    """Raise `UsageError` where `command` cannot be executed with `env`'s PATH."""
    if not command or not command[0]:
        raise UsageError("no command to run: syncd run -- CMD [ARG…]")
    name = command[0]
    if shutil.which(name, path=env.get("PATH", os.defpath)):
        return
    if "/" in name and os.path.lexists(name):
        raise UsageError(f"{name} is not an executable file: chmod +x it, or name its interpreter")
    where = "there is no such file" if "/" in name else "it is in no directory of PATH"
    raise UsageError(f"{name} cannot be run: {where}")


async def stop_orphan(root: Path, grace: float = 30.0) -> bool:
    """End what the trainer of a killed daemon left on this machine; returns whether there was anything.

    The main process has `grace` seconds to save, the rest `LEFTOVER_PATIENCE`. A pid that another process has by now
    is not touched: pid, start time and boot must be those of the mark. Call it under the root's lock, before anything
    else is started. Raises `OSError`.
    """
    path = _mark_path(root)
    mark = read_noun(path, ChildMark)
    if mark is None or mark.boot_id != processes.boot_id():
        path.unlink(missing_ok=True)
        return False
    known = mark.pid > 0 and processes.started(mark.pid) == mark.started
    pgid = mark.pgid if known else 0
    found = bool(processes.members(pgid, mark.life))
    if known:
        processes.send([mark.pid], signal.SIGTERM)
        await _gone(mark, grace)
    await processes.end(pgid, mark.life, LEFTOVER_PATIENCE)
    path.unlink(missing_ok=True)
    return found


async def _gone(mark: ChildMark, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while mark.pid in processes.members(mark.pgid, mark.life) and time.monotonic() < deadline:  # noqa: ASYNC110 - no child
        await asyncio.sleep(processes.POLL)


def _mark_path(root: Path) -> Path:
    return root / OWN / "child.json"
