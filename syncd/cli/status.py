"""`syncd status`: what the task is doing, and what is durable. Only reads."""

import asyncio
import time

import click

from syncd.cli import App
from syncd.cli.compose import Parts, opened
from syncd.cli.options import verb
from syncd.cli.output import print_json, print_table
from syncd.cli.words import ago, bytes_
from syncd.config import Settings
from syncd.errors import Corrupt
from syncd.local.files import read_small
from syncd.local.lock import lock_holder
from syncd.local.tree import OWN
from syncd.model import canonical
from syncd.model.heartbeat import HeartbeatBody, fresh
from syncd.move.objects import read_heartbeat
from syncd.move.overview import TaskView, present_line, read_task


@verb(
    examples="""
    syncd status
    syncd status --store s3://bucket/runs --task llama-7b --json
    """
)
@click.pass_obj
def command(app: App, settings: Settings, as_json: bool) -> int:
    """Show the task's state, its newest attempt and what is durable, as the store tells it; and the daemon here.

    `state`: none (nothing was ever claimed) · done · silent (no fresh heartbeat) · or what the newest heartbeat says.

    --json: {"version": 1, "task", "state", "attempt", "attempts", "node", "heartbeat", "durable", "durable_step",
    "durable_bytes", "checkpoints", "done", "local"}
    """
    return asyncio.run(_run(app, settings, as_json=as_json))


async def _run(app: App, settings: Settings, *, as_json: bool) -> int:
    async with opened(settings, app.plugins) as parts:
        document = await _document(parts)
    if as_json:
        await asyncio.to_thread(print_json, document)
    else:
        _print(document)
    return 0


async def _document(parts: Parts) -> dict[str, object]:
    view = await read_task(parts.store, parts.keys)
    line = await present_line(parts.store, view)
    newest = view.newest
    beat = await read_heartbeat(parts.store, parts.keys, newest.number) if newest else None
    durable = line[0].manifest if line else None
    return {
        "task": view.keys.task,
        "state": _state(view, beat),
        "attempt": newest.number if newest else None,
        "attempts": len(view.attempts),
        "node": newest.claim.node if newest and newest.claim else None,
        "heartbeat": canonical.builtins(beat) if beat else None,
        "durable": durable.name if durable else None,
        "durable_step": durable.step if durable else None,
        "durable_bytes": durable.bytes if durable else 0,
        "checkpoints": len(line),
        "done": canonical.builtins(view.done) if view.done else None,
        "local": _local(parts.settings),
    }


def _state(view: TaskView, beat: HeartbeatBody | None) -> str:
    if view.done:
        return "done"
    if not view.newest:
        return "none"
    return beat.state if beat and fresh(beat, time.time()) else "silent"


def _local(settings: Settings) -> dict[str, object] | None:
    """status.json of the daemon at work on the root, None where there is none."""
    if not lock_holder(settings.root):
        return None
    data = read_small(settings.root / OWN / "status.json")
    try:
        return canonical.decode(data, dict, "status.json") if data else None
    except Corrupt:  # being replaced by another version's daemon, or damaged: the store's word is shown all the same
        return None


def _transfers(local: dict[str, object]) -> str:
    """How many at once, by which path, how fast: what the daemon here says of its uploads."""
    said = [f"{local.get('transfers_at_once')} at once"]
    if path := local.get("store_path"):
        said.append(f"{path} path")
    rate = local.get("upload_bytes_per_second")
    if rate and isinstance(rate, int):
        said.append(f"{bytes_(rate)} a second")
    return ", ".join(said)


def _print(document: dict[str, object]) -> None:
    beat = document["heartbeat"]
    rows = [("task", document["task"]), ("state", document["state"])]
    if document["attempt"]:
        rows.append(("attempt", f"{document['attempt']} on {document['node']}"))
    if document["durable"]:
        size = int(str(document["durable_bytes"]))
        rows.append(("durable", f"{document['durable']} ({bytes_(size)}); {document['checkpoints']} in the line"))
    else:
        rows.append(("durable", "nothing yet"))
    if isinstance(beat, dict):
        rows.append(("heartbeat", f"{ago(time.time() - float(beat['time']))} ago, step {beat.get('step')}"))
        if beat.get("store_error"):
            rows.append(("store", f"away: {beat['store_error']}"))
    local = document["local"]
    if isinstance(local, dict):
        named = local.get("waiting")
        waiting = [str(each) for each in (local.get("uploading"), *(named if isinstance(named, list) else ())) if each]
        rows.append(("this machine", f"{local.get('state')}; uploading: {', '.join(waiting) or 'nothing'}"))
        rows.append(("transfers", _transfers(local)))
    print_table(("what", "is"), rows)
    if not document["attempt"]:
        click.echo("Nothing was ever started under this task; 'syncd run -- CMD' does.")
