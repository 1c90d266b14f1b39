"""SyncdCallback: marks, beats and stops a Hugging Face Trainer (Transformers, TRL, …) as syncd expects.

from trainer.callback import SyncdCallback, resume

trainer = SFTTrainer(…, callbacks=[SyncdCallback()])
trainer.train(resume_from_checkpoint=resume(trainer.args.output_dir))
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer import contract
from trainer.contract import resume

__all__ = ["SyncdCallback", "resume"]


class SyncdCallback(TrainerCallback):
    """Marks each checkpoint complete, beats, and on SIGTERM or SIGUSR1 saves after the step and stops.

    - The marker appears after a barrier of all ranks and an fsync of every file, and is taken away before a
      directory is saved into again. Put the callback last in the list: it must see the others' wish to save.
    - The last step is always saved, whatever `save_strategy` says, and marked.
    - While training runs, its handlers replace those of the process for both signals (main thread only;
      elsewhere none can be installed). After `train()` the old ones are back. A script should look at
      `stopped_by_signal` then and leave with exit code 75, meaning "saved, go on elsewhere".
    - `train()` must return for the above to hold: a second signal, or SIGKILL, loses the steps since the last
      save.
    - Not covered: saves that bypass the Trainer's loop (`enable_jit_checkpoint`, `trainer.save_model(…)`:
      mark those with `contract.mark_complete`), and hyper-parameter search, whose checkpoints are in
      directories of their own.

    Args:
        root: the directory that syncd watches; default is env `SYNCD_ROOT`, else the Trainer's `output_dir`.
        finish: write `finished.json` when training ends normally. Set it to False where more is saved after
            `train()`, and call `contract.finished()` at the very end.
        signals: which signals ask for a save and a stop.
    """

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        finish: bool = True,
        signals: Iterable[signal.Signals] = (signal.SIGTERM, signal.SIGUSR1),
    ) -> None:
        self.stopped_by_signal = False
        self._root = root or os.environ.get("SYNCD_ROOT")
        self._finish = finish
        self._signals = tuple(signals)
        self._previous_handlers: dict[signal.Signals, Any] = {}
        self._signalled = False
        self._group: Any = None
        self._saved_step: int | None = None
        self._loss: float | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._root = self._root or args.output_dir
        self.stopped_by_signal, self._saved_step = False, None
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            # A group of its own: on the CPU, so that asking costs no GPU synchronisation.
            self._group = dist.new_group(backend="gloo")
        if threading.current_thread() is threading.main_thread():
            self._previous_handlers = {number: signal.signal(number, self._note_signal) for number in self._signals}
        if args.should_save:
            contract.clear_finished(self._root)
        self._beat(args, state, "train", force=True)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        self.stopped_by_signal = self._any_rank_signalled()
        if self.stopped_by_signal:
            control.should_save = control.should_training_stop = True
        # With save_strategy="best" the wish to save comes after the evaluation, where no hook is left.
        if control.should_save or (control.should_evaluate and args.save_strategy == "best"):
            self._prepare_save(args, state)
        else:
            self._beat(args, state, "train")
        return control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        # The last step, or an early stop, of which nobody has made a checkpoint: here is the last chance.
        if control.should_training_stop and self._saved_step != state.global_step:
            control.should_save = True
        if control.should_save:
            self._prepare_save(args, state)
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # Rank 0 gets here while others still write their rng_state_R.pth: the marker has to wait for all.
        self._barrier()
        if args.should_save:
            contract.mark_complete(_checkpoint_directory(args, state))
        self._saved_step = state.global_step
        self._beat(args, state, "train")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        loss = (logs or {}).get("loss")
        if loss is not None:
            self._loss = float(loss)
            self._beat(args, state, "train")

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._beat(args, state, "eval")

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._beat(args, state, "train")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # A launcher stops all ranks when one leaves with an error: none may leave before rank 0 has marked.
        self._barrier()
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        self._previous_handlers = {}
        self._beat(args, state, "finish", force=True)
        if self._finish and args.should_save and not self.stopped_by_signal:
            contract.finished(self._root, step=state.global_step, loss=self._loss)

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True

    def _any_rank_signalled(self) -> bool:
        """Tell, the same on all ranks, whether any rank has had a signal.

        Signals reach ranks at different steps or only one of them. If each acted on its own flag, one would
        go into the save's collectives while the others wait in the next step's all-reduce, for ever. One byte
        over gloo each step (some 0.1 ms on a node) is the price; a single rank pays nothing.
        """
        if self._group is None:
            return self._signalled
        flag = torch.tensor([self._signalled], dtype=torch.uint8)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group)
        return bool(flag.item())

    def _prepare_save(self, args: TrainingArguments, state: TrainerState) -> None:
        """Unmark a directory of that name which an earlier life left, before any rank writes into it."""
        self._beat(args, state, "save")
        if args.should_save:
            contract.unmark(_checkpoint_directory(args, state))
        self._barrier()

    def _barrier(self) -> None:
        if self._group is not None:
            dist.barrier(group=self._group)

    def _beat(self, args: TrainingArguments, state: TrainerState, phase: str, force: bool = False) -> None:
        if args.should_save:
            contract.beat(state.global_step, state.max_steps, phase, self._loss, root=self._root, force=force)


def _checkpoint_directory(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"
