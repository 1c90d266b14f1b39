"""Carrying out, or only showing, a list of deletions."""

import asyncio

import click

from syncd.cli.compose import Parts
from syncd.cli.output import print_json
from syncd.decide.retain import Delete
from syncd.move.retain import carry_out


async def delete_all(parts: Parts, steps: list[Delete], *, as_json: bool, dry_run: bool) -> int:
    """Delete in the order of the list (manifests before files), and say what was deleted; 0."""
    if not dry_run:
        await carry_out(parts.store, steps)
    if as_json:
        lines = [{"key": step.key, "why": step.why} for step in steps]
        await asyncio.to_thread(print_json, {"task": parts.keys.task, "dry_run": dry_run, "deleted": lines})
        return 0
    for step in steps:
        click.echo(f"{'would delete' if dry_run else 'deleted'} {step.key} ({step.why})")
    if not steps:
        click.echo("nothing to delete")
    return 0
