"""How sizes and times are said to people."""

import time
from urllib.parse import urlsplit


def bytes_(count: int) -> str:
    """`1.5 MiB`.

    >>> bytes_(1536 << 10)
    '1.5 MiB'
    """
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def when(seconds: float) -> str:
    """Local time of seconds since the epoch, to the second."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return f"{seconds:g} s"  # no calendar has it


def ago(seconds: float) -> str:
    """`3 m 20 s`.

    >>> ago(200)
    '3 m 20 s'
    """
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} m"


def without_query(url: str) -> str:
    """A store's URL without its query, where some services have a signature."""
    return urlsplit(url)._replace(query="", fragment="").geturl()
