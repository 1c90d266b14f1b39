"""Committing without a daemon: one named checkpoint (`push`), or all that is complete (`sidecar --once`)."""

import asyncio
import logging
import time
from dataclasses import replace

import click

from syncd.cli.compose import Parts, new_keeper
from syncd.cli.output import print_json
from syncd.errors import ConfigError, Superseded, UsageError
from syncd.keeper import Keeper
from syncd.local.completion import State
from syncd.local.lock import locked
from syncd.local.scan import Seen
from syncd.local.trouble import OWN_DISK, RIGHTS, said
from syncd.model.checkpoint import Committed
from syncd.move.own import refuse_beside_another
from syncd.move.start import AlreadyDone

log = logging.getLogger("syncd")


async def push_complete(parts: Parts, name: str | None, *, as_json: bool, dry_run: bool, force: bool) -> int:
    """Commit the checkpoint `name`, or all that are complete (None), oldest first; print what was done; 0.

    Raises `UsageError` for a name that is not there or not complete (unless `force`), beside a daemon, or while another
    node is at work; `ConfigError` where the root's disk refuses.
    """

    def say(event: str, /, **fields: object) -> None:
        log.info(event, extra={"fields": fields})

    keeper = new_keeper(parts, say)
    keeper.root.place.make()
    try:
        with locked(parts.settings.root):
            keeper.root.place.clear()
            chosen = await _chosen(keeper, name, force=force, quiet=parts.settings.quiet)
            if dry_run:
                return _would(chosen, as_json=as_json)
            committed = await _commit(parts, keeper, chosen, force=force) if chosen else []
    except OSError as error:
        if error.errno not in OWN_DISK | RIGHTS:
            raise
        raise ConfigError(said(error, parts.settings.root)) from None
    attempt = keeper.owner.attempt if keeper.owner else None
    if as_json:
        lines = [_line(found) for found in committed]
        await asyncio.to_thread(print_json, {"task": parts.keys.task, "attempt": attempt, "committed": lines})
        return 0
    for found in committed:
        click.echo(f"committed {found.item} ({found.manifest.bytes} bytes)")
    if not committed:
        click.echo(
            "nothing to push: it is stored already, or older than the newest commit (--force)"
            if chosen
            else "nothing is complete"
        )
    return 0


async def _chosen(keeper: Keeper, name: str | None, *, force: bool, quiet: float) -> list[Seen]:
    seen = await keeper.root.scan()
    if name is None:
        waiting = [each for each in seen if each.verdict.state is State.QUIET]
        if waiting:  # without a marker only stillness tells that nobody writes
            await asyncio.sleep(quiet)
        again = {each.name: each for each in await keeper.root.scan()} if waiting else {}
        return [
            each
            for each in seen
            if each.complete()
            or (each in waiting and each.name in again and again[each.name].fingerprint == each.fingerprint)
        ]
    found = next((each for each in seen if each.name == name), None)
    if found is None and not force:
        raise UsageError(
            f"{name}: no completion rule takes it for a checkpoint (no _SUCCESS?); --force pushes it as it is"
        )
    if found and not found.complete(writer_gone=True) and not force:
        raise UsageError(f"{name} is not complete: {found.verdict.reason}; --force pushes it as it is")
    return [found or keeper.root.as_is(name)]


def _would(chosen: list[Seen], *, as_json: bool) -> int:
    if as_json:
        print_json({"dry_run": True, "would_push": [{"name": each.name, "bytes": each.bytes} for each in chosen]})
    for each in chosen if not as_json else ():
        click.echo(f"would push {each.name} ({each.bytes} bytes, {len(each.files)} files)")
    return 0


async def _commit(parts: Parts, keeper: Keeper, chosen: list[Seen], *, force: bool) -> list[Committed]:
    try:
        await keeper.adopt(lambda: refuse_beside_another(parts.store, parts.keys, time.time(), "push"))
    except Superseded as error:
        raise UsageError(str(error)) from None
    except AlreadyDone:
        raise UsageError(f"{parts.keys.task} is done: nothing is added to it; 'syncd reset' gives it up") from None
    keeper.backlog = len(chosen) + 1
    committed = []
    for seen in chosen:
        if keeper.root.known.get(seen.name) == seen.fingerprint and not force:
            continue
        pin = await keeper.root.pin(replace(seen, rule=seen.rule or "by hand"))
        if pin is None:
            raise UsageError(f"{seen.name} cannot be pushed: see above")
    while keeper.root.waiting:
        if found := await keeper.push_next():
            committed.append(found)
            try:
                await keeper.clean_up()
            except (Superseded, AlreadyDone) as error:
                log.warning("not_cleaned_up", extra={"fields": {"why": str(error) or "the task is done"}})
    return committed


def _line(found: Committed) -> dict[str, object]:
    manifest = found.manifest
    return {
        "name": manifest.name,
        "commit": manifest.commit,
        "number": manifest.number,
        "step": manifest.step,
        "bytes": manifest.bytes,
    }
