"""The real code without one rule of DESIGN.md at a time: what a test that cannot see the difference is worth nothing for."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

from syncd import keeper
from syncd.decide import retain as decide_retain
from syncd.decide.choose import candidates
from syncd.decide.retain import Delete
from syncd.keeper import Keeper
from syncd.local.root import Root
from syncd.local.scan import Seen
from syncd.model.attempt import LineItem
from syncd.model.checkpoint import Committed
from syncd.model.keys import Keys
from syncd.model.names import FINAL, is_final
from syncd.move import close, disk, finish, objects, push, restore, retain, start
from syncd.move.objects import Owner, Standing, standing
from syncd.move.start import Choice
from syncd.store import Fetched, Store

from .test_model import run_lives, run_overlaps, run_steps

Run = Callable[..., None]
run_few_steps: Run = partial(run_steps, steps=10)
run_a_sleeper: Run = partial(run_overlaps, sleeper=True)


@dataclass(frozen=True)
class Mutation:
    """A rule taken out for as long as the stack stands, and what must happen, beside nodes that start, push and pause."""

    mutate: Callable[[ExitStack], None]
    breaks: str
    """What the oracle says then begins with one of these."""
    kinds: frozenset[str]
    run: Run
    """Which runs show the difference: of any steps, of three nodes that overlap, of the lives of one disk."""
    seed: int
    """With which chance finds it early; another finds it too, later."""


MUTATIONS: dict[str, Mutation] = {}


def without(
    rule: str, breaks: str, *kinds: str, run: Run = run_few_steps, seed: int = 1
) -> Callable[[Callable[[ExitStack], None]], Callable[[ExitStack], None]]:
    def note(mutate: Callable[[ExitStack], None]) -> Callable[[ExitStack], None]:
        MUTATIONS[rule] = Mutation(mutate, breaks, frozenset(kinds), run, seed)
        return mutate

    return note


@contextmanager
def mutated(rule: str) -> Iterator[None]:
    with ExitStack() as stack:
        MUTATIONS[rule].mutate(stack)
        yield


def swap(stack: ExitStack, place: object, name: str, other: object) -> None:
    stack.enter_context(mock.patch.object(place, name, other))


async def put_and_believe(store: Store, key: str, data: bytes) -> bool:
    await store.put(key, data)
    return True


@without("CREATE_ONLY_CLAIM", "I3")
def claims_by_plain_puts(stack: ExitStack) -> None:
    create_once = start.create_once

    async def careless(store: Store, key: str, data: bytes) -> bool:
        put = put_and_believe if key.endswith("/attempt.json") else create_once
        return await put(store, key, data)

    async def unseen(store: Store, key: str, data: bytes) -> None:
        return None

    swap(stack, start, "create_once", careless)
    swap(stack, start, "_see_refusal", unseen)


@without("NONCE", "I3|I4")
def takes_any_object_for_its_own(stack: ExitStack) -> None:
    async def create_once(store: Store, key: str, data: bytes) -> bool:
        with suppress(objects.Exists):
            await store.create(key, data)
        return True

    for place in (start, finish, push, close):
        swap(stack, place, "create_once", create_once)


@without("CLAIM_THEN_CHOOSE", "I4|I5")
def chooses_before_it_claims(stack: ExitStack) -> None:
    claim, choose = start.claim, start.choose
    chosen: dict[str, Choice] = {}

    async def choose_and_claim(store: Store, keys: Keys, **how: Any) -> Owner:
        choice = await choose(store, keys, (await standing(store, keys)).newest + 1)
        owner = await claim(store, keys, **how)
        chosen[owner.nonce] = choice
        return owner

    begin = start.start

    async def start_as_chosen(store: Store, owner: Owner, *args: Any) -> Any:
        async def as_chosen(store: Store, keys: Keys, below: int) -> Choice:
            return chosen.pop(owner.nonce, None) or await choose(store, keys, below)

        run = _with_globals(begin, choose=as_chosen)
        return await run(store, owner, *args)

    swap(stack, keeper, "claim", choose_and_claim)
    swap(stack, keeper, "start", start_as_chosen)


def _with_globals(function: Callable[..., Any], **names: object) -> Callable[..., Any]:
    """The function as it would be if its module had these names."""
    return type(function)(function.__code__, {**function.__globals__, **names}, function.__name__)  # type: ignore[attr-defined]


@without("FENCE_AT_START", "I4|I5", run=run_overlaps)
def starts_without_looking_for_newer_attempts(stack: ExitStack) -> None:
    async def fence(store: Store, owner: Owner) -> Standing:
        return Standing((owner.attempt,), False)

    swap(stack, start, "fence", fence)


@without("RECHECK", "I4|I5", run=run_overlaps, seed=20)
def never_looks_again_at_the_passed(stack: ExitStack) -> None:
    async def appeared(*args: object) -> bool:
        return False

    swap(stack, start, "_appeared", appeared)


@without("RESUME_RECORD", "I4", run=run_overlaps)
def chooses_from_all_manifests_below(stack: ExitStack) -> None:
    async def choose(store: Store, keys: Keys, below: int) -> Choice:
        found: list[LineItem] = []
        for number in range(below - 1, 0, -1):
            found += candidates((await objects.read_commits(store, keys, number)).good, ())
        return Choice(below - 1, tuple(found), ())

    swap(stack, start, "choose", choose)


@without("RECORD_THE_TRUTH", "I4", "damage", run=run_overlaps)
def records_what_was_hoped_for(stack: ExitStack) -> None:
    def line_to_record(tried: list[LineItem], chosen: int | None) -> tuple[str, ...]:
        return tuple(str(item) for item in tried)

    swap(stack, start, "line_to_record", line_to_record)


@without("RECORD_BEFORE_TRAIN", "I4")
def trains_without_a_record(stack: ExitStack) -> None:
    async def put_record(store: Store, owner: Owner, record: object) -> None:
        return None

    swap(stack, start, "put_record", put_record)


@without("OWNER_CHECK", "I1|I5", run=run_overlaps)
def deletes_without_asking(stack: ExitStack) -> None:
    swap(stack, retain, "fence", standing_alone)


async def standing_alone(store: Store, owner: Owner) -> Standing:
    found = await standing(store, owner.keys)
    return Standing(tuple(each for each in found.attempts if each <= owner.attempt), False)


@without("CHECK_AFTER_COMMIT", "I1|I5", "damage", run=run_overlaps)
def asks_for_leave_before_the_commit(stack: ExitStack) -> None:
    fence = retain.fence
    leave: dict[str, Standing] = {}

    async def once(store: Store, owner: Owner) -> Standing:
        """The leave that was given after the commit before."""
        known = leave.get(owner.nonce)
        leave[owner.nonce] = known or await fence(store, owner)
        return leave[owner.nonce]

    swap(stack, retain, "fence", once)


@without("KEEP_TWO", "I5", "damage", run=run_overlaps)
def keeps_one(stack: ExitStack) -> None:
    plan = decide_retain.plan_retention

    def plan_one(attempt: int, found: Any, line: Any, keep: int, *more: Any) -> list[Delete]:
        return plan(attempt, found, line, 1, *more)

    swap(stack, decide_retain, "KEEP_AT_LEAST", 1)
    swap(stack, retain, "plan_retention", plan_one)


@without("RETAIN_LINEAGE", "I5", "damage", run=run_overlaps)
def counts_what_is_outside_the_line(stack: ExitStack) -> None:
    plan = decide_retain.plan_retention

    def plan_all(attempt: int, found: Any, line: list[LineItem], *more: Any) -> list[Delete]:
        """By attempt, newest first, whoever made them."""
        own = [item for item in line if item.attempt == attempt]
        others = [
            LineItem(each.attempt, each.commit, "")
            for each in reversed(found)
            if each.manifest and each.attempt < attempt and not is_final(each.commit)
        ]
        return plan(attempt, found, own + others, *more)

    swap(stack, retain, "plan_retention", plan_all)


@without("MANIFEST_FIRST", "I1")
def deletes_files_first(stack: ExitStack) -> None:
    carry_out = retain.carry_out

    async def backwards(store: Store, steps: list[Delete]) -> None:
        for step in reversed(steps):
            await carry_out(store, [step])

    swap(stack, retain, "carry_out", backwards)


@without("GC_AFTER_RECORD", "I1", run=run_overlaps, seed=2)
def removes_orphans_before_the_record(stack: ExitStack) -> None:
    put_record = start.put_record

    async def clean_then_record(store: Store, owner: Owner, record: Any) -> None:
        listing = [entry.key for entry in await store.list(owner.keys.top)]
        for each in decide_retain.group(owner.keys, listing):
            for key in each.files if each.manifest is None and each.attempt < owner.attempt else ():
                await store.delete(key)
        await put_record(store, owner, record)

    swap(stack, start, "put_record", clean_then_record)


@without("GC_LOWER_ONLY", "I3")
def takes_a_successors_upload_for_orphans(stack: ExitStack) -> None:
    plan = decide_retain.plan_retention

    def plan_higher(attempt: int, found: Any, *more: Any) -> list[Delete]:
        higher = [each for each in found if each.attempt > attempt and each.manifest is None]
        return plan(attempt, found, *more) + [Delete(key, "higher") for each in higher for key in each.files]

    fence = retain.fence

    async def passes(store: Store, owner: Owner) -> Standing:
        """A leave that was given just before the successor's claim: the plan is made from a later listing."""
        try:
            return await fence(store, owner)
        except start.Superseded:
            return await standing_alone(store, owner)

    swap(stack, retain, "plan_retention", plan_higher)
    swap(stack, retain, "fence", passes)


