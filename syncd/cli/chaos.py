"""`syncd chaos`: the operator's rehearsal, on a scratch task of their store."""

import asyncio
import secrets
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click

from syncd.cli import App
from syncd.cli.compose import Parts, opened
from syncd.cli.options import Size, verb
from syncd.cli.output import print_json, print_table
from syncd.cli.words import bytes_, without_query
from syncd.config import Settings, handed_on
from syncd.config.values import check_name
from syncd.decide.rehearsal import WHAT, Fault, Round, Spread, plan, spread
from syncd.errors import ConfigError, SyncdError, UsageError
from syncd.hooks.loading import told
from syncd.rehearsal.ledger import Played, Seen
from syncd.rehearsal.play import PAUSE, Rehearsal
from syncd.rehearsal.scratch import check_room, clear, end_uploads, scratch, sweep
from syncd.stopping import Stop, race

ROUNDS = 30
LEAST_SIZE, MOST_SIZE = 1 << 10, 1 << 40


class CheckpointSize(Size):
    """One that a rehearsal can write."""

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        size = super().convert(value, param, ctx)
        if not LEAST_SIZE <= size <= MOST_SIZE:
            self.fail(f"{value}: between 1KiB and 1TiB is expected", param, ctx)
        return size


@verb(
    examples="""
    syncd chaos                                        # on the default store, some minutes
    syncd chaos --store s3://bucket/prefix --rounds 60
    syncd chaos --store s3://bucket/prefix --seed 7 --size 200MiB --keep-task
    syncd chaos --dry-run --seed 7
    """,
    needs_task=False,
)
@click.option(
    "--rounds", type=click.IntRange(1, 100_000), default=ROUNDS, metavar="N", show_default=True, help="Faults to play."
)
@click.option(
    "--seed", type=click.IntRange(0, (1 << 63) - 1), metavar="N", help="Plays the same faults again. [default: random]"
)
@click.option(
    "--size", type=CheckpointSize(), default="4MiB", metavar="SIZE", show_default=True, help="Bytes of a checkpoint."
)
@click.option("--keep-task", is_flag=True, help="Leave the scratch task in the store.")
@click.option("--dry-run", is_flag=True, help="List the rounds; change nothing.")
@click.pass_obj
def command(
    app: App,
    settings: Settings,
    as_json: bool,
    rounds: int,
    seed: int | None,
    size: int,
    keep_task: bool,
    dry_run: bool,
) -> int:
    """Rehearse a run that loses its machines: real 'syncd run's with a small trainer, killed, frozen, and cheated.

    Makes a scratch task of its own in the store (chaos-DATE-RANDOM, or the --task that is given, which must be new;
    SYNCD_TASK is left alone) and scratch disks below TMPDIR. Nodes run with your settings, but for their pace. Each round
    starts a node, lets it commit, and does a fault to it; the next node must resume the newest committed step or a later
    one, byte for byte. At the end the task must be done, and its model and all that is stored right. Then all of it is
    deleted, with the parts of uploads that kills cut off; what may be left even so is told. After a loss, task, disks and
    logs stay for inspection.

    Exit codes: 0 nothing was lost · 1 something was · 64 usage · 75 the store does not answer · 78 configuration ·
    128+n a signal: what was begun is ended and deleted.

    --json: {"version": 1, "task", "store", "seed", "size", "rounds", "planned", "interrupted", "finished", "faults":
    [{"fault", "rounds", "failing_store", "wrong", "most_steps_lost"}], "lives", "kills", "commits", "restores",
    "zombies_fenced", "damages_survived", "store_away", "seconds": {"start", "restore", "commit": {"median", "worst"}},
    "most_steps_lost", "lost", "wrong": [text], "left": [text], "evidence", "deleted"}
    """
    given = settings.origin("task").startswith("flag ")
    task = check_name(settings.task if given else f"chaos-{time.strftime('%Y%m%d')}-{secrets.token_hex(3)}")
    seed = secrets.randbelow(1 << 32) if seed is None else seed
    planned = plan(seed, rounds)
    if dry_run:
        return _print_plan(task, seed, planned, as_json=as_json)
    return asyncio.run(_run(app, settings, task, seed, planned, size, as_json=as_json, keep_task=keep_task))


