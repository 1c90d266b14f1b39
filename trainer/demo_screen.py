"""What the demo shows: bars on a terminal, short lines elsewhere, then tables."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from trainer.demo_nodes import Runner
from trainer.demo_proof import Loss, Proof
from trainer.demo_timeline import Timeline

_REDRAW = 0.2  # seconds between two drawings of the bars
_LINES = 5.0  # seconds between two lines on the same runner, where there are no bars
_BAR = range(4, 21)  # columns
_BESIDES = 56  # columns of all that stands beside a bar


class Screen:
    """Writes to stdout; knows what a terminal can show."""

    def __init__(self) -> None:
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="replace")
        self._console = Console(highlight=False)
        self._bars = self._console.is_terminal and not self._console.is_dumb_terminal
        self._live: Live | None = None
        self._drawn = 0.0
        self._said: dict[str, tuple[float, int]] = {}

    @property
    def _width(self) -> int:
        return min(max(self._console.width - _BESIDES, _BAR[0]), _BAR[-1])

    def say(self, text: str = "", style: str = "") -> None:
        """Print a line, which only the terminal's edge breaks: paths and commands can be copied."""
        self._console.print(Text(text, style=style), soft_wrap=True)

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        """While in it, `show` and `show_one` draw. The last drawing stays."""
        if not self._bars:
            yield
            return
        self._drawn = 0.0
        with Live(console=self._console, auto_refresh=False) as self._live:
            yield
        self._live = None

    def event(self, seconds: float, who: str, what: str) -> None:
        """Tell at once what happened, where there are no bars; the timeline comes in any case."""
        if not self._bars:
            self.say(f"{seconds:6.1f} s  {who:<6}  {what}")

    def show(self, runners: Sequence[Runner], timeline: Timeline, *, now: bool = False) -> None:
        """Draw how far everybody is, unless that was done just before."""
        if self._live:
            if now or time.monotonic() - self._drawn >= _REDRAW:
                self._draw(_bars(runners, self._width))
            return
        for runner in runners:
            self._tell(runner, time.time() - timeline.began)

    def show_one(self, name: str, done: int, total: int, text: str) -> None:
        """Draw one bar for a job that has no runner."""
        if self._live:
            grid = _grid()
            grid.add_row(name, ProgressBar(total=total, completed=done, width=self._width), f"{done}/{total}", text)
            self._draw(grid)
        else:
            self.say(f"{name}: {done}/{total}  {text}")

    def _draw(self, grid: Table) -> None:
        assert self._live
        self._drawn = time.monotonic()
        self._live.update(grid, refresh=True)

    def _tell(self, runner: Runner, seconds: float) -> None:
        last, step = self._said.get(runner.name, (0.0, -1))
        if runner.phase in ("train", "save") and runner.step != step and time.monotonic() - last >= _LINES:
            self._said[runner.name] = (time.monotonic(), runner.step)
            words = filter(None, (f"step {_of(runner)}", _loss(runner), _durable(runner)))
            self.event(seconds, runner.name, "  ".join(words))

    # ---- after the run

    def timeline(self, timeline: Timeline) -> None:
        """The table of what happened."""
        table = self._table(("when", "right"), ("who", "left"), ("what", "left"))
        for when, who, what in timeline.table():
            style = "bold red" if what.startswith(("KILLED", "disk removed")) else ""
            table.add_row(when, who, what, style=style)
        self._console.print(table)
        self.say()

    def result(self, proof: Proof) -> None:
        """What the model has learned."""
        report, (first, *_, last) = proof.report, proof.losses
        self.say(f"training loss: {first[1]:.2f} at step {first[0]}, {last[1]:.2f} at step {last[0]}")
        self.say(
            f"held-out error: before ${report['error_before']:.0f}, after ${report['error_after']:.0f},"
            f" always guessing the median ${report['error_median_guess']:.0f}"
        )
        table = self._table(("product", "left"), ("predicted", "right"), ("true", "right"))
        for shown in report["predictions"]:
            table.add_row(*map(Text, (_product(shown["prompt"]), _dollars(shown["price"]), f"${shown['true_price']}")))
        self.say()
        self._console.print(table)
        self.say()

    def proof(self, proof: Proof, loss: Loss) -> None:
        """The sums, the checks, and what the kill cost."""
        self.say("sha256 of the final adapter")
        self.say(f"  nodes A, B  {proof.interrupted}")
        self.say(f"  twin        {proof.uninterrupted}")
        for good, text in proof.checks:
            line = Text.assemble((" ok   " if good else " FAIL ", "bold green" if good else "bold red"), text)
            self._console.print(line)
        steps = f"{loss.steps} step{'' if loss.steps == 1 else 's'}"
        self.say(f"lost by the kill: {loss.seconds:.1f} s of training, about {steps} after {loss.checkpoint};")
        self.say(f"node B was training past that point {loss.back_after:.0f} s after the kill")

    def _table(self, *columns: tuple[str, Any]) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for name, side in columns:
            table.add_column(name, justify=side, overflow="fold")
        return table


def _bars(runners: Sequence[Runner], width: int) -> Table:
    grid = _grid()
    for runner in runners:
        bar = ProgressBar(
            total=runner.total or 1,
            completed=runner.step,
            width=width,
            complete_style="red" if runner.killed else "bar.complete",
        )
        grid.add_row(runner.name, bar, _of(runner), _loss(runner), _durable(runner), _state(runner))
    return grid


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(6):
        grid.add_column(no_wrap=True)
    return grid


def _of(runner: Runner) -> str:
    return f"{runner.step}/{runner.total}" if runner.total else ""


def _loss(runner: Runner) -> str:
    return f"loss {runner.loss:.2f}" if runner.loss is not None else ""


def _durable(runner: Runner) -> str:
    return f"durable {runner.durable}" if runner.durable else ""


def _state(runner: Runner) -> Text:
    if not runner.started:
        return Text("empty", style="dim")
    if runner.killed:
        return Text("KILLED", style="bold red")
    if runner.ended is not None:
        return Text(runner.phase, style="green" if runner.ended == 0 else "bold red")
    words = {"load": "loading", "train": "training", "save": "saving", "finish": "measuring"}
    text = words.get(runner.phase, runner.phase)
    # A clock is the only sign of life while torch is being loaded, which takes a third of the time.
    return Text(f"{text} {time.monotonic() - runner.since:.0f} s" if runner.phase in ("starting", "load") else text)


def _product(prompt: str) -> str:
    return prompt.split("\n\n", 1)[-1].strip()


def _dollars(price: int | None) -> str:
    return "none" if price is None else f"${price}"
