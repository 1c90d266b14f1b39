"""The default base model: a tiny Llama and its tokenizer, built from the shipped texts, the same bytes every
time.

    python -m trainer.tiny [DIRECTORY]

Nothing is downloaded. The base has read price texts of another market, where the same tables of prices are
shuffled among the same words: it knows the language, and that a price follows from the words, but not one
price that holds here. So LoRA has something to learn, and can: on random weights, or after texts whose prices
follow from nothing, it hardly does.

A run that moves to another node rebuilds the base there, and an adapter fits only the base it was trained on.
So the build is seeded, single-threaded and deterministic. The same bytes are promised for the same CPU type
and the same versions of torch, transformers and tokenizers; `determinism.fix` says how far it goes across CPU
types.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trainer import determinism
from trainer.data import make_prices

RECIPE: dict[str, Any] = {
    "format": 1,
    "seed": 24,
    "vocabulary": 600,
    "layers": 3,
    "width": 128,
    "heads": 4,
    "inner": 344,
    "context": 256,
    "updates": 300,
    "batch": 16,
    "learning_rate": 2e-3,
    "answer_weight": 5.0,
}


def default_directory() -> Path:
    """Return `${XDG_CACHE_HOME:-~/.cache}/syncd/tiny-llama-<hash of recipe, data, versions>`."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    versions = [version(package) for package in ("torch", "transformers", "tokenizers")]
    facts = json.dumps([RECIPE, versions, other_market()], sort_keys=True)
    digest = hashlib.sha256(facts.encode()).hexdigest()
    return cache / "syncd" / f"tiny-llama-{digest[:12]}"


def ensure(directory: Path | None = None) -> Path:
    """Build the model unless it is there; return its directory, loadable by `from_pretrained`.

    It appears under its name only when whole. Of two processes that build at once, one wins and both return
    it.

    Args:
        directory: default is `default_directory()`.

    Raises:
        OSError: the directory cannot be written.
    """
    directory = default_directory() if directory is None else Path(directory)
    if directory.is_dir():
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        build(temporary)
        temporary.chmod(0o755)
        temporary.rename(directory)
    except OSError:
        if not directory.is_dir():  # else another process was first: rename refuses a directory that is not empty
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return directory


def build(directory: Path) -> None:
    """Train tokenizer and model and save them into an existing `directory`; some 20 s on one core."""
    started = time.monotonic()
    # Rounding errors of one thread are the same everywhere; more would be faster, but their split is one more
    # risk.
    determinism.fix(threads=1, seed=RECIPE["seed"])
    _say("building the tiny base model (once, then it is cached)")
    from transformers.utils import logging

    records = other_market()
    tokenizer = _train_tokenizer([record["prompt"] + record["completion"] for record in records])
    model = _new_model(tokenizer)
    _pretrain(model, tokenizer, records)
    logging.disable_progress_bar()
    model.save_pretrained(directory)
    logging.enable_progress_bar()
    tokenizer.save_pretrained(directory)
    _say(f"base model built in {time.monotonic() - started:.0f} s")


def other_market() -> list[dict[str, str]]:
    """Return training records of a market where each kind of price is shuffled among its words."""
    rng = random.Random(RECIPE["seed"])

    def shuffled(table: dict[str, int]) -> dict[str, int]:
        values = list(table.values())
        rng.shuffle(values)
        return dict(zip(table, values, strict=True))

    tables = {field.name: shuffled(getattr(make_prices.MARKET, field.name)) for field in fields(make_prices.Market)}
    return make_prices.make_records(RECIPE["seed"] + 1, make_prices.Market(**tables))[0]


def _train_tokenizer(texts: list[str]) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    # Single digits: merged numbers would make each price a word of its own, with nothing to generalise from.
    # Line breaks stand alone, so that prompt + completion tokenizes as prompt, then completion.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"\d|\n+| ?[^\s\d]+|\s+"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=RECIPE["vocabulary"],
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", model_max_length=RECIPE["context"]
    )


def _new_model(tokenizer: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=RECIPE["width"],
            intermediate_size=RECIPE["inner"],
            num_hidden_layers=RECIPE["layers"],
            num_attention_heads=RECIPE["heads"],
            num_key_value_heads=RECIPE["heads"],
            max_position_embeddings=RECIPE["context"],
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _pretrain(model: Any, tokenizer: Any, records: list[dict[str, str]]) -> None:
    import torch

    prompts = tokenizer([record["prompt"] for record in records])["input_ids"]
    answers = tokenizer([record["completion"] + tokenizer.eos_token for record in records])["input_ids"]
    rng = random.Random(RECIPE["seed"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=RECIPE["learning_rate"], weight_decay=0.0)
    updates = RECIPE["updates"]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: min((done + 1) / 12, 1 - done / updates))
    model.train()
    for update in range(1, updates + 1):
        chosen = [rng.randrange(len(records)) for _ in range(RECIPE["batch"])]
        loss = _loss(model, tokenizer, [prompts[i] for i in chosen], [answers[i] for i in chosen])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if update % 50 == 0:
            _say(f"base model: update {update}/{updates} loss {loss.item():.2f}")


def _loss(model: Any, tokenizer: Any, prompts: list[list[int]], answers: list[list[int]]) -> Any:
    """Return the mean loss on prompts plus the weighted one on answers: few tokens, but what matters."""
    from torch.nn.functional import cross_entropy

    joined = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    batch = tokenizer.pad({"input_ids": joined}, return_tensors="pt", padding_side="right")
    logits = model(**batch).logits[:, :-1].transpose(1, 2)
    everything = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    prompt_labels, answer_labels = everything.clone(), everything.clone()
    for row, prompt in enumerate(prompts):
        prompt_labels[row, len(prompt) :] = -100
        answer_labels[row, : len(prompt)] = -100
    answer_loss = cross_entropy(logits, answer_labels[:, 1:])
    return cross_entropy(logits, prompt_labels[:, 1:]) + RECIPE["answer_weight"] * answer_loss


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    print(ensure(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
