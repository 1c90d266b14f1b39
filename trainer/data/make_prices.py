"""Make the synthetic price data: product texts whose price follows from category, brand, size and features.

    python -m trainer.data.make_prices [--seed 24] [--directory DIR]

The same seed gives the same bytes on every machine and Python: only `Random.random()` is drawn from, whose
sequence is promised to stay, and prices are computed in whole cents.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

QUESTION = "How much does this cost to the nearest dollar?"
TRAIN, HELDOUT = "prices-train.jsonl", "prices-heldout.jsonl"
TRAIN_SAMPLES, HELDOUT_SAMPLES = 2_000, 100
SEED = 24

CATEGORIES = {  # base price in dollars
    "desk lamp": 40, "kettle": 60, "headphones": 150, "backpack": 90, "office chair": 260, "drill": 130,
    "tent": 220, "camera": 430, "keyboard": 80, "vacuum cleaner": 330,
}  # fmt: skip
BRANDS = {"Nordvik": 110, "Alba": 90, "Kestrel": 105, "Momo": 85, "Orlan": 100, "Tessin": 120}  # percent
SIZES = {"small": 90, "medium": 100, "large": 115}  # percent
FEATURES = {  # dollars on top
    "a five year warranty": 25, "solar charging": 40, "a carrying case": 10, "voice control": 30,
    "a titanium frame": 50, "a spare battery": 15,
}  # fmt: skip
COLOURS = ("black", "white", "green", "blue", "grey", "red")  # worth nothing: a distraction
SHAPES = (
    "{brand} {category}\nSize: {size}. Colour: {colour}. With {features}.",
    "{colour} {category} by {brand}, {size}\nComes with {features}.",
    "{category}, {size}, from {brand}\nIn {colour}, with {features}.",
)


@dataclass(frozen=True)
class Market:
    """What things cost somewhere: base prices in dollars, factors in percent, dollars on top."""

    categories: dict[str, int]
    brands: dict[str, int]
    sizes: dict[str, int]
    features: dict[str, int]


MARKET = Market(CATEGORIES, BRANDS, SIZES, FEATURES)

T = TypeVar("T")


def _pick(rng: random.Random, values: Sequence[T]) -> T:
    return values[int(rng.random() * len(values))]


def make_record(rng: random.Random, market: Market = MARKET) -> dict[str, str]:
    """Draw one product and return it as {"prompt", "completion"}."""
    category, brand = _pick(rng, list(market.categories)), _pick(rng, list(market.brands))
    size, colour = _pick(rng, list(market.sizes)), _pick(rng, COLOURS)
    pool = list(market.features)
    features = [pool.pop(int(rng.random() * len(pool))) for _ in range(int(rng.random() * 3))]
    text = _pick(rng, SHAPES).format(
        category=category,
        brand=brand,
        size=size,
        colour=colour,
        features=" and ".join(features) or "no extras",
    )
    cents = market.categories[category] * market.brands[brand] * market.sizes[size] // 100
    cents += sum(100 * market.features[feature] for feature in features)
    return {"prompt": f"{QUESTION}\n\n{text}\n\n", "completion": f"Price is ${(cents + 50) // 100}.00"}


def make_records(seed: int = SEED, market: Market = MARKET) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Return 2,000 training and 100 held-out records; no text occurs twice in all of them."""
    rng = random.Random(seed)
    records: dict[str, dict[str, str]] = {}
    while len(records) < TRAIN_SAMPLES + HELDOUT_SAMPLES:
        record = make_record(rng, market)
        records.setdefault(record["prompt"], record)
    drawn = list(records.values())
    return drawn[:TRAIN_SAMPLES], drawn[TRAIN_SAMPLES:]


def write(directory: Path, seed: int = SEED) -> None:
    """Write `prices-train.jsonl` and `prices-heldout.jsonl` into `directory`.

    Raises:
        OSError: a file cannot be written.
    """
    for name, records in zip((TRAIN, HELDOUT), make_records(seed), strict=True):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (directory / name).write_text(lines, encoding="utf-8", newline="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--directory", type=Path, default=Path(__file__).parent, help="default: beside this file")
    arguments = parser.parse_args()
    write(arguments.directory, arguments.seed)


if __name__ == "__main__":
    main()
