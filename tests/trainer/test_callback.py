"""SyncdCallback in a plain Transformers Trainer with a model of two numbers, in this process."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore"),  # of the libraries, at import and at use
]


@pytest.fixture
def make_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, Any]]:
    monkeypatch.delenv("SYNCD_ROOT", raising=False)
    import torch
    from transformers import Trainer, TrainingArguments

    from trainer.callback import SyncdCallback

    class Line(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def forward(self, x: Any, labels: Any) -> dict[str, Any]:
            return {"loss": ((self.layer(x)[:, 0] - labels) ** 2).mean()}

    data = [{"x": [float(i)], "labels": float(i)} for i in range(8)]

    def make(*others: Any, **options: Any) -> tuple[Any, Any]:
        callback = SyncdCallback()
        arguments = TrainingArguments(
            output_dir=str(tmp_path), per_device_train_batch_size=2, report_to="none", disable_tqdm=True, **options
        )
        return Trainer(Line(), arguments, train_dataset=data, callbacks=[*others, callback]), callback

    return make


def marked(root: Path) -> set[str]:
    return {path.parent.name for path in root.glob("*/_SUCCESS")}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"save_strategy": "no"}, {"checkpoint-6"}),
        ({"save_strategy": "epoch"}, {"checkpoint-4", "checkpoint-6"}),
        ({"save_strategy": "steps", "save_steps": 4}, {"checkpoint-4", "checkpoint-6"}),
        ({"save_strategy": "steps", "save_steps": 1, "save_total_limit": 2}, {"checkpoint-5", "checkpoint-6"}),
    ],
)
def test_the_last_step_is_saved_and_marked_whatever_the_save_strategy(
    make_trainer: Any, tmp_path: Path, options: dict[str, Any], expected: set[str]
) -> None:
    trainer, callback = make_trainer(max_steps=6, **options)
    trainer.train()
    assert marked(tmp_path) == expected
    assert not callback.stopped_by_signal
    assert json.loads((tmp_path / "finished.json").read_text())["step"] == 6
    assert json.loads((tmp_path / "progress.json").read_text())["phase"] == "finish"


def test_a_signal_stops_after_the_step_and_the_old_handlers_come_back(make_trainer: Any, tmp_path: Path) -> None:
    from transformers import TrainerCallback

    class Signal(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 2:
                os.kill(os.getpid(), signal.SIGUSR1)

    (tmp_path / "finished.json").write_text("{}")  # of an earlier, shorter training
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)
    trainer, callback = make_trainer(Signal(), max_steps=6, save_strategy="no")
    trainer.train()
    assert callback.stopped_by_signal
    assert marked(tmp_path) == {"checkpoint-3"}
    assert not (tmp_path / "finished.json").exists()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)) == before


def test_another_callback_that_stops_early_still_gets_its_last_step_saved(make_trainer: Any, tmp_path: Path) -> None:
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step >= 3

    trainer, _ = make_trainer(Stop(), max_steps=6, save_strategy="steps", save_steps=5, logging_steps=1)
    trainer.train()
    assert marked(tmp_path) == {"checkpoint-3"}


def test_a_marked_directory_is_unmarked_before_it_is_saved_into_again(
    make_trainer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, _ = make_trainer(max_steps=2, save_strategy="steps", save_steps=2)
    trainer.train()
    assert marked(tmp_path) == {"checkpoint-2"}
    again, _ = make_trainer(max_steps=2, save_strategy="steps", save_steps=2)
    save, seen = again._save_checkpoint, []

    def spy(*args: Any) -> None:
        seen.append(marked(tmp_path))
        save(*args)

    monkeypatch.setattr(again, "_save_checkpoint", spy)
    again.train()
    assert seen == [set()]
    assert marked(tmp_path) == {"checkpoint-2"}
