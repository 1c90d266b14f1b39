"""When a directory is a finished checkpoint: the core's completion rules, and how rules are asked."""

import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import msgspec

from syncd.errors import Torn, brief
from syncd.local.tree import Files
from syncd.model.names import step_of

log = logging.getLogger("syncd")


class State(Enum):
    """What a rule says of a directory."""

    OTHER = "other"
    """Not this rule's business."""
    TORN = "torn"
    """A checkpoint of this kind, not finished (or never to be)."""
    HIDDEN = "hidden"
    """A checkpoint of this kind that this user may not read: nobody can say whether it is finished."""
    QUIET = "quiet"
    """Finished if nobody writes any more: complete once unchanged for `SYNCD_QUIET` seconds, or its writer is gone."""
    COMPLETE = "complete"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A rule's answer; `reason` is for people."""

    state: State
    reason: str = ""
    step: int | None = None


@dataclass(frozen=True, slots=True)
class View:
    """A directory as rules see it: its relative path, all files below it, and a bounded reader.

    `read(path, limit)` gives up to `limit` bytes of a file; raises OSError or `Torn`.
    `marked`: whether a directory of the same family carries a marker; then only a marker counts.
    """

    name: str
    files: Files
    read: Callable[[str, int], bytes]
    marked: bool = False


class Rule(Protocol):
    """A completion rule. `judge` only looks: it is called again and again, in a thread."""

    @property
    def name(self) -> str: ...

    def judge(self, view: View) -> Verdict: ...


OTHER = Verdict(State.OTHER)


@dataclass(frozen=True, slots=True)
class MarkerRule:
    """The plain rule: a marker that the writer creates last."""

    name: str = "_SUCCESS"
    markers: tuple[str, ...] = ("_SUCCESS", "_ELASTIC_SUCCESS")

    def judge(self, view: View) -> Verdict:
        for marker in self.markers:
            if marker in view.files:
                try:
                    lacking = _lacking(view, marker)
                except PermissionError:
                    return Verdict(State.HIDDEN, marker, step_of(view.name))
                if lacking:
                    return Verdict(State.TORN, f"{marker} lists {lacking}, which is not there so", step_of(view.name))
                return Verdict(State.COMPLETE, f"has {marker}", step_of(view.name))
        if view.marked:
            return Verdict(State.TORN, f"no {self.name}, which others of its kind have", step_of(view.name))
        return OTHER


def _lacking(view: View, marker: str) -> str | None:
    """A file that the marker lists and that is not there with its size: a rotation is removing the directory.

    A marker without a list (empty, or another trainer's) stands for itself. Raises PermissionError.
    """
    if not view.files[marker].size:
        return None
    try:
        said = json.loads(view.read(marker, _MOST_JSON))
    except PermissionError:
        raise
    except (OSError, Torn):
        return marker
    except (ValueError, RecursionError):
        return None
    sizes = said.get("files") if isinstance(said, dict) else None
    if not isinstance(sizes, dict):
        return None
    there = {path: each.size for path, each in view.files.items()}
    return next((brief(path) for path, size in sizes.items() if there.get(path) != size), None)


SENTINEL = "checkpoint-is-incomplete.txt"
_TEMPORARY = re.compile(r"(^|/)(\.tmp[^/]*|[^/]*\.(tmp|part|incomplete)|tmp-checkpoint[^/]*)$")
_RANK = re.compile(r"rng_state_(\d+)\.pth")
_WEIGHTS = re.compile(r"\.(safetensors|bin|distcp)$|(^|/)global_step\d+/|optim_states\.pt$")
_MOST_JSON = 256 << 20


