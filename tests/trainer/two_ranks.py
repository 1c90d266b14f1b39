"""Run by torchrun: a fine-tuning whose rank 1 saves late, looks for a marker that is too early, and is signalled."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from transformers import Trainer

from trainer import callback, sft

RANK = int(os.environ["RANK"])
save_rng_state = Trainer._save_rng_state


def save_late(self: Trainer, output_dir: str) -> None:
    if RANK == 1:
        directory = Path(output_dir)
        while not (directory / "trainer_state.json").exists():
            time.sleep(0.005)
        deadline = time.monotonic() + 0.5  # rank 0 has nothing left to do but to mark
        while time.monotonic() < deadline:
            if (directory / "_SUCCESS").exists():
                print(f"EARLY MARKER in {output_dir}", flush=True)
                os._exit(3)
            time.sleep(0.005)
        print(f"late {directory.name}", flush=True)
    save_rng_state(self, output_dir)


class SignalledOnRank1(callback.SyncdCallback):
    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if RANK == 1 and state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)


Trainer._save_rng_state = save_late
callback.SyncdCallback = SignalledOnRank1
sys.exit(sft.main())