async def _run(
    app: App,
    settings: Settings,
    task: str,
    seed: int,
    planned: Sequence[Round],
    size: int,
    *,
    as_json: bool,
    keep_task: bool,
) -> int:
    if settings.store.lower().startswith("memory:"):
        raise ConfigError(f"SYNCD_STORE={settings.store} is gone with each process: nothing can come back from it")
    check_room(size, _directory(settings.store))
    where = app.redact(without_query(settings.store))
    with scratch() as home:
        settings = settings.model_copy(update={"root": home, "task": task})
        async with opened(settings, app.plugins) as parts:
            if await parts.store.list(parts.keys.top):
                raise UsageError(f"the task {task} is there already in {where}; --task must name a new one")
            click.echo(f"task {task} in {where}; seed {seed}; scratch {home}", err=True)
            show = Progress(len(planned), app)
            rehearsal = Rehearsal(
                parts.store,
                parts.keys,
                parts.budget.unpaced,
                planned,
                size=size,
                home=home,
                env=handed_on(settings),
                tell=show,
            )
            stop, trouble = Stop(), list[Exception]()
            with stop.on_signals(lambda name: click.echo(f"{name}: ending what was begun", err=True)):
                try:
                    await race(rehearsal.play(), stop.asked)
                except OSError as error:
                    why = f"{error.filename or home}: {error.strerror}"
                    trouble.append(ConfigError(f"{why}; give the rehearsal another place with TMPDIR"))
                except Exception as error:  # what was begun is ended and deleted first, then it is raised
                    trouble.append(error)
                finally:
                    rehearsal.end()
                seen = rehearsal.ledger.seen
                seen.wrong = [app.redact(line) for line in seen.wrong]
                interrupted = stop.asked.is_set()
                lost, cut_off = bool(seen.wrong), rehearsal.ledger.cut_off
                deleted, left = await _clean_up(parts, stop, cut_off, keep=keep_task, lost=lost)
            left += rehearsal.living + ([] if lost else clear(home))
            left = [app.redact(line) for line in left]
            if lost:
                (home / "keep").touch()
            report = Report(settings, seed, size, len(planned), seen, interrupted, deleted, left, home)
            report.print(as_json=as_json, quiet=bool(trouble) and not lost)
            if trouble and not lost:
                raise trouble[0]
            for each in trouble:
                click.echo(f"syncd: {app.redact(told(each))}", err=True)
            return 1 if lost else 128 + stop.number if interrupted else 0


async def _clean_up(
    parts: Parts, stop: Stop, cut_off: Collection[str], *, keep: bool, lost: bool
) -> tuple[int, list[str]]:
    """Delete the task, unless it is to stay; what is left, a line each. A second signal ends it.

    `cut_off`: keys of uploads that may be unfinished. They end too, unless something was `lost`: then all stays as it is.
    """
    store, keys = parts.store, parts.keys
    kept = [f"the task {keys.task} is kept: syncd ls --task {keys.task}"]
    if lost:
        return 0, kept
    try:
        if keep:
            ended: list[str] | None = await race(end_uploads(store, keys, cut_off), stop.now)
            return 0, kept + (
                ["a second signal ended the tidying of its unfinished uploads"] if ended is None else ended
            )
        swept: tuple[int, list[str]] | None = await race(sweep(store, keys, cut_off), stop.now)
    except SyncdError as error:
        return 0, [f"the task {keys.task} is left in the store: {error}"]
    return swept or (0, [f"the task {keys.task} is left in the store: a second signal ended its deletion"])


def _directory(url: str) -> Path | None:
    """Where a `file:` store is; None for others."""
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def _print_plan(task: str, seed: int, planned: Sequence[Round], *, as_json: bool) -> int:
    if as_json:
        lines = [
            {"round": each.number, "fault": each.fault, "commits": each.commits, "failing_store": each.failing}
            for each in planned
        ]
        print_json({"dry_run": True, "task": task, "seed": seed, "plan": lines})
        return 0
    rows = [(each.number, each.fault, "failing" if each.failing else "", WHAT[each.fault]) for each in planned]
    click.echo(f"would make the task {task} and play {len(planned)} rounds; seed {seed}")
    print_table(("round", "fault", "store", "what"), rows)
    return 0


