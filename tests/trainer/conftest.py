"""Real fine-tuning runs in processes of their own; short ones, and one of full length that several tests read."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SHORT = ["--max_steps", "40", "--save_steps", "10", "--logging_steps", "5", "--no_eval"]


def environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SYNCD_")}
    return {**kept, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", **more}


def wait_until(condition: Callable[[], object], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.002)


class Run:
    """`python -m trainer.sft` into a directory, restarted as often as wanted."""

    def __init__(self, output: Path, *options: str) -> None:
        self.output = output
        self.log = output.parent / f"{output.name}.log"
        self.command = [sys.executable, "-m", "trainer.sft", "--output_dir", str(output), *options]

    def start(self, **environ: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self.command, stdout=log, stderr=log, env=environment(**environ), cwd=self.output.parent
            )

    def finish(self, **environ: str) -> Run:
        process = self.start(**environ)
        assert process.wait(240) == 0, self.text
        return self

    @property
    def text(self) -> str:
        return self.log.read_text(encoding="utf-8")

    @property
    def adapter(self) -> bytes:
        return (self.output / "final" / "adapter_model.safetensors").read_bytes()

    def marked(self, step: int) -> bool:
        return (self.output / f"checkpoint-{step}" / "_SUCCESS").exists()


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("uninterrupted") / "out", *SHORT).finish()


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("full") / "out").finish()


@pytest.fixture
def short(tmp_path: Path) -> Iterator[Run]:
    yield Run(tmp_path / "out", *SHORT)
