"""What `run` and `sidecar` would do, without doing it."""

import asyncio

import click

from syncd.cli.compose import Parts, new_keeper
from syncd.cli.output import print_json
from syncd.local.lock import identity
from syncd.local.tree import OWN
from syncd.move import disk
from syncd.move.overview import present_line, read_task


async def show_start(parts: Parts, what: str, *, as_json: bool) -> int:
    """Read disk and store, say what a start would do. Returns 0."""
    root = parts.settings.root
    view = await read_task(parts.store, parts.keys)
    line = await present_line(parts.store, view)
    resume = line[0] if line else None
    how = "the task is done: nothing would be started" if view.done else "claim a new attempt"
    local = None
    if not view.done and (root / OWN).is_dir():
        found = await disk.resolve(parts.store, parts.keys, parts.settings.store, disk.read_note(root), identity(root))
        if isinstance(found, disk.GoOn):
            how = f"go on with attempt {found.owner.attempt}: same disk, same attempt"
            newest = await new_keeper(parts, lambda event, /, **fields: None).root.newest(writer_gone=True)
            local = newest.name if newest else None
        elif isinstance(found, disk.Overtaken):
            how = f"attempt {found.newest} has taken over from this disk's attempt {found.attempt}: exit 77"
    document = {
        "dry_run": True,
        "plan": how,
        "resume": local or (resume.manifest.name if resume else None),
        "resume_step": resume.manifest.step if resume else None,
        "resume_bytes": resume.manifest.bytes if resume else 0,
        "start": what,
    }
    if as_json:
        await asyncio.to_thread(print_json, document)
        return 0
    click.echo(f"would {how}" if not view.done else how)
    if not view.done:
        click.echo(f"would resume {local} (it is on this disk)" if local else _resume(resume))
        click.echo(f"would start {what}")
    return 0


def _resume(resume: object) -> str:
    from syncd.model.checkpoint import Committed

    if not isinstance(resume, Committed):
        return "would start from zero: there is no checkpoint"
    manifest = resume.manifest
    return f"would restore {manifest.name} ({manifest.bytes} bytes, {len(manifest.files)} files) of attempt {manifest.attempt}"