@without("VERIFY", "I4|I5", "damage")
def believes_what_comes(stack: ExitStack) -> None:
    def believes(*anything: object) -> bool:
        return True

    async def fetch_unsummed(store: Store, key: str, offset: int, length: int, fd: int) -> Fetched:
        data = await store.get(key, offset, length)
        data = data.ljust(length, b"?")
        return Fetched(restore.os.pwrite(fd, data[:length], offset))

    class Unsummed:
        def __init__(self, inner: Store) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        async def fetch(self, key: str, offset: int, length: int, fd: int) -> Fetched:
            return await fetch_unsummed(self.inner, key, offset, length, fd)

    download = restore.download

    async def careless(store: Store, *args: Any, **more: Any) -> None:
        await download(Unsummed(store), *args, **more)  # type: ignore[arg-type]

    swap(stack, restore, "range_matches", believes)
    swap(stack, restore, "sealed", believes)
    swap(stack, restore, "download", careless)


@without("NEXT_FREE_NAME", "I1", "back")
def uploads_over_its_own_commit(stack: ExitStack) -> None:
    def free_name(name: str, used: object, begun: object = ()) -> str:
        return name

    swap(stack, push, "free_name", free_name)


@without("ORDER_BY_NUMBER", "I5", "back")
def takes_the_highest_step_for_the_newest(stack: ExitStack) -> None:
    def by_step(commits: Any, line: Any) -> list[LineItem]:
        own: list[Committed] = sorted(commits, key=lambda found: found.manifest.step or 0, reverse=True)
        items = [found.item for found in own if not is_final(found.commit)]
        return items + [item for item in line if item not in items]

    swap(stack, start, "candidates", by_step)


