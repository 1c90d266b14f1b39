"""Canonical JSON: one value has one spelling, so that 'the same bytes' can decide who wrote an object."""

import hashlib
from typing import TypeVar

import msgspec

from syncd.errors import Corrupt, brief

T = TypeVar("T")
MAX_JSON = 64 << 20
"""Largest JSON object that is ever parsed, bytes: a manifest of 100,000 files has about 20 MiB."""


def encode(value: object) -> bytes:
    """The canonical bytes of a noun: sorted keys, no spaces, UTF-8, one newline at the end."""
    return msgspec.json.encode(value, order="sorted") + b"\n"


def decode(data: bytes, kind: type[T], where: str) -> T:
    """Parse untrusted bytes as `kind`; unknown fields are ignored, so that newer writers can be read.

    Raises `Corrupt`, naming `where`, for anything else than a well-formed value.
    """
    if len(data) > MAX_JSON:
        raise Corrupt(f"{where}: {len(data)} bytes of JSON, more than {MAX_JSON}; not read")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise Corrupt(f"{where}: not a valid {kind.__name__}: {brief(str(error))}") from None


def digest(data: bytes) -> str:
    """`sha256:<hex>` of small bytes (a manifest), where an accident of a weaker sum would choose a wrong line."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def builtins(value: object) -> dict[str, object]:
    """A noun as plain dicts, lists and scalars, for those who speak another encoding."""
    plain: dict[str, object] = msgspec.to_builtins(value)
    return plain
