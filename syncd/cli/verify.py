"""`syncd verify`: check the invariants of the stored task. Only reads."""

import asyncio

import click

from syncd.cli import App
from syncd.cli.compose import opened
from syncd.cli.options import verb
from syncd.cli.output import print_json
from syncd.cli.words import bytes_
from syncd.config import Settings
from syncd.move.audit import audit


@verb(
    examples="""
    syncd verify
    syncd verify --deep --store s3://bucket/runs --task llama-7b
    """
)
@click.option("--deep", is_flag=True, help="Read every byte and compare it with its sum; else sizes only.")
@click.pass_obj
def command(app: App, settings: Settings, as_json: bool, deep: bool) -> int:
    """Check that everything committed is stored whole, and that claims, records and manifests make sense.

    Exit code 1 when something is wrong: each problem in one line. Notes are harmless.

    --json: {"version": 1, "task", "deep", "clean", "checkpoints", "bytes", "problems": [text], "notes": [text]}
    """
    return asyncio.run(_run(app, settings, as_json=as_json, deep=deep))


async def _run(app: App, settings: Settings, *, as_json: bool, deep: bool) -> int:
    async with opened(settings, app.plugins) as parts:
        found = await audit(parts.store, parts.keys, deep=deep, gate=parts.budget.unpaced)
    if as_json:
        document = {
            "task": parts.keys.task,
            "deep": deep,
            "clean": found.clean,
            "checkpoints": found.checkpoints,
            "bytes": found.bytes,
            "problems": found.problems,
            "notes": found.notes,
        }
        await asyncio.to_thread(print_json, document)
    else:
        for text in found.problems:
            click.echo(f"problem: {text}")
        for text in found.notes:
            click.echo(f"note: {text}")
        said = "every byte" if deep else "sizes (--deep compares every byte)"
        verdict = "nothing wrong" if found.clean else f"{len(found.problems)} problems"
        click.echo(
            f"{parts.keys.task}: {found.checkpoints} checkpoints, {bytes_(found.bytes)}, {said} checked: {verdict}"
        )
    return 0 if found.clean else 1
