"""The types of settings: how a value is written, read and shown."""

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

AUTO = "auto"
MOST_URL = 1000
"""Characters."""
MOST_BYTES = 1 << 50
"""Of any size or rate: beyond, somebody mistyped."""


@dataclass(frozen=True, slots=True)
class Shown:
    """How people write and read a value: its placeholder in the help, its text."""

    metavar: str
    text: Callable[[Any], str] = str


def parse_bytes(value: object) -> object:
    """Bytes from `64MiB`, `10MB`, `10M` (decimal) or, for rates, `20Mbit` (bits) and `10MB/s`; numbers pass.

    >>> parse_bytes("64MiB"), parse_bytes("20Mbit")
    (67108864, 2500000)
    """
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([kmgt])(i)?)?(b|bit|bps)?(?:/s)?\s*", value, re.IGNORECASE)
    if not found:
        raise ValueError("a size is expected, such as 64MiB, 10MB or 20Mbit")
    number, prefix, binary, unit = found.groups(default="")
    factor = (1024 if binary else 1000) ** (" kmgt".index(prefix.lower()) if prefix else 0)
    size = float(number) * factor / (8 if unit.lower() in ("bit", "bps") else 1)
    if size > MOST_BYTES:
        raise ValueError(f"at most {show_bytes(MOST_BYTES)} make sense")
    return int(size)


def parse_rate(value: object) -> object:
    """`auto`, or what `parse_bytes` takes."""
    if isinstance(value, str) and value.strip().lower() == AUTO:
        return AUTO
    number = parse_bytes(value)
    if isinstance(number, int) and not 0 <= number <= MOST_BYTES:
        raise ValueError(f"a rate is 0 to {show_bytes(MOST_BYTES)} a second, or auto")
    return number


def parse_reserve(value: object) -> object:
    """`auto`, or a size."""
    if isinstance(value, str) and value.strip().lower() == AUTO:
        return AUTO
    number = parse_bytes(value)
    if isinstance(number, int) and number < 0:
        raise ValueError("a size is 0 or more bytes, such as 20GiB, or auto")
    return number


def show_bytes(value: int) -> str:
    """The shortest exact spelling that `parse_bytes` reads.

    >>> show_bytes(64 << 20), show_bytes(10_000_000), show_bytes(1234)
    ('64MiB', '10MB', '1234')
    """
    for base, units in ((1024, ("TiB", "GiB", "MiB", "KiB")), (1000, ("TB", "GB", "MB", "kB"))):
        for power, unit in zip((4, 3, 2, 1), units, strict=True):
            if value and value % base**power == 0:
                return f"{value // base**power}{unit}"
    return str(value)


def parse_seconds(value: object) -> object:
    """Seconds from `90`, `90s`, `15m` or `1h`; numbers pass."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(s|m|h|)\s*", value)
    if not found:
        raise ValueError("a number of seconds is expected, or one with s, m or h, such as 15m")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def parse_globs(value: object) -> object:
    """Patterns from `a,b`; lists pass."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def check_globs(value: tuple[str, ...]) -> tuple[str, ...]:
    """Patterns that stay below the root."""
    for glob in value:
        if glob.startswith("/") or ".." in glob.split("/"):
            raise ValueError(f"{glob!r} leads out of the root; patterns are relative to it")
    return value


def check_url(url: str) -> str:
    """A URL with a scheme and without userinfo, which would end up in logs and listings."""
    if not url.isprintable() or len(url) > MOST_URL:
        raise ValueError(f"a URL is at most {MOST_URL} characters without line breaks and the like")
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", url):
        raise ValueError(f"a URL is expected, such as s3://bucket/prefix or {Path('/', url).as_uri()}")
    if "@" in urlsplit(url).netloc:
        raise ValueError("credentials do not belong in a URL; set them by their own names (for S3 AWS_ACCESS_KEY_ID …)")
    return url


def check_root(path: Path) -> Path:
    """Absolute, links followed, `~` expanded."""
    try:
        return path.expanduser().resolve()
    except (RuntimeError, OSError, ValueError) as error:
        raise ValueError(str(error)) from None


def check_name(text: str) -> str:
    """One component of a key and of a topic."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", text):
        raise ValueError(f"up to 128 letters, digits, '.', '_' and '-' are allowed, such as {clean_name(text)!r}")
    return text


def default_task(root: Path) -> str:
    """A name for a root: its last component, and a sum of its whole path.

    Two projects that both write into `out` must not take each other's place in the store that is theirs by default.
    """
    return f"{clean_name(root.name)[:110]}-{zlib.crc32(bytes(root)):08x}"


def clean_name(text: str) -> str:
    """`text` as `check_name` wants it: `-` for what is not allowed, `default` when nothing is left.

    >>> clean_name("my run (2)")
    'my-run-2'
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:128].strip(".-") or "default"


def show_rate(value: int | str) -> str:
    """As `parse_rate` reads it."""
    return show_bytes(value) if isinstance(value, int) else value


_SECONDS = (BeforeValidator(parse_seconds), Shown("SECONDS", "{:g}".format))
_GLOBS = (BeforeValidator(parse_globs), AfterValidator(check_globs), Shown("GLOBS", ",".join))

Seconds = Annotated[float, *_SECONDS, Field(ge=0, allow_inf_nan=False)]
Period = Annotated[float, *_SECONDS, Field(gt=0, allow_inf_nan=False)]
Bytes = Annotated[int, BeforeValidator(parse_bytes), Shown("SIZE", show_bytes), Field(ge=0, le=MOST_BYTES)]
Rate = Annotated[int | Literal["auto"], BeforeValidator(parse_rate), Shown("RATE", show_rate)]
Reserve = Annotated[int | Literal["auto"], BeforeValidator(parse_reserve), Shown("SIZE", show_rate)]
Globs = Annotated[tuple[str, ...], *_GLOBS]
Name = Annotated[str, AfterValidator(check_name), Shown("NAME")]
Url = Annotated[str, AfterValidator(check_url), Shown("URL")]
Root = Annotated[Path, AfterValidator(check_root), Shown("DIR")]
Lower = BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)
