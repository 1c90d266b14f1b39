"""`python -m trainer.demo`: train, lose the machine, restore, finish, and compare with a run that lost nothing.

Node A trains under `syncd run`. After its second commit it is killed, daemon and trainer at once, and its disk
is removed. Node B, empty, restores, resumes and finishes. All with a store in a local directory: no server, no
account. Meanwhile a twin trains without interruption and without syncd: the two adapters must be the same bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from trainer import tiny
from trainer.demo_nodes import Failed, Runner, kill, run
from trainer.demo_proof import Loss, collect, loss_of
from trainer.demo_screen import Screen
from trainer.demo_timeline import Timeline

STEPS, SAVE_STEPS = 400, 100
TASK = "prices"
_LOOK = 0.03  # seconds between looks at the files: node A is to die soon after its second commit
_PATIENCE = 600.0  # seconds that any stage may take
_UPDATES = re.compile(r"update (\d+)/(\d+) (.*)")


class Interrupted(BaseException):
    """A signal asks the demo to end; its argument is the number."""


def main(argv: list[str] | None = None) -> int:
    """Run the demo; 0 when and only when the proof holds, else 1, 64 on usage, 128+n on a signal."""
    chosen = _parse(argv)
    screen = Screen()
    try:
        with _signals(), _workplace() as directory, _nothing_left(directory):
            return Demo(chosen, directory, screen).run()
    except Failed as error:
        print(f"demo: {error}", error.tail, sep="\n" if error.tail else "", file=sys.stderr)
    except OSError as error:
        print(f"demo: {error}", file=sys.stderr)
    except PackageNotFoundError as error:
        print(f"demo: {error.name} is not installed; 'make setup' does that", file=sys.stderr)
    except Interrupted as error:
        print("demo: interrupted; everything it started is ended", file=sys.stderr)
        return 128 + int(error.args[0])
    return 1


class Demo:
    """The plot."""

    def __init__(self, chosen: argparse.Namespace, directory: Path, screen: Screen) -> None:
        self.chosen, self.directory, self.screen = chosen, directory, screen
        self.store = directory / "store"
        self.a, self.b, self.twin = (Runner(name, directory) for name in ("node A", "node B", "twin"))
        self.runners = (self.a, self.b, self.twin)

    def run(self) -> int:
        began = time.monotonic()
        say = self.screen.say
        say("syncd demo: train, lose the machine, restore, finish", "bold")
        say(f"in {self.directory} (replaced by each run)")
        self._base_model()
        say(f"node A trains and dies, node B takes over; store: {self.store.as_uri()}")
        say("twin: the same training without interruption and without syncd, at the same time on the other core\n")
        loss = self._act()
        say()
        self.screen.timeline(self.timeline)
        # A shortened training proves the same identity, but cannot have learned the prices.
        full = self.chosen.steps == STEPS
        proof = collect(self.directory, self.a, self.b, self.twin, self._syncd, judge_error=full)
        self.screen.result(proof)
        self.screen.proof(proof, loss)
        say("\nlook around:")
        for verb in ("ls", "status", "verify --deep"):
            say(f"  {_syncd_name()} {verb} --store {shlex.quote(self.store.as_uri())} --task {TASK}")
        verdict = "the proof holds" if proof.holds else "THE PROOF DOES NOT HOLD"
        say(f"\n{verdict} ({time.monotonic() - began:.0f} s)", "bold green" if proof.holds else "bold red")
        return 0 if proof.holds else 1

    def _base_model(self) -> None:
        if tiny.default_directory().is_dir():
            return
        said = self.screen.show_one

        def hear(line: str) -> None:
            if update := _UPDATES.search(line):
                said("base model", int(update[1]), int(update[2]), update[3])

        with self.screen.live():
            said("base model", 0, int(tiny.RECIPE["updates"]), "is built once, then cached")
            code, lines = run([sys.executable, "-m", "trainer.tiny"], f"{self.directory}/base", hear)
        if code:
            raise Failed("the base model could not be built", "\n".join(lines[-12:]))

    def _act(self) -> Loss:
        """Both nodes and the twin; return what the kill cost."""
        self.store.mkdir()
        self.timeline = Timeline(self.screen.event)
        with self.screen.live():
            self.twin.start([*self._trainer(), "--output_dir", str(self.twin.root)], {})
            self.timeline.add(self.twin.name, "trainer started")
            self._start_node(self.a)
            self._follow(lambda: len(self.a.commits()) > 1)
            killed_at = self._lose_node_a()
            self._start_node(self.b)
            self._follow(lambda: self.b.ended == 0 or self.b.step > self.a.step)
            back_at = time.time()
            self._follow(lambda: self.b.ended == 0)
            self._follow(lambda: self.twin.ended == 0)
            self.screen.show(self.runners, self.timeline, now=True)
        return loss_of(self.a, killed_at, back_at)

    def _start_node(self, node: Runner) -> None:
        settings = {
            "SYNCD_STORE": self.store.as_uri(),
            "SYNCD_ROOT": str(node.root),
            "SYNCD_TASK": TASK,
            "SYNCD_NODE": node.root.name,
            "SYNCD_LOG_FORMAT": "json",
            "SYNCD_MAX_RESTARTS": "0",  # a trainer that fails here fails for a reason to be shown
        }
        node.start([sys.executable, "-m", "syncd", "run", "--", *self._trainer()], settings)

    def _trainer(self) -> list[str]:
        chosen = self.chosen
        command = [sys.executable, "-m", "trainer.sft", "--save_steps", str(chosen.save_steps)]
        if chosen.steps != STEPS:
            command += ["--max_steps", str(chosen.steps), "--logging_steps", str(max(1, chosen.steps // 20))]
        return command

    def _lose_node_a(self) -> float:
        """Kill it and take its disk away; return when it was killed."""
        killed_at = time.time()
        last = self.a.power_off()
        self.timeline.add(self.a.name, "KILLED: daemon and trainer, SIGKILL", killed_at)
        self.timeline.heard(self.a.name, last)
        shutil.rmtree(self.a.root)
        self.timeline.add(self.a.name, "disk removed")
        return killed_at

    def _follow(self, until: Callable[[], bool]) -> None:
        """Watch everybody until something is so. Whoever fails ends the demo, or node A if it is faster than we are."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            for runner in self.runners:
                running = runner.ended is None
                self.timeline.heard(runner.name, runner.look())
                if running and runner.ended is not None:
                    self._ended(runner)
            if until():
                return
            self.screen.show(self.runners, self.timeline)
            if time.monotonic() > deadline:
                raise next(runner for runner in self.runners if runner.ended is None and not runner.killed).failed(
                    f"is not where it should be after {_PATIENCE:.0f} s"
                )
            time.sleep(_LOOK)

    def _ended(self, runner: Runner) -> None:
        if runner.ended:
            raise runner.failed(f"ended with exit code {runner.ended}")
        if runner is self.a:
            raise runner.failed("was done before it could be killed; more --steps?")
        if runner is self.twin:
            self.timeline.add(runner.name, "trainer finished, never interrupted")

    def _syncd(self, *words: str) -> dict[str, Any]:
        """Run a verb of syncd on the demo's store; return what its --json says, whatever it exits with."""
        command = [sys.executable, "-m", "syncd", *words, "--json", "--store", self.store.as_uri(), "--task", TASK]
        _, lines = run(command, f"{self.directory}/look", lambda line: None, SYNCD_LOG_FORMAT="json")
        answer: dict[str, Any] = next(
            (json.loads(line) for line in lines if line.startswith('{"') and '"version":' in line), {}
        )
        if not answer or "error" in answer:
            raise Failed(f"{shlex.join(['syncd', *words])} failed", "\n".join(lines[-12:]))
        return answer