class HuggingFaceRule:
    """`checkpoint-N` of the Hugging Face Trainer (TRL, Unsloth, Axolotl) without our callback.

    trainer_state.json is written last by rank 0, but other ranks write their rng_state at any time and nothing is
    fsynced: so structure, then quiet. (transformers 5.23 `Trainer._save_checkpoint`.)
    """

    name = "hf"

    def judge(self, view: View) -> Verdict:
        found = re.fullmatch(r"(?:.*/)?checkpoint-(\d+)", view.name)
        if not found:
            return OTHER
        step = int(found[1])  # of any length: a name has 255 bytes at most
        said = step_of(view.name)
        try:
            missing = self._missing(view, step)
        except PermissionError as error:
            return Verdict(State.HIDDEN, str(error.filename or ""), said)
        except (OSError, Torn, ValueError, RecursionError, msgspec.ValidationError) as error:
            missing = f"unreadable: {brief(str(error))}"
        return Verdict(State.TORN, missing, said) if missing else Verdict(State.QUIET, "whole by structure", said)

    def _missing(self, view: View, step: int) -> str | None:
        if SENTINEL in view.files:
            return f"{SENTINEL} is there"
        if view.marked:
            return "no _SUCCESS, which others of its kind have"
        if temporary := next((path for path in view.files if _TEMPORARY.search(path)), None):
            return f"{temporary} is being written"
        if "trainer_state.json" not in view.files:
            return "no trainer_state.json"
        state = json.loads(view.read("trainer_state.json", _MOST_JSON))
        if not isinstance(state, dict) or state.get("global_step") != step:
            return f"trainer_state.json is not of step {step}"
        if not any(_WEIGHTS.search(path) for path in view.files):
            return "no file of weights"
        return self._missing_shards(view) or self._missing_ranks(view)

    def _missing_shards(self, view: View) -> str | None:
        for path, each in view.files.items():
            folder = path.rpartition("/")[0]
            if path.endswith(".index.json"):
                index = msgspec.convert(json.loads(view.read(path, _MOST_JSON)), _Index)
                for shard in sorted(set(index.weight_map.values())):
                    if (f"{folder}/{shard}" if folder else shard) not in view.files:
                        return f"{brief(shard)}, named by {path}, is missing"
            elif path.endswith(".safetensors") and (expected := safetensors_size(view, path)) != each.size:
                return f"{path} has {each.size} bytes, its header says {expected}"
        return None

    def _missing_ranks(self, view: View) -> str | None:
        ranks = {int(found[1]) for path in view.files if (found := _RANK.fullmatch(path))}
        gap = next((rank for rank in range(max(ranks, default=-1) + 1) if rank not in ranks), None)
        if gap is not None:
            return f"rng_state_{gap}.pth is missing"
        return None


class _Index(msgspec.Struct):
    """`model.safetensors.index.json`, as far as it matters here."""

    weight_map: dict[str, str]


class _Tensor(msgspec.Struct):
    """One of a safetensors header."""

    data_offsets: tuple[int, int]


def safetensors_size(view: View, path: str) -> int:
    """Bytes that a safetensors file has, by its header; raises ValueError or ValidationError for a header that is none.

    Format: 8 bytes little-endian length, JSON header, tensors; https://huggingface.co/docs/safetensors#format
    """
    length = int.from_bytes(view.read(path, 8), "little")
    if not 2 <= length <= 100 << 20:
        raise ValueError(f"{path}: no safetensors header")
    header = msgspec.convert(json.loads(view.read(path, 8 + length)[8:]), dict[str, object])
    header.pop("__metadata__", None)
    tensors = msgspec.convert(header, dict[str, _Tensor])
    return 8 + length + max((each.data_offsets[1] for each in tensors.values()), default=0)


CORE_RULES: tuple[Rule, ...] = (MarkerRule(), HuggingFaceRule())


def judge(view: View, rules: Sequence[Rule]) -> tuple[Verdict, str]:
    """The most favourable verdict with its rule's name: a complete beats a quiet beats a hidden beats a torn.

    A sentinel that says "incomplete" beats them all: a marker may be left over from the save before.
    """
    if SENTINEL in view.files:
        return Verdict(State.TORN, f"{SENTINEL} is there", step_of(view.name)), "sentinel"
    order = [State.OTHER, State.TORN, State.HIDDEN, State.QUIET, State.COMPLETE]
    answers = [(_judged(rule, view), rule.name) for rule in rules]
    return max(answers, key=lambda answer: order.index(answer[0].state), default=(OTHER, ""))


def _judged(rule: Rule, view: View) -> Verdict:
    """A rule's answer. One that fails has none: it may be a plugin's, and the others' checkpoints wait."""
    try:
        return rule.judge(view)
    except Exception as error:  # whatever a plugin raises
        log.warning(
            "rule_failed",
            extra={"fields": {"rule": rule.name, "checkpoint": view.name, "why": f"{type(error).__name__}: {error}"}},
        )
        return OTHER
