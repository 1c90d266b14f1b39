"""Nodes that start at once and evict each other: one of them trains in the end, in whatever order they go on."""

import itertools
import random
from pathlib import Path

import pytest

from syncd.model import canonical
from syncd.model.heartbeat import HeartbeatBody
from tests.model.world import KEYS, Life, Watcher, World

NODES = 3
MOST_STARTS = 30
NOW = 1_700_000_000.0


def tell(world: World, life: Life) -> None:
    """What its daemon tells from the claim on: that it is at work, or its last word."""
    body = HeartbeatBody(
        task="task", attempt=life.attempt, node=life.name, session=life.name, seq=1, time=NOW, interval=30.0,
        state="superseded" if life.over else "restoring",
    )  # fmt: skip
    world.store.objects[KEYS.heartbeat(life.attempt)] = canonical.encode(body)


def commit_some(world: World) -> None:
    """A task with two commits, whose node is gone."""
    life = world.new_life(world.new_machine())
    life.begin()
    while life.busy:
        world.let_go(life)
    for _ in range(2):
        life.machine.save()
        life.push()
        while life.busy and life.calls:
            world.let_go(life)
    life.over = "gone"


def start_all(world: World, order: "itertools.cycle[int] | random.Random") -> list[Life]:
    """Three nodes start; one that gives way is started again at once. All lives, the last of each node's last."""
    machines = [world.new_machine() for _ in range(NODES)]
    lives = [world.new_life(machine) for machine in machines]
    for life in lives:
        life.begin()
    past: list[Life] = []
    while any(life.busy for life in lives):
        turn = next(order) if isinstance(order, itertools.cycle) else order.randrange(NODES)
        life = lives[turn]
        if not life.busy:
            continue
        world.let_go(life)
        if life.attempt:
            tell(world, life)
        if life.over and all(each.begun is None for each in lives):
            assert life.over.startswith("Superseded"), life.over
            assert len(world.lives) < MOST_STARTS, "they evict each other for ever"
            past.append(life)
            lives[turn] = world.new_life(life.machine)
            lives[turn].begin()
    return [*past, *lives]


@pytest.mark.parametrize("way", ["in turns", "by chance"])
def test_of_three_that_start_at_once_and_again_one_trains(ram_path: Path, rng: random.Random, way: str) -> None:
    for number in range(1 if way == "in turns" else 10):
        home = ram_path / f"{number}"
        home.mkdir()
        world = World(home, Watcher())
        try:
            commit_some(world)
            lives = start_all(world, itertools.cycle(range(NODES)) if way == "in turns" else rng)
            begun = [life for life in lives if life.begun]
            assert begun, [life.over for life in lives]
            assert all(life.begun and life.begun.checkpoint == "checkpoint-2" for life in begun)
            newest = max(begun, key=lambda life: life.attempt)
            assert newest.over is None
        finally:
            world.close()
