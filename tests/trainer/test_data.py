"""The shipped data and the base model come out the same wherever they are made."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainer.conftest import environment
from trainer import arguments, evaluate, tiny
from trainer.data import make_prices


def digests(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())}


def test_the_shipped_data_is_what_the_script_makes(tmp_path: Path) -> None:
    make_prices.write(tmp_path)
    for name, lines in ((make_prices.TRAIN, 2000), (make_prices.HELDOUT, 100)):
        made = (tmp_path / name).read_bytes()
        assert made == (Path(make_prices.__file__).parent / name).read_bytes()
        assert made.count(b"\n") == lines


def test_another_seed_makes_other_data_and_nothing_held_out_is_trained_on() -> None:
    train, heldout = make_prices.make_records()
    assert not {record["prompt"] for record in train} & {record["prompt"] for record in heldout}
    assert make_prices.make_records(seed=7)[0] != train


def test_a_price_is_read_from_an_answer() -> None:
    assert evaluate.price_in("Price is $1,204.00") == 1204
    assert evaluate.price_in("no idea") is None


def test_options_are_accepted_in_both_spellings() -> None:
    chosen = arguments.parse(["--save-steps", "7", "--max_steps", "9", "--output-dir", "x"])
    assert (chosen.save_steps, chosen.max_steps, chosen.output_dir) == (7, 9, Path("x"))
    assert arguments.planned_steps(arguments.parse([]), 2000) == 400


def test_a_usage_error_exits_64() -> None:
    with pytest.raises(SystemExit) as error:
        arguments.parse(["--dataset", "no such file"])
    assert error.value.code == 64


def test_the_base_is_built_once_and_never_seen_half_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Path] = []

    def build(directory: Path) -> None:
        built.append(directory)
        (directory / "model").write_text("whole")
        if len(built) == 1:  # another process is faster
            tiny.ensure(tmp_path / "tiny")

    monkeypatch.setattr(tiny, "build", build)
    assert tiny.ensure(tmp_path / "tiny") == tmp_path / "tiny"
    tiny.ensure(tmp_path / "tiny")
    assert len(built) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_base_that_is_built_again_elsewhere_is_the_same_to_the_byte(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "trainer.tiny"]
    subprocess.run(command, env=environment(), check=True)
    other = environment(PYTHONHASHSEED="5", OMP_NUM_THREADS="2")
    subprocess.run([*command, str(tmp_path / "again")], env=other, check=True)
    assert digests(tmp_path / "again") == digests(tiny.default_directory())
