"""How far off are the prices? Greedy answers to held-out prompts, compared in dollars."""

from __future__ import annotations

import contextlib
import re
import statistics
from typing import Any

_PRICE = re.compile(r"\$\s*(\d[\d,]*)")
_BATCH = 50  # prompts generated for at once


def price_in(text: str) -> int | None:
    """Return the first dollar amount in a text, whole dollars, or None where there is none."""
    match = _PRICE.search(text)
    return int(match.group(1).replace(",", "")) if match else None


def answers(model: Any, tokenizer: Any, prompts: list[str], max_new_tokens: int = 16) -> list[str]:
    """Generate greedily, thus without drawing random numbers, one answer to each prompt."""
    import torch

    side, tokenizer.padding_side = tokenizer.padding_side, "left"  # generation goes on at the right end
    was_training = model.training
    model.eval()
    texts: list[str] = []
    try:
        for start in range(0, len(prompts), _BATCH):
            batch = tokenizer(prompts[start : start + _BATCH], return_tensors="pt", padding=True).to(model.device)
            with torch.inference_mode():
                tokens = model.generate(
                    input_ids=batch["input_ids"],
                    attention_mask=batch["attention_mask"],
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    pad_token_id=tokenizer.pad_token_id,
                )
            texts += tokenizer.batch_decode(tokens[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    finally:
        tokenizer.padding_side = side
        model.train(was_training)
    return texts


def report(
    model: Any, tokenizer: Any, train: list[dict[str, str]], heldout: list[dict[str, str]], show: int
) -> dict[str, Any]:
    """Measure an adapter against its own base and against always guessing the training median.

    "Before" is the base with the adapter switched off, so it needs no memory of the run's start: it comes out
    the same in whichever life of the run, on whichever node, it is asked for. An answer without a price
    counts as the
    median: it is off by what a guess without reading would be off.

    Args:
        model: a PEFT model.
        train, heldout: records {"prompt", "completion"}; those without a price are left out.
        show: predictions to include.

    Returns:
        Mean absolute errors in dollars `error_before`, `error_after`, `error_median_guess`; the counts of
        `unpriced` answers before and after; `heldout_samples`; `predictions`. Only the count, 0, where
        nothing has a price.
    """
    heldout = [record for record in heldout if price_in(record["completion"]) is not None]
    known = [price for record in train if (price := price_in(record["completion"])) is not None]
    if not heldout or not known:
        return {"heldout_samples": 0}
    median = statistics.median(known)
    prompts = [record["prompt"] for record in heldout]
    truth = [price_in(record["completion"]) or 0 for record in heldout]
    facts: dict[str, Any] = {"heldout_samples": len(heldout)}
    facts["error_median_guess"] = _mean_error([median] * len(truth), truth)
    after: list[str] = []
    for name, context in (("before", model.disable_adapter()), ("after", contextlib.nullcontext())):
        with context:
            after = answers(model, tokenizer, prompts)
        prices = [price_in(answer) for answer in after]
        facts[f"error_{name}"] = _mean_error([median if price is None else price for price in prices], truth)
        facts[f"unpriced_{name}"] = prices.count(None)
    facts["predictions"] = [
        {"prompt": prompt, "answer": answer, "price": price, "true_price": true}
        for prompt, answer, price, true in zip(prompts[:show], after, prices, truth, strict=False)
    ]
    return facts


def _mean_error(prices: list[float], truth: list[int]) -> float:
    return round(statistics.fmean(abs(price - true) for price, true in zip(prices, truth, strict=True)), 2)
