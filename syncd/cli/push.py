"""`syncd push DIR`: commit one finished checkpoint by hand."""

import asyncio
from pathlib import Path

import click

from syncd.cli import App
from syncd.cli.compose import opened
from syncd.cli.once import push_complete
from syncd.cli.options import verb
from syncd.config import Settings
from syncd.errors import UsageError
from syncd.local.lock import lock_holder
from syncd.local.tree import OWN


@verb(
    examples="""
    syncd push out/checkpoint-400
    syncd push out/checkpoint-400 --store s3://bucket/runs --task llama-7b
    syncd push out/my-model --force --dry-run
    """
)
@click.option("--force", is_flag=True, help="Push it although no completion rule takes it for complete.")
@click.option("--dry-run", is_flag=True, help="Say what would be pushed; change nothing.")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.pass_obj
def command(app: App, settings: Settings, as_json: bool, directory: Path, force: bool, dry_run: bool) -> int:
    """Commit the checkpoint DIR under the task, as the newest, and exit.

    Refused beside a daemon on the same root (it pushes it by itself), and while another node is at work on the task.
    Goes on with the attempt that this disk belongs to; else claims a new one. DIR outside of SYNCD_ROOT: its parent
    is taken for the root.

    --json: {"version": 1, "task", "attempt", "committed": [{"name", "commit", "number", "step", "bytes"}]}
    """
    path = directory.expanduser().absolute()
    try:
        if not path.is_dir() or path.is_symlink():
            raise UsageError(f"{directory} is no directory; name a finished checkpoint")
        path = path.resolve()
    except OSError as error:
        raise UsageError(f"{directory}: {error.strerror}; name a finished checkpoint that this user may read") from None
    if not path.is_relative_to(settings.root) or path == settings.root:
        settings = settings.model_copy(update={"root": path.parent})
    elif not (settings.root / OWN).is_dir():
        # A root between here and DIR that has a daemon's own directory is the one whose attempt this belongs to.
        nearer = [each for each in path.parents if each.is_relative_to(settings.root) and (each / OWN).is_dir()]
        settings = settings.model_copy(update={"root": nearer[0] if nearer else settings.root})
    holder = lock_holder(settings.root)
    if holder:
        raise UsageError(f"syncd ({holder}) is at work on {settings.root} and pushes what is complete by itself")
    name = path.relative_to(settings.root).as_posix()
    return asyncio.run(_run(app, settings, name, as_json=as_json, dry_run=dry_run, force=force))


async def _run(app: App, settings: Settings, name: str, *, as_json: bool, dry_run: bool, force: bool) -> int:
    async with opened(settings, app.plugins) as parts:
        return await push_complete(parts, name, as_json=as_json, dry_run=dry_run, force=force)
