"""`syncd restore`: fetch a checkpoint. Only reads the store."""

import asyncio
from pathlib import Path

import click

from syncd.cli import App
from syncd.cli.compose import Parts, opened
from syncd.cli.options import verb
from syncd.cli.output import print_json
from syncd.config import Settings
from syncd.errors import ConfigError, Corrupt, NotFound, UsageError
from syncd.local.lock import lock_holder, locked
from syncd.local.place import Place
from syncd.model.attempt import LineItem
from syncd.model.checkpoint import Committed
from syncd.model.keys import attempt_name
from syncd.model.names import FINAL, is_final
from syncd.move.objects import read_item
from syncd.move.overview import TaskView, present_line, read_task
from syncd.move.restore import fetch

INSTEAD = "restore another one by its name (syncd ls), or give the task up with syncd reset"


@verb(
    examples="""
    syncd restore                         # the newest good checkpoint, into SYNCD_ROOT
    syncd restore checkpoint-400 --to /tmp/look
    syncd restore attempt-0002/checkpoint-400
    syncd restore final --store s3://bucket/runs --task llama-7b --to .
    """
)
@click.option("--to", "to", type=click.Path(path_type=Path), help="Directory to put it into. [default: SYNCD_ROOT]")
@click.option("--dry-run", is_flag=True, help="Say what would be fetched; change nothing.")
@click.argument("name", required=False)
@click.pass_obj
def command(app: App, settings: Settings, as_json: bool, name: str | None, to: Path | None, dry_run: bool) -> int:
    """Fetch the newest checkpoint that is whole, or the one called NAME, and verify every byte.

    Without NAME damaged ones are passed over, with a warning for each. A directory of the same name that is there
    already is moved into .syncd/quarantine, unless it is the same byte for byte. Never claims anything.

    --json: {"version": 1, "checkpoint", "commit", "step", "bytes", "path", "skipped": [text]}
    """
    target = (to or settings.root).expanduser().resolve()
    if to and not dry_run:  # a place that is asked for is made; a wrong SYNCD_ROOT stays an error
        try:
            target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--to {to}: {error.strerror}; name a directory that you may write") from None
    if holder := lock_holder(target):
        raise UsageError(f"syncd ({holder}) is at work on {target}; restore to another directory with --to")
    return asyncio.run(_run(app, settings, name, target, as_json=as_json, dry_run=dry_run))


async def _run(app: App, settings: Settings, name: str | None, to: Path, *, as_json: bool, dry_run: bool) -> int:
    async with opened(settings, app.plugins) as parts:
        view = await read_task(parts.store, parts.keys)
        wanted = await _wanted(parts, view, name)
        if dry_run:
            found = wanted[0]
            document = {
                "dry_run": True,
                "checkpoint": found.manifest.name,
                "commit": str(found.item),
                "bytes": found.manifest.bytes,
            }
            if as_json:
                print_json(document)
            else:
                click.echo(f"would fetch {found.item} ({found.manifest.bytes} bytes) into {to}")
            return 0
        place = Place(to, settings.disk_reserve if isinstance(settings.disk_reserve, int) else 0)
        place.make()
        skipped: list[str] = []
        with locked(to):
            for found in wanted:
                try:
                    path = await fetch(parts.store, parts.keys, found, place, parts.budget.unpaced)
                except (NotFound, Corrupt) as error:
                    skipped.append(str(error))
                    click.echo(f"syncd: {found.item} is damaged: {error}", err=True)
                    continue
                _print(found, path, skipped, as_json=as_json)
                return 0
        raise ConfigError(f"no checkpoint of {parts.keys.task} is whole: {'; '.join(skipped)}")


async def _wanted(parts: Parts, view: TaskView, name: str | None) -> list[Committed]:
    """What to try, newest first. Raises `UsageError` for a name that nobody committed."""
    line = await present_line(parts.store, view)
    if name is None:
        if line:
            return line
        if view.done:
            return [await _result(parts, view.done.item(parts.keys.done))]
        raise UsageError(f"{parts.keys.task}: there is no checkpoint in {parts.settings.store}; see 'syncd ls'")
    if view.done and is_final(name):
        result = view.done.item(parts.keys.done)
        if name == result.commit or (name == FINAL and is_final(result.commit)):  # not another's, where it is damaged
            return [await _result(parts, result)]
    commits = sorted(view.commits.values(), key=lambda found: (found.attempt, found.manifest.number), reverse=True)
    named = [
        found for found in commits if name in (found.manifest.name, found.commit, str(found.item).split(" ", 1)[0])
    ]
    first = [found for found in named if found in line or is_final(found.commit)] or named
    if not first:
        for attempt in view.attempts:
            for key, why in attempt.damaged:
                commit = parts.keys.commit_of(attempt.number, key)
                if commit is not None and name in (commit, f"{attempt_name(attempt.number)}/{commit}"):
                    raise ConfigError(f"{key}: {why}; {INSTEAD}")
        known = ", ".join(dict.fromkeys(found.manifest.name for found in commits)) or "none"
        raise UsageError(f"{parts.keys.task} has no checkpoint called {name!r}; there are: {known}")
    return first[:1]


async def _result(parts: Parts, item: LineItem) -> Committed:
    """What done.json names. Raises `ConfigError` where it cannot be read."""
    try:
        return await read_item(parts.store, parts.keys, item)
    except (NotFound, Corrupt) as error:
        raise ConfigError(f"the result of {parts.keys.task} cannot be read: {error}; {INSTEAD}") from None


def _print(found: Committed, path: Path, skipped: list[str], *, as_json: bool) -> None:
    manifest = found.manifest
    if as_json:
        print_json(
            {
                "checkpoint": manifest.name,
                "commit": str(found.item),
                "step": manifest.step,
                "bytes": manifest.bytes,
                "path": str(path),
                "skipped": skipped,
            }
        )
    else:
        click.echo(f"restored {found.item} ({manifest.bytes} bytes, {len(manifest.files)} files) to {path}")
