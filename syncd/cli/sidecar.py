"""`syncd sidecar`: care for a trainer in another container, on the same volume."""

import asyncio
import os

import click

from syncd.cli import App
from syncd.cli.compose import new_daemon, opened
from syncd.cli.dry import show_start
from syncd.cli.once import push_complete
from syncd.cli.options import verb
from syncd.cli.output import print_json
from syncd.config import Settings


@verb(
    examples="""
    syncd sidecar --store s3://bucket/runs --root /checkpoints
    syncd sidecar --once --root out      # push what is complete now, and exit
    in the trainer's container: /checkpoints/.syncd/bin/with-syncd python train.py
    """
)
@click.option("--once", is_flag=True, help="Push what is complete now, then exit.")
@click.option("--dry-run", is_flag=True, help="Say what would be done; change nothing.")
@click.pass_obj
def command(app: App, settings: Settings, as_json: bool, once: bool, dry_run: bool) -> int:
    """Restore, write .syncd/ready.json, push what the other container's trainer saves, order its stop and restart.

    The trainer's command there becomes `with-syncd CMD…`; without it, its end is told by finished.json.

    --json, at the end: {"version": 1, "exit_code", "task", "attempt", "durable", "durable_step", "state"};
    with --once: {"version": 1, "task", "attempt", "committed": [{"name", "commit", "number", "step", "bytes"}]}
    """
    return asyncio.run(_run(app, settings, as_json=as_json, once=once, dry_run=dry_run))


async def _run(app: App, settings: Settings, *, as_json: bool, once: bool, dry_run: bool) -> int:
    async with opened(settings, app.plugins, patience=30.0 if dry_run else None) as parts:
        if once:
            return await push_complete(parts, None, as_json=as_json, dry_run=dry_run, force=False)
        if dry_run:
            return await show_start(parts, "the trainer in the other container", as_json=as_json)
        daemon = new_daemon(parts, None, os.environ)
        code = await daemon.run()
        if as_json:
            print_json(daemon.outcome(code))
        return code
