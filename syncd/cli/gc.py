"""`syncd gc`: delete from the store what no line needs."""

import asyncio
import time
from functools import partial

import click

from syncd.cli import App
from syncd.cli.compose import opened
from syncd.cli.deleting import delete_all
from syncd.cli.options import verb
from syncd.cli.output import print_json
from syncd.config import Settings
from syncd.decide.retain import group, lowest_of, plan_retention
from syncd.move import retain
from syncd.move.close import newest_ended
from syncd.move.overview import read_task
from syncd.move.own import own, plan_gc, refuse_beside_another, refuse_without_delete
from syncd.move.start import AlreadyDone


@verb(
    examples="""
    syncd gc --dry-run
    syncd gc --keep 2 --store s3://bucket/runs --task llama-7b
    """
)
@click.option("--dry-run", is_flag=True, help="List what would be deleted; change nothing.")
@click.pass_obj
def command(app: App, settings: Settings, as_json: bool, dry_run: bool) -> int:
    """Delete checkpoints beyond SYNCD_KEEP, uploads that ended early, and late commits of overtaken nodes.

    Refused while another node's heartbeat is fresh; else an attempt is claimed, so that by the rules we are the owner.
    A task that is done is left as it is: 'syncd reset' gives it up.

    --json: {"version": 1, "task", "dry_run", "deleted": [{"key", "why"}]}
    """
    return asyncio.run(_run(app, settings, as_json=as_json, dry_run=dry_run))


async def _run(app: App, settings: Settings, *, as_json: bool, dry_run: bool) -> int:
    async with opened(settings, app.plugins) as parts:
        store, keys = parts.store, parts.keys
        view = await read_task(store, keys)
        if view.done or not view.attempts:
            said = "is done: nothing is deleted; 'syncd reset' gives it up" if view.done else "has nothing in the store"
            if as_json:
                print_json({"task": keys.task, "dry_run": dry_run, "deleted": []})
            else:
                click.echo(f"{keys.task} {said}")
            return 0
        await refuse_beside_another(store, keys, time.time(), "gc")
        if dry_run:
            listing = [entry.key for entry in await store.list(keys.top)]
            found = group(keys, listing)
            marked = retain.marks(keys, found, listing)
            marked |= {(item.attempt, item.commit) for item, each in view.commits.items() if each.manifest.kept}
            numbers = [attempt.number for attempt in view.attempts]
            plan = partial(plan_retention, numbers[-1] + 1, found, view.line, settings.keep, marked)
            lowest = lowest_of(keys, plan()) or numbers[-1] + 1
            steps = plan(await newest_ended(store, keys, [number for number in numbers if number >= lowest]))
        else:
            await refuse_without_delete(store, keys, "gc")
            try:
                owner, started = await own(
                    store,
                    keys,
                    node=settings.node,
                    now=time.time(),
                    gate=parts.budget,
                    single_writer=settings.single_writer,
                )
                steps = await plan_gc(store, owner, started, settings.keep)
            except AlreadyDone:
                steps = []
        return await delete_all(parts, steps, as_json=as_json, dry_run=dry_run)
