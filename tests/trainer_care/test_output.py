"""The trainer's output is copied whole and in order, and never blocks it."""

import asyncio
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from syncd.trainer_care import child, output
from syncd.trainer_care.child import ChildTrainer

from .helpers import joined, script

ENV = dict(os.environ)


class Reader:
    """Reads a pipe to its end in a thread."""

    def __init__(self) -> None:
        self.source, self.sink = os.pipe()
        self.data = b""
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        chunks = []
        while chunk := os.read(self.source, 1 << 16):
            chunks.append(chunk)
        self.data = joined(chunks)

    def end(self) -> bytes:
        os.close(self.sink)
        self._thread.join()
        os.close(self.source)
        return self.data


async def test_both_streams_are_copied_apart_and_heard_together(tmp_path: Path) -> None:
    out, err = Reader(), Reader()
    said: list[bytes] = []
    trainer = ChildTrainer(["sh", "-c", "echo one; echo two >&2; printf three"], tmp_path, said.append,
                           copy_to=(out.sink, err.sink))  # fmt: skip
    await trainer.start(ENV)
    await trainer.wait()
    assert (out.end(), err.end()) == (b"one\nthree", b"two\n")
    assert sorted(joined(said)) == sorted(b"one\nthreetwo\n")


async def test_ten_megabytes_come_through_whole_and_in_order(tmp_path: Path) -> None:
    out, err = Reader(), Reader()
    text = """
        import sys
        for stream in (sys.stdout, sys.stderr):
            for number in range(650_000):
                stream.write(f"{number:07d}\\n")
    """
    heard = 0

    def hear(data: bytes) -> None:
        nonlocal heard
        heard += len(data)

    trainer = ChildTrainer(script(tmp_path, text), tmp_path, hear, copy_to=(out.sink, err.sink))
    await trainer.start({**ENV, "PYTHONUNBUFFERED": ""})
    assert (await trainer.wait()).code == 0
    expected = b"".join(b"%07d\n" % number for number in range(650_000))
    assert out.end() == expected
    assert err.end() == expected
    assert heard == 2 * len(expected)


async def test_a_closed_stdout_does_not_end_the_trainer(tmp_path: Path) -> None:
    source, sink = os.pipe()
    os.close(source)
    heard: list[bytes] = []
    trainer = ChildTrainer(["sh", "-c", "yes | head -c 9000000; exit 5"], tmp_path, heard.append, copy_to=(sink, sink))
    await trainer.start(ENV)
    assert (await trainer.wait()).code == 5
    assert len(joined(heard)) == 9_000_000
    os.close(sink)


@pytest.mark.slow
async def test_a_reader_that_stalls_costs_output_and_not_the_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "STALL", 0.3)
    monkeypatch.setattr(output, "LIMIT", 1 << 20)
    source, sink = os.pipe()
    heard = 0

    def hear(data: bytes) -> None:
        nonlocal heard
        heard += len(data)

    line = "yes | head -c 9000000; exit 6"
    trainer = ChildTrainer(["sh", "-c", line], tmp_path, hear, copy_to=(sink, sink))
    begin = time.monotonic()
    await trainer.start(ENV)
    assert (await trainer.wait()).code == 6
    assert time.monotonic() - begin < 10
    assert heard == 9_000_000
    os.close(source)  # frees the thread that writes
    os.close(sink)


async def test_lost_output_is_named_once_there_is_room_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "LIMIT", 100)
    source, sink = os.pipe()
    copier = output.Copier(sink)
    copier.put(b"x" * 200_000)  # more than the pipe takes
    assert copier.full
    copier.drop()
    copier.put(b"lost!")
    text = b""
    while len(text) < 200_000:
        text += await asyncio.to_thread(os.read, source, 1 << 16)
    await copier.flush(5)
    copier.put(b"after")
    await copier.flush(5)
    os.close(sink)
    assert os.read(source, 1000) == b"\nsyncd: 5 bytes of output not copied: its reader was blocked\nafter"
    os.close(source)


async def test_a_non_blocking_stdout_is_waited_for(tmp_path: Path) -> None:
    out = Reader()
    os.set_blocking(out.sink, False)
    trainer = ChildTrainer(["sh", "-c", "yes | head -c 3000000"], tmp_path, lambda data: None,
                           copy_to=(out.sink, out.sink))  # fmt: skip
    await trainer.start(ENV)
    await trainer.wait()
    assert len(out.end()) == 3_000_000


async def test_what_the_listener_raises_comes_out_of_wait(tmp_path: Path) -> None:
    def hear(data: bytes) -> None:
        raise ZeroDivisionError

    sink = os.open(os.devnull, os.O_WRONLY)
    trainer = ChildTrainer([sys.executable, "-c", "print(1)"], tmp_path, hear, copy_to=(sink, sink))
    await trainer.start(ENV)
    with pytest.raises(ZeroDivisionError):
        await trainer.wait()
    os.close(sink)


@pytest.mark.slow
async def test_a_slow_reader_gets_everything_after_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "PIPE_PATIENCE", 0.2)
    monkeypatch.setattr(output, "LIMIT", 1 << 16)
    source, sink = os.pipe()

    def read_slowly() -> int:
        count = 0
        while chunk := os.read(source, 1 << 15):
            count += len(chunk)
            time.sleep(0.03)
        return count

    reading = asyncio.ensure_future(asyncio.to_thread(read_slowly))
    trainer = ChildTrainer(["sh", "-c", "yes | head -c 1500000"], tmp_path, lambda data: None, copy_to=(sink, sink))
    await trainer.start(ENV)
    await trainer.wait()
    os.close(sink)
    assert await reading == 1_500_000
    os.close(source)
