"""`syncd run -- CMD…`: care for a trainer that is our child."""

import asyncio
import os

import click

from syncd.cli import App
from syncd.cli.compose import new_daemon, opened
from syncd.cli.dry import show_start
from syncd.cli.options import verb
from syncd.cli.output import print_json
from syncd.config import Settings
from syncd.errors import UsageError
from syncd.trainer_care.child import check_command


@verb(
    examples="""
    syncd run -- python train.py --output_dir out
    SYNCD_STORE=s3://bucket/runs SYNCD_ROOT=out syncd run -- python train.py
    syncd run --store file:///mnt/ckpt --task llama-7b --keep 5 -- torchrun --nproc-per-node 8 train.py
    syncd run --dry-run -- python train.py
    """
)
@click.option("--dry-run", is_flag=True, help="Say what would be restored and started; change nothing.")
@click.argument("command_line", metavar="-- CMD…", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def command(app: App, settings: Settings, as_json: bool, dry_run: bool, command_line: tuple[str, ...]) -> int:
    """Restore the newest checkpoint, start CMD, push what it saves, start it again when it fails or hangs.

    CMD finds the directory to write into in SYNCD_ROOT. On SIGTERM or SIGUSR1 it gets SIGTERM and time to save
    (SYNCD_GRACE), the newest checkpoint is pushed, and syncd ends with 75; a second signal ends it at once.

    Exit codes: 0 done · 64 usage · 75 left, go on elsewhere · 76 failed too often without progress · 77 superseded ·
    78 configuration · 128+n a second signal.

    --json, at the end: {"version": 1, "exit_code", "task", "attempt", "durable", "durable_step", "state"}
    """
    if not command_line:
        raise UsageError("what is to be run? For example: syncd run -- python train.py")
    check_command(command_line, os.environ)
    return asyncio.run(_run(app, settings, command_line, as_json=as_json, dry_run=dry_run))


async def _run(app: App, settings: Settings, command_line: tuple[str, ...], *, as_json: bool, dry_run: bool) -> int:
    async with opened(settings, app.plugins, patience=30.0 if dry_run else None) as parts:
        if dry_run:
            return await show_start(parts, " ".join(command_line), as_json=as_json)
        daemon = new_daemon(parts, command_line, os.environ)
        code = await daemon.run()
        if as_json:
            print_json(daemon.outcome(code))
        return code
