"""The demo as a spectator has it: in processes of its own, on a terminal and not, interrupted, and failing."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
SHORT = ["--steps", "40", "--save-steps", "10"]


def start(cwd: Path, *options: str, stdout: int = subprocess.PIPE, **environ: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "trainer.demo", *options],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        env={**os.environ, **environ},
    )


def text_until(process: subprocess.Popen[bytes], pattern: str) -> str:
    assert process.stdout
    seen = ""
    for line in process.stdout:
        seen += line.decode()
        if re.search(pattern, seen):
            return seen
    pytest.fail(f"{pattern} never came:\n{seen}")


def processes_in(directory: Path) -> list[psutil.Process]:
    """Whatever works there, known by its directory, not by what the demo itself goes by."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if Path(process.cwd()).is_relative_to(directory):
                found.append(process)
    return found


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    """A directory in which nothing runs in the end."""
    yield tmp_path
    left = processes_in(tmp_path)
    for process in left:
        process.kill()
    assert not left


def test_default_run_proves_that_nothing_was_lost_and_that_prices_are_learned(here: Path) -> None:
    # What the caller has set must not reach the demo: neither another store nor settings that nobody knows.
    process = start(here, SYNCD_STORE="s3://nowhere/x", SYNCD_NONSENSE="1", AWS_PROFILE="none", RANK="3")
    text = process.communicate(timeout=240)[0].decode()
    assert process.returncode == 0, text
    order = ["committed checkpoint-100", "committed checkpoint-200", "KILLED", "disk removed", "claimed attempt 2"]
    order += ["restored checkpoint-200", "committed checkpoint-400", "done: the result is attempt-0002/final"]
    table = text[text.index("when ") :]
    assert sorted(order, key=table.index) == order
    assert "checkpoint-300" not in table[: table.index("KILLED")]
    error = re.search(r"before \$(\d+), after \$(\d+), always guessing the median \$(\d+)", text)
    assert error
    before, after, median = map(int, error.groups())
    assert after < median / 2 < before
    assert len(set(re.findall(r"\b[0-9a-f]{64}\b", text))) == 1
    assert text.count(" ok   ") == 4
    assert "syncd verify --deep: nothing wrong" in text
    assert not (here / ".demo" / "run" / "node-a").exists()
    copied = next(line for line in text.splitlines() if re.match(r"  \S*syncd ls ", line))
    listed = subprocess.run(copied, shell=True, cwd=here, capture_output=True, text=True, check=True).stdout
    assert "checkpoint-400" in listed
    assert "final model" in listed


def test_short_run_on_a_terminal_shows_bars_and_proves_the_identity(here: Path) -> None:
    shown, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = start(here, *SHORT, stdout=terminal, TERM="xterm-256color", COLUMNS="80")
    os.close(terminal)
    raw = b""
    with contextlib.suppress(OSError):  # EIO is a terminal's end of file
        while data := os.read(shown, 65536):
            raw += data
    os.close(shown)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", raw.decode()).replace("\r", "\n")
    assert process.wait(20) == 0, text
    assert re.search(r"^node A  ━+.* 20/40 .*durable 20 .*KILLED", text, re.M)
    assert re.search(r"^node B  ━+.* 40/40 .*durable 40 .*done", text, re.M)
    assert "the two final adapters are identical, byte for byte" in text
    assert "under half" not in text
    paths = ("http", "file:", "  /", "in /", "node A trains", "twin: ")
    assert not [line for line in text.splitlines() if len(line) > 80 and not any(path in line for path in paths)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_in_the_middle_ends_everything_at_once(here: Path, number: signal.Signals) -> None:
    process = start(here, *SHORT)
    # Before the trainers train, or while node B restores.
    seen = text_until(process, "node A  trainer started" if number == signal.SIGTERM else "node B  claimed")
    assert len(processes_in(here)) > 2
    began = time.monotonic()
    process.send_signal(number)
    process.send_signal(number)
    text = seen + process.communicate(timeout=20)[0].decode()
    assert process.returncode == 128 + number, text
    assert time.monotonic() - began < 10
    assert not processes_in(here)
    assert "Traceback" not in text
    assert text.splitlines()[-1].startswith("demo: interrupted")


def test_failure_is_told_with_the_end_of_the_right_log_and_the_next_run_starts_afresh(here: Path) -> None:
    process = start(here, *SHORT)
    seen = text_until(process, "node A  trainer started")
    second = start(here, *SHORT)
    assert "another demo is at work" in second.communicate(timeout=30)[0].decode()
    assert second.returncode == 1
    twin = next(one for one in processes_in(here) if str(here / ".demo/run/twin") in one.cmdline())
    log = here / ".demo/run/logs/twin.err"
    log.write_text("the reason\n")
    twin.kill()
    text = seen + process.communicate(timeout=30)[0].decode()
    assert process.returncode == 1
    assert text.endswith(f"demo: twin ended with exit code -9\n{log}:\nthe reason\n"), text
    assert (here / ".demo/run/node-a").exists()
    assert not processes_in(here)


def test_the_dead_demo_s_processes_are_ended_by_the_next_one(here: Path) -> None:
    process = start(here, *SHORT)
    text_until(process, "node A  trainer started")
    process.kill()
    process.communicate(timeout=10)
    left = processes_in(here / ".demo")
    assert left
    process = start(here, *SHORT)
    text_until(process, "node A  trainer started")
    assert not [one for one in left if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130


def test_options_that_leave_nothing_to_be_lost_are_refused(here: Path) -> None:
    for options in (["--steps", "20", "--save-steps", "10"], ["--nonsense"]):
        process = start(here, *options)
        text = process.communicate(timeout=30)[0].decode()
        assert process.returncode == 64, text
        assert "usage:" in text