@without("FINAL_IN_ATTEMPT", "I3", "finish")
def writes_the_final_beside_the_attempts(stack: ExitStack) -> None:
    files = Keys.files

    def shared(keys: Keys, attempt: int, commit: str) -> str:
        return f"{keys.attempt(1)}{commit}/" if is_final(commit) else files(keys, attempt, commit)

    def shared_file(keys: Keys, attempt: int, commit: str, path: str) -> str:
        return shared(keys, attempt, commit) + path

    swap(stack, Keys, "files", shared)
    swap(stack, Keys, "file", shared_file)


@without("DONE_CREATE_ONLY", "DONE", "finish")
def replaces_the_result(stack: ExitStack) -> None:
    swap(stack, finish, "create_once", put_and_believe)


@without("KEEP_FINALS", "DONE", "finish")
def deletes_finals_of_others(stack: ExitStack) -> None:
    """Closing, which the protocol's model has not, covers it too: so it is left out for finals."""
    close_own = close.close_own

    async def only_without_final(store: Store, owner: Owner) -> None:
        if not any(
            is_final(found.commit) for found in (await objects.read_commits(store, owner.keys, owner.attempt)).good
        ):
            await close_own(store, owner)

    swap(stack, decide_retain, "is_final", lambda commit: False)
    swap(stack, keeper, "close_own", only_without_final)