@contextlib.contextmanager
def _workplace() -> Iterator[Path]:
    """A fresh directory: `.demo/run` here, held against a second demo; elsewhere where nothing can be written here."""
    above = Path.cwd() / ".demo"
    try:
        above.mkdir(exist_ok=True)
        lock = (above / "lock").open("a")
    except OSError:
        yield Path(tempfile.mkdtemp(prefix="syncd-demo-")).resolve()
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Failed(f"another demo is at work in {above}") from error
        directory = above.resolve() / "run"
        kill(f"{directory}/")  # what a demo that was itself killed has left
        if directory.exists():
            shutil.rmtree(directory)
        directory.mkdir()
        yield directory


@contextlib.contextmanager
def _nothing_left(directory: Path) -> Iterator[None]:
    try:
        yield
    finally:
        # A signal waits until all are dead, and is obeyed then.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
        try:
            kill(f"{directory}/")
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Turn the first signal into `Interrupted`; further ones must not disturb the cleaning up."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # else nohup's wish
        numbers.append(signal.SIGHUP)

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        for one in numbers:
            signal.signal(one, signal.SIG_IGN)
        raise Interrupted(number)

    before = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _syncd_name() -> str:
    """How to call syncd from here."""
    script = Path(sys.executable).with_name("syncd")
    if shutil.which("syncd") == str(script) or not script.exists():
        return "syncd"
    here = Path.cwd()
    return shlex.quote(str(script.relative_to(here) if script.is_relative_to(here) else script))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(64, f"demo: {message}\n")


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="python -m trainer.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit codes: 0 the adapters are the same bytes and the prices are learned, 1 not so, 64 usage.",
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="updates of the training; default: %(default)s")
    parser.add_argument("--save-steps", type=int, default=SAVE_STEPS, help="between checkpoints; default: %(default)s")
    chosen = parser.parse_args(argv)
    if not 0 < 2 * chosen.save_steps < chosen.steps:
        parser.error("node A is lost after its second checkpoint: --steps must be more than twice --save-steps")
    return chosen


if __name__ == "__main__":
    sys.exit(main())
