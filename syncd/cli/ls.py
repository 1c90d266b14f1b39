"""`syncd ls`: the committed checkpoints of a task. Only reads."""

import asyncio

import click

from syncd.cli import App
from syncd.cli.compose import opened
from syncd.cli.options import verb
from syncd.cli.output import print_json, print_table
from syncd.cli.words import bytes_, when
from syncd.config import Settings
from syncd.model.attempt import LineItem
from syncd.model.checkpoint import Committed
from syncd.model.names import is_final
from syncd.move.overview import TaskView, present_line, read_task


@verb(
    examples="""
    syncd ls
    syncd ls --store s3://bucket/runs --task llama-7b --json
    """
)
@click.pass_obj
def command(app: App, settings: Settings, as_json: bool) -> int:
    """List the task's commits, newest first, and say which one a new node would resume.

    `line` is the place among those that a new node tries, 1 first; a commit without one is restored by nobody.

    --json: {"version": 1, "task", "done", "checkpoints": [{"attempt", "commit", "name", "number", "step", "bytes",
    "files", "time", "line", "final", "kept"}], "damaged": [{"key", "why"}]}
    """
    return asyncio.run(_run(app, settings, as_json=as_json))


async def _run(app: App, settings: Settings, *, as_json: bool) -> int:
    async with opened(settings, app.plugins) as parts:
        view = await read_task(parts.store, parts.keys)
        order = {found.item: n for n, found in enumerate(await present_line(parts.store, view), 1)}
    commits = sorted(view.commits.values(), key=lambda found: (found.attempt, found.manifest.number), reverse=True)
    lines = [_line(found, order.get(found.item)) for found in commits]
    damaged = [{"key": key, "why": why} for key, why in view.damaged]
    if as_json:
        document = {"task": view.keys.task, "done": view.done is not None, "checkpoints": lines, "damaged": damaged}
        await asyncio.to_thread(print_json, document)
        return 0
    _print(view, commits, order)
    return 0


def _line(found: Committed, place: int | None) -> dict[str, object]:
    manifest = found.manifest
    return {
        "attempt": manifest.attempt,
        "commit": manifest.commit,
        "name": manifest.name,
        "number": manifest.number,
        "step": manifest.step,
        "bytes": manifest.bytes,
        "files": len(manifest.files),
        "time": manifest.time,
        "line": place,
        "final": is_final(manifest.commit),
        "kept": manifest.kept,
    }


def _print(view: TaskView, commits: list[Committed], order: dict[LineItem, int]) -> None:
    rows = []
    for found in commits:
        manifest = found.manifest
        place = order.get(found.item)
        use = (
            "final model"
            if is_final(manifest.commit)
            else "resumed next"
            if place == 1
            else f"fallback {place}"
            if place
            else "-"
        )
        rows.append(
            (manifest.attempt, manifest.commit, manifest.step, bytes_(manifest.bytes), when(manifest.time), use)
        )
    if rows:
        print_table(("attempt", "checkpoint", "step", "size", "saved", "use"), rows)
    else:
        click.echo(f"{view.keys.task}: no checkpoint is committed")
    if view.done:
        click.echo(f"done: {view.done.result}")
    for key, why in view.damaged:
        click.echo(f"damaged: {key}: {why}")
