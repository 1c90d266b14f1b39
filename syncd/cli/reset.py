"""`syncd reset`: give a task up, so that the next start is from zero."""

import asyncio
import sys
import time

import click

from syncd.cli import App
from syncd.cli.compose import opened
from syncd.cli.deleting import delete_all
from syncd.cli.options import verb
from syncd.config import Settings
from syncd.errors import UsageError
from syncd.move.objects import standing
from syncd.move.own import plan_reset, refuse_beside_a_result, refuse_beside_another, refuse_without_delete, reset


@verb(
    examples="""
    syncd reset --dry-run
    syncd reset --confirm llama-7b --task llama-7b --store s3://bucket/runs
    """
)
@click.option(
    "--confirm", metavar="TASK", help="The task's name: yes, delete all of its checkpoints. Else it is asked."
)
@click.option("--gone", is_flag=True, help="A node that was about to name its result, and did not, is gone for good.")
@click.option("--dry-run", is_flag=True, help="List what would be deleted; change nothing.")
@click.pass_obj
def command(app: App, settings: Settings, as_json: bool, confirm: str | None, gone: bool, dry_run: bool) -> int:
    """Delete the task's checkpoints and its result; the next start is from zero. Claims and records stay.

    Refused while another node's heartbeat is fresh, and where one was about to name the task's result (--gone).

    --json: {"version": 1, "task", "dry_run", "deleted": [{"key", "why"}]}
    """
    if not dry_run and confirm is None:
        if not sys.stdin.isatty():
            raise UsageError(f"reset deletes all checkpoints of {settings.task}; to confirm: --confirm {settings.task}")
        confirm = click.prompt(f"This deletes all checkpoints of {settings.task}. Its name, to confirm", err=True)
    if not dry_run and confirm != settings.task:
        raise UsageError(f"the task is called {settings.task!r}, not {confirm!r}; nothing was deleted")
    return asyncio.run(_run(app, settings, as_json=as_json, gone=gone, dry_run=dry_run))


async def _run(app: App, settings: Settings, *, as_json: bool, gone: bool, dry_run: bool) -> int:
    async with opened(settings, app.plugins) as parts:
        await refuse_beside_another(parts.store, parts.keys, time.time(), "reset")
        if not gone:
            await refuse_beside_a_result(parts.store, parts.keys)
        if dry_run:
            steps = await plan_reset(parts.store, parts.keys, (await standing(parts.store, parts.keys)).newest)
        else:
            await refuse_without_delete(parts.store, parts.keys, "reset")
            steps = await reset(
                parts.store,
                parts.keys,
                node=settings.node,
                now=time.time(),
                single_writer=settings.single_writer,
                gone=gone,
            )
        return await delete_all(parts, steps, as_json=as_json, dry_run=dry_run)
