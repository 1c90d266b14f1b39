"""One short line per logging step, for where no terminal can show a progress bar."""

from __future__ import annotations

import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class ProgressLines(TrainerCallback):
    """Prints `step 120/400 loss 0.53 eta 12s`; the estimate counts this process's own steps only."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._started, self._first = time.monotonic(), state.global_step

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or "loss" not in (logs or {}):
            return
        done = state.global_step - self._first
        eta = (time.monotonic() - self._started) / max(done, 1) * (state.max_steps - state.global_step)
        print(f"step {state.global_step}/{state.max_steps} loss {logs['loss']:.2f} eta {eta:.0f}s", flush=True)