class Progress:
    """A line for each round that is over, on stderr: it takes minutes."""

    def __init__(self, rounds: int, app: App) -> None:
        self._rounds, self._app = rounds, app

    def __call__(self, played: Played) -> None:
        each = played.round
        store = " over a failing store" if each.failing and each.fault is not Fault.STORE_FAILING else ""
        began = "its start was cut off" if played.resumed is None else f"began at step {played.resumed}"
        click.echo(f"round {each.number}/{self._rounds} {each.fault}{store}: {began}, {played.seconds:.1f} s", err=True)
        for line in played.wrong:
            click.echo(f"  wrong: {self._app.redact(line)}", err=True)


class Report:
    """What is told at the end, to people and to programs."""

    def __init__(
        self,
        settings: Settings,
        seed: int,
        size: int,
        planned: int,
        seen: Seen,
        interrupted: bool,
        deleted: int,
        left: list[str],
        home: Path,
    ) -> None:
        self.settings, self.seed, self.size, self.planned, self.seen = settings, seed, size, planned, seen
        self.interrupted, self.deleted, self.left, self.home = interrupted, deleted, left, home

    def print(self, *, as_json: bool, quiet: bool) -> None:
        """`quiet`: an error is told as the only JSON document instead, and what is left on stderr."""
        if as_json:
            if not quiet:
                print_json(self.document())
            for text in self.left if quiet else ():
                click.echo(text, err=True)
            return
        self._print_table()
        for text in self._lines():
            click.echo(text)

    def document(self) -> dict[str, object]:
        """For --json."""
        seen = self.seen
        return {
            "task": self.settings.task,
            "store": without_query(self.settings.store),
            "seed": self.seed,
            "size": self.size,
            "rounds": len(seen.played),
            "planned": self.planned,
            "interrupted": self.interrupted,
            "finished": seen.finished,
            "faults": [self._fault(fault) for fault in Fault],
            "lives": seen.lives,
            "kills": seen.kills,
            "commits": seen.commits,
            "restores": seen.restores,
            "zombies_fenced": seen.fenced,
            "damages_survived": seen.survived,
            "store_away": seen.store_away,
            "seconds": {name: _seconds(each) for name, each in self._spreads().items()},
            "most_steps_lost": max(seen.lost_steps.values(), default=0),
            "lost": len(seen.wrong),
            "wrong": seen.wrong,
            "left": self.left,
            "evidence": str(self.home) if seen.wrong else None,
            "deleted": self.deleted,
        }

    def _fault(self, fault: Fault) -> dict[str, object]:
        played = [each for each in self.seen.played if each.round.fault is fault]
        return {
            "fault": fault,
            "rounds": len(played),
            "failing_store": sum(each.round.failing for each in played),
            "wrong": sum(bool(each.wrong) for each in played),
            "most_steps_lost": self.seen.lost_steps.get(fault, 0),
        }

    def _spreads(self) -> dict[str, Spread]:
        seen = self.seen
        return {
            "start": spread(seen.start_seconds),
            "restore": spread(seen.restore_seconds),
            "commit": spread(seen.commit_seconds),
        }

    def _print_table(self) -> None:
        rows = []
        for fault in Fault:
            of = self._fault(fault)
            if of["rounds"]:
                rows.append((fault, of["rounds"], of["failing_store"], of["most_steps_lost"], of["wrong"], WHAT[fault]))
        print_table(("fault", "rounds", "store failing", "steps lost", "wrong", "what"), rows)

    def _lines(self) -> list[str]:
        seen = self.seen
        ended = " (interrupted)" if self.interrupted else ""
        lines = [
            f"{len(seen.played)} of {self.planned} rounds{ended}, {seen.lives} lives, {seen.kills} kills;"
            f" {seen.commits} commits of {bytes_(self.size)}, {seen.restores} restores",
            f"overtaken nodes fenced: {seen.fenced}; damages survived: {seen.survived}; seed {self.seed}",
            "; ".join(
                f"{name}: {each.median:.2f} s, worst {each.worst:.2f} s" for name, each in self._spreads().items()
            ),
            f"steps done again after a fault: {max(seen.lost_steps.values(), default=0)} at most"
            f" (each takes {PAUSE:g} s and is saved)",
            *self.left,
            *(f"lost: {text}" for text in seen.wrong),
        ]
        if seen.wrong:
            lines.append(f"lost: {len(seen.wrong)} things; disks and logs are in {self.home}")
        else:
            lines.append("lost: 0" + ("" if seen.finished else " till then; the task did not come to its end"))
        return lines


def _seconds(each: Spread) -> dict[str, float]:
    return {"median": round(each.median, 3), "worst": round(each.worst, 3)}
