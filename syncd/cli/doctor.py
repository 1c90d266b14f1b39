"""`syncd doctor`: what the store, the disk and the link can do, and what will be done without."""

import asyncio
import secrets
import signal
from collections.abc import AsyncIterator, Iterator

import click

from syncd.cli import App
from syncd.cli.compose import Parts, opened
from syncd.cli.options import Size, verb
from syncd.cli.output import print_json
from syncd.cli.words import bytes_, without_query
from syncd.config import Settings
from syncd.decide.doctor import Judged, exit_code, judge, verdict
from syncd.errors import ConfigError
from syncd.local import ground
from syncd.local.digest import FAST, new_seal
from syncd.model.answer import Answer
from syncd.move.doctor import Doctor

PATIENCE = 10.0
"""Seconds that one question waits for a store that does not answer."""
MEASURED = 4.0
"""Seconds' worth of SYNCD_UPLOAD_LIMIT that a measurement may send."""
_MARKS = {"yes": ("yes", "green"), "note": ("no", "yellow"), "no": ("NO", "red"), "unknown": ("?", "cyan")}


@verb(
    needs_task=False,
    examples="""
    syncd doctor --store s3://bucket/runs --root out
    SYNCD_STORE=s3://bucket/runs syncd doctor --bytes 256MiB
    syncd doctor --bytes 0 --json
    """,
)
@click.option(
    "--bytes", "most", type=Size(), default="32MiB", show_default=True, metavar="SIZE",
    help="Bytes to measure the link by, at most, each way; 0: not. Under 17MiB no upload of several parts is tried.",
)  # fmt: skip
@click.pass_obj
def command(app: App, settings: Settings, as_json: bool, most: int) -> int:
    """Ask the disk under SYNCD_ROOT and the store what they can do, before the first run or when something is odd.

    One line for each question: yes; no: a run works, and the line says what it does without; NO: a run would not work;
    ?: not known.
    The store is tried below '-syncd-doctor/', a name that no task has: no task is touched, and nothing is left where the
    keys may delete. It takes seconds, on a link that is slow or stalls at most about two minutes.

    Exit codes: 0 a run would work · 75 the store is away · 78 something must be mended first.

    --json: {"version": 1, "store", "task", "exit_code", "verdict", "about": {name: text}, "answers": [{"key",
    "question", "answer": true, false or null, "weight": "yes", "note", "no" or "unknown", "said", "value": bytes,
    seconds or bytes a second, "without", "now"}], "left": [key], "not_cleaned": null, or why more may be left}, and
    "error" where the store cannot be reached
    """
    try:
        return asyncio.run(_run(app, settings, most, as_json=as_json))
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM


async def _run(app: App, settings: Settings, most: int, *, as_json: bool) -> int:
    task = asyncio.current_task()
    assert task
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # so that nothing is left in the store
    judged: list[Judged] = []
    about: dict[str, str] = {}

    def take(key: str, answer: Answer) -> Judged:
        judged.append(judge(key, answer, single_writer=settings.single_writer))
        if not as_json:
            _print(app, judged[-1])
        return judged[-1]

    async for key, answer in _ask_here(settings):
        take(key, answer)
    async with opened(settings, app.plugins, patience=PATIENCE) as parts, _doctor(parts, most) as doctor:
        async for key, answer in doctor.ask():
            if take(key, answer).weight == "yes" and key == "reach":
                about |= await doctor.about()
                if not as_json:
                    _tell_about(app, settings, about)
                for each in _ask_about(settings, about):
                    take(*each)
    away = doctor.away or doctor.owing
    code, said = exit_code(judged, away=away), verdict(judged, away=away)
    if as_json:
        print_json(_document(app, settings, code, said, about, judged, doctor))
    else:
        for line in _left(doctor, f"{without_query(settings.store).rstrip('/')}/{doctor.top}"):
            click.echo(app.redact(line))
        click.echo(said)
    return code


def _doctor(parts: Parts, most: int) -> Doctor:
    rate = parts.budget.rate
    link = min(most, int(rate * MEASURED)) if rate else most
    gates = parts.budget, parts.budget.unpaced
    return Doctor(parts.store, *gates, most=link, largest=most, token=secrets.token_hex(6))


async def _ask_here(settings: Settings) -> AsyncIterator[tuple[str, Answer]]:
    """The disk, and what the settings alone tell."""
    here = ground.ask(settings.root, watch_events=settings.watch_events, budget=settings.memory_budget)
    async for each in here:
        yield each
    if settings.digest != FAST:
        try:
            new_seal(settings.digest)
        except ConfigError as error:
            yield "seal", Answer(False, str(error))
        else:
            yield "seal", Answer(True, settings.digest)
    if settings.origin("task") == "default" and not settings.store.startswith(("file:", "memory:")):
        yield "named", Answer(False)
    else:
        yield "named", Answer(True, settings.task)


def _ask_about(settings: Settings, about: dict[str, str]) -> Iterator[tuple[str, Answer]]:
    """What follows from what the store says of itself."""
    if directory := about.get("directory"):
        root = settings.root if settings.root.exists() else settings.root.parent
        yield "apart", ground.apart(root, directory)


def _print(app: App, judged: Judged) -> None:
    mark, colour = _MARKS[judged.weight]
    if judged.question.figure and judged.weight == "yes":
        mark = ""
    click.echo(f"{click.style(mark.ljust(3), fg=colour)} {app.redact(judged.line)}")


def _tell_about(app: App, settings: Settings, about: dict[str, str]) -> None:
    said = "; ".join(f"{name}: {text}" for name, text in about.items())
    click.echo(app.redact(f"    {without_query(settings.store)}{f' ({said})' if said else ''}"))


def _left(doctor: Doctor, where: str) -> Iterator[str]:
    if doctor.not_cleaned:
        yield f"what was tried below {where} may still be in the store: {doctor.not_cleaned}"
    elif doctor.left:
        size = bytes_(sum(entry.size for entry in doctor.left))
        yield f"left in the store: {len(doctor.left)} objects ({size}) below {where}; delete them when you can"


def _document(
    app: App, settings: Settings, code: int, said: str, about: dict[str, str], judged: list[Judged], doctor: Doctor
) -> dict[str, object]:
    answers = [
        {
            "key": each.question.key,
            "question": each.question.asks,
            "answer": each.answer.yes,
            "weight": each.weight,
            "said": app.redact(each.answer.said),
            "value": each.answer.value,
            "without": each.question.without if each.weight in ("note", "no") else None,
            "now": each.question.now if each.weight in ("note", "no") else None,
        }
        for each in judged
    ]
    document: dict[str, object] = {
        "store": without_query(settings.store),
        "task": settings.task,
        "exit_code": code,
        "verdict": said,
        "about": {name: app.redact(text) for name, text in about.items()},
        "answers": answers,
        "left": [entry.key for entry in doctor.left],
        "not_cleaned": doctor.not_cleaned and app.redact(doctor.not_cleaned),
    }
    reach = next(each for each in judged if each.question.key == "reach")
    return document if reach.weight == "yes" else {**document, "error": app.redact(reach.answer.said)}
