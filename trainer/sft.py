"""`python -m trainer.sft`: supervised fine-tuning with LoRA that survives the loss of its machine.

Start the same command again, anywhere that has the newest checkpoint directory: it resumes by itself and
leaves the same adapter, byte for byte, as a run that was never interrupted. Loss is taken on the completions
only.

Several ranks: `torchrun --nproc_per_node 2 -m trainer.sft`; torchrun turns a rank's exit code 75 into its own 1.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from trainer import arguments, contract

STOPPED = 75  # exit code: saved and left, go on elsewhere

Records = list[dict[str, str]]


def main(argv: list[str] | None = None) -> int:
    """Train, measure, save `final/`; return the exit code."""
    chosen = arguments.parse(argv)
    chosen.output_dir.mkdir(parents=True, exist_ok=True)
    _leave_at_once_on_signal()
    root = Path(os.environ.get("SYNCD_ROOT") or chosen.output_dir)
    rank0 = os.environ.get("RANK", "0") == "0"
    checkpoint = contract.resume(chosen.output_dir, root=root)
    train, heldout = _read_records(chosen.dataset), _read_records(chosen.heldout)
    steps = arguments.planned_steps(chosen, len(train))
    if _finished_steps(chosen.output_dir / "final") >= steps:
        print(f"nothing to do: {chosen.output_dir / 'final'} is complete at step {steps}", flush=True)
        if rank0:
            contract.finished(root, step=steps)
        return 0
    step = int(checkpoint.rpartition("-")[2]) if checkpoint else 0
    if rank0:
        print(f"resuming from {checkpoint}" if checkpoint else "starting from step 0", flush=True)
        contract.unmark(chosen.output_dir / "final")
        contract.beat(step, steps, "load", root=root)
    return _train_and_finish(chosen, root, checkpoint, step, steps, train, heldout)


def _train_and_finish(
    chosen: argparse.Namespace,
    root: Path,
    checkpoint: str | None,
    step: int,
    steps: int,
    train: Records,
    heldout: Records,
) -> int:
    trainer, callback = _make_trainer(chosen, root, train)
    if checkpoint and step >= steps:
        # The Trainer would take one more step here where the last one is not at the end of an epoch.
        _load_adapter(trainer.model, checkpoint)
    else:
        trainer.train(resume_from_checkpoint=checkpoint)
        step = trainer.state.global_step
    if callback.stopped_by_signal:
        if trainer.is_world_process_zero():
            print(f"stopped by a signal; step {step} is saved and marked", flush=True)
        trainer.accelerator.end_training()
        return STOPPED
    if trainer.is_world_process_zero():
        contract.beat(step, steps, "finish", root=root)
        facts = {"steps": step, **_measure(chosen, trainer, train, heldout)}
        _save_final(chosen.output_dir / "final", trainer, facts)
        contract.finished(root, step=step)
        print(_summary(chosen.output_dir / "final", facts), flush=True)
    trainer.accelerator.end_training()
    return 0


def _make_trainer(chosen: argparse.Namespace, root: Path, train: Records) -> tuple[Any, Any]:
    from trainer import determinism, tiny

    # Before the imports below, some of which read what this sets.
    model_name = str(chosen.model_name or tiny.ensure())
    if Path(model_name).is_dir():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing to ask a hub for
    determinism.fix(chosen.threads, chosen.seed)
    from datasets import Dataset, disable_progress_bars
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
    from transformers.utils import logging
    from trl import SFTConfig, SFTTrainer

    from trainer.callback import SyncdCallback
    from trainer.progress import ProgressLines

    tty = sys.stderr.isatty()
    if not tty:
        logging.disable_progress_bar()
        disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    model = AutoModelForCausalLM.from_pretrained(model_name)
    determinism.fix(chosen.threads, chosen.seed)  # whatever was drawn while loading, LoRA starts from the seed
    callback = SyncdCallback(root, finish=False)
    trainer = SFTTrainer(
        model=model,
        args=_config(SFTConfig, chosen, tty),
        train_dataset=Dataset.from_list(train),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=chosen.r, lora_alpha=chosen.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        callbacks=[] if tty else [ProgressLines()],
    )
    trainer.add_callback(callback)  # last, after those that report_to brings
    trainer.remove_callback(PrinterCallback)
    return trainer, callback


def _config(config: Any, chosen: argparse.Namespace, tty: bool) -> Any:
    import torch

    return config(
        output_dir=str(chosen.output_dir),
        per_device_train_batch_size=chosen.per_device_train_batch_size,
        gradient_accumulation_steps=chosen.gradient_accumulation_steps,
        num_train_epochs=chosen.num_train_epochs,
        max_steps=chosen.max_steps,
        save_strategy="steps",
        save_steps=chosen.save_steps,
        save_total_limit=chosen.save_total_limit,
        logging_steps=chosen.logging_steps,
        learning_rate=chosen.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=0.03,
        max_length=chosen.max_length,
        completion_only_loss=True,
        activation_checkpointing=False,
        seed=chosen.seed,
        bf16=False,
        # Without this, ranks that torchrun starts on CPUs train side by side, each a rank 0, and never talk.
        use_cpu=not torch.cuda.is_available(),
        report_to=chosen.report_to,
        disable_tqdm=not tty,
        logging_nan_inf_filter=False,  # a loss that is not a number must be seen, not averaged away
        dataloader_pin_memory=False,
    )


def _load_adapter(model: Any, checkpoint: str) -> None:
    from peft import load_peft_weights, set_peft_model_state_dict

    set_peft_model_state_dict(model, load_peft_weights(checkpoint, device=str(model.device)))


def _measure(chosen: argparse.Namespace, trainer: Any, train: Records, heldout: Records) -> dict[str, Any]:
    if chosen.no_eval:
        return {}
    from trainer import evaluate

    return evaluate.report(trainer.model, trainer.processing_class, train, heldout, chosen.predict)


def _save_final(directory: Path, trainer: Any, facts: dict[str, Any]) -> None:
    shutil.rmtree(directory, ignore_errors=True)  # remains of a life that was killed while it wrote here
    trainer.model.save_pretrained(directory)
    trainer.processing_class.save_pretrained(directory)
    (directory / "report.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    contract.mark_complete(directory, step=facts["steps"])


def _summary(directory: Path, facts: dict[str, Any]) -> str:
    lines = [f"finished: {facts['steps']} updates, adapter in {directory}"]
    if facts.get("heldout_samples"):
        lines.append(
            f"mean absolute error on {facts['heldout_samples']} held-out samples: ${facts['error_after']:.0f}"
            f" (base model ${facts['error_before']:.0f}, median guess ${facts['error_median_guess']:.0f})"
        )
    for shown in facts.get("predictions", []):
        product = " ".join(shown["prompt"].split("\n\n", 1)[-1].split())
        lines.append(f"  ${shown['price']} (true: ${shown['true_price']})  {product}")
    return "\n".join(lines)


def _finished_steps(final: Path) -> int:
    """Return the steps that a complete `final/` has behind it; -1 where there is none."""
    if not contract.is_complete(final):
        return -1
    try:
        return int(json.loads((final / "report.json").read_text(encoding="utf-8"))["steps"])
    except (OSError, ValueError, KeyError):
        return -1


def _read_records(path: Path) -> Records:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def _leave_at_once_on_signal() -> None:
    """Outside the training loop nothing is unsaved: before it, nothing is new; after it, all is marked."""

    def leave(number: int, frame: object) -> None:
        # Not sys.exit: library code that catches everything could swallow the exception.
        os.write(1, b"stopped by a signal outside the training loop; nothing is lost\n")
        os._exit(STOPPED)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGUSR1, leave)


if __name__ == "__main__":
    sys.exit(main())