@without("DONE_STOPS", "DONE", "finish")
def starts_although_the_task_is_done(stack: ExitStack) -> None:
    async def never_done(store: Store, keys: Keys) -> Standing:
        return Standing((await standing(store, keys)).attempts, False)

    for place in (start, keeper):
        swap(stack, place, "standing", never_done)


# ---- rules that the real code adds


@without("CLOSE_BEFORE_DELETE", "DONE", "finish", run=run_a_sleeper, seed=3)
def deletes_without_closing(stack: ExitStack) -> None:
    async def nobody_ended(store: Store, owner: Owner, attempts: object) -> int:
        return 0

    swap(stack, retain, "close_lower", nobody_ended)


@without("CLOSE_BEFORE_RESULT", "DONE", "finish")
def names_its_newest_without_closing(stack: ExitStack) -> None:
    async def not_closed(store: Store, owner: Owner) -> None:
        return None

    swap(stack, keeper, "close_own", not_closed)


@without("MARKS_KEEP", "I7", "marks")
def deletes_what_is_marked(stack: ExitStack) -> None:
    swap(stack, retain, "marks", lambda *anything: set())


@without("CLOSED_IS_OVER", "DONE", "finish", run=run_lives)
def goes_on_with_an_attempt_that_closed_itself(stack: ExitStack) -> None:
    async def none_ended(store: Store, keys: Keys, attempts: object) -> int:
        return 0

    swap(stack, disk, "newest_ended", none_ended)


@without("NUMBER_WITH_PIN", "I1", run=run_lives)
def forgets_the_numbers_of_what_waits(stack: ExitStack) -> None:
    taken = disk.GoOn.taken

    def of_commits(found: disk.GoOn, pinned: dict[str, int]) -> tuple[set[str], int]:
        return taken(found, dict.fromkeys(pinned, 0))

    swap(stack, disk.GoOn, "taken", of_commits)


@without("ROOM", "I1", "back", run=run_lives)
def counts_on_where_a_manifest_may_be_on_its_way(stack: ExitStack) -> None:
    swap(stack, disk, "ROOM", 0)


@without("PASSED_OVER_STAYS", "I4", run=run_lives)
def takes_for_new_what_was_passed_over(stack: ExitStack) -> None:
    swap(stack, disk, "read_taken", lambda *anything: {})


@without("DISK_ASKS", "I3", "restart", "kill")
def goes_on_although_it_was_overtaken(stack: ExitStack) -> None:
    async def sees_nobody(store: Store, keys: Keys) -> Standing:
        return Standing((), False)

    swap(stack, disk, "standing", sees_nobody)


@without("DISK_RESUMES_NEWEST", "I4", run=run_lives)
def goes_on_from_the_oldest_on_the_disk(stack: ExitStack) -> None:
    async def oldest(root: Root, *, writer_gone: bool, **which: object) -> Seen | None:
        whole = [seen for seen in await root.scan() if seen.complete(writer_gone=writer_gone) and seen.name != FINAL]
        return min(whole, key=lambda seen: seen.verdict.step or 0, default=None)

    swap(stack, Root, "newest", oldest)


@without("ZOMBIE_ENDS_TRAINER", "I3|I4", "restart", "kill")
def leaves_the_trainer_of_a_disk_that_was_overtaken(stack: ExitStack) -> None:
    begin = Keeper.begin

    async def leaves_it(one: Keeper, *, writer_alive: bool, end_writer: object) -> Any:
        return await begin(one, writer_alive=writer_alive)

    swap(stack, Keeper, "begin", leaves_it)


@without("ZOMBIE_SETS_ASIDE", "I4", "restart", "kill")
def leaves_the_checkpoints_of_a_disk_that_was_overtaken(stack: ExitStack) -> None:
    overtaken = Keeper.overtaken

    async def leaves_them(one: Keeper, why: str) -> None:
        with mock.patch.object(one.root, "set_aside", nothing_moved):
            await overtaken(one, why)

    async def nothing_moved(which: object) -> list[str]:
        return []

    swap(stack, Keeper, "overtaken", leaves_them)
