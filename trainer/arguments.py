"""The command line of the fine-tuning, and what follows from it without importing torch."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import Any, NoReturn

from trainer import contract
from trainer.data import make_prices

DATA = Path(make_prices.__file__).parent


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; each option is accepted as `--save_steps` and as `--save-steps`.

    Raises:
        SystemExit: 64 on a usage error, since 2 would say nothing to syncd; 0 after --help.
    """
    parser = _Parser(
        prog="python -m trainer.sft",
        description="LoRA fine-tuning that resumes from the newest complete checkpoint in its output.",
        epilog="Exit codes: 0 finished, 64 usage, 75 stopped by SIGTERM or SIGUSR1 with everything saved.",
    )
    add = parser.add
    add("--model_name", help="hub id or local path; default: a tiny Llama, built here")
    add("--dataset", help="jsonl of {prompt, completion}", type=Path, default=DATA / make_prices.TRAIN)
    add("--heldout", help="jsonl to measure on", type=Path, default=DATA / make_prices.HELDOUT)
    add("--output_dir", help="checkpoints and final/; default: env SYNCD_ROOT, else ./output", type=Path)
    add("--per_device_train_batch_size", help="samples", type=int, default=5)
    add("--gradient_accumulation_steps", help="batches to an update", type=int, default=2)
    add("--num_train_epochs", help="passes over the data", type=int, default=2)
    add("--max_steps", help="updates; overrides the epochs if positive", type=int, default=-1)
    add("--save_steps", help="updates between checkpoints", type=int, default=200)
    add("--save_total_limit", help="local checkpoints to keep; default: all", type=int, default=None)
    add("--logging_steps", help="updates between progress lines", type=int, default=20)
    add("--learning_rate", help="peak; default: 5e-3 for the tiny model, 2e-4 for others", type=float)
    add("--r", help="rank of the LoRA matrices", type=int, default=16)
    add("--lora_alpha", help="scale of the LoRA update, times r", type=int, default=32)
    add("--max_length", help="tokens; longer samples are cut", type=int, default=1024)
    add("--seed", help="of data order and initial weights", type=int, default=24)
    add("--threads", help="CPU threads, 0: all; part of the result. Default: 1 for the tiny model", type=int)
    add("--report_to", help="wandb, tensorboard, … as Transformers names them", default="none")
    add("--no_eval", help="measure nothing at the end", default=False, action="store_true")
    add("--predict", help="held-out predictions to print and report", type=int, default=3)
    arguments = parser.parse_args(argv)
    if arguments.output_dir is None:
        arguments.output_dir = contract.root() if os.environ.get("SYNCD_ROOT") else Path("output")
    if arguments.learning_rate is None:
        arguments.learning_rate = 5e-3 if arguments.model_name is None else 2e-4
    if arguments.threads is None:
        arguments.threads = 1 if arguments.model_name is None else 0
    for path in (arguments.dataset, arguments.heldout):
        if not path.is_file():
            parser.error(f"no such file: {path}")
    return arguments


def planned_steps(arguments: argparse.Namespace, samples: int) -> int:
    """Return the updates of a whole run, as the Trainer counts them for a dataset of known length."""
    if arguments.max_steps > 0:
        return int(arguments.max_steps)
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    batches = math.ceil(math.ceil(samples / arguments.per_device_train_batch_size) / ranks)
    return math.ceil(batches / arguments.gradient_accumulation_steps) * int(arguments.num_train_epochs)


class _Parser(argparse.ArgumentParser):
    def add(self, name: str, help: str, default: Any = None, **options: Any) -> None:
        spellings = dict.fromkeys((name, name.replace("_", "-")))
        if default is not None:
            help += f" (default: {default})"
        self.add_argument(*spellings, dest=name.removeprefix("--"), help=help, default=default, **options)

    def error(self, message: str) -> NoReturn:
        self.print_usage()
        self.exit(64, f"{self.prog}: error: {message}\n")
