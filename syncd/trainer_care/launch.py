"""Become the trainer's command, with SIGTERM at the daemon's death; run as `python -I -S launch.py PARENT CMD…`.

A program of its own because a `preexec_fn` runs Python between fork and exec of a threaded process, which can deadlock.
Imports nothing from syncd: `-I -S` has no site-packages.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> int:
    """Replace this process by `command`; returns an exit code only where that fails: 126, 127, or 143."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        sys.stderr.write(f"syncd: no parent-death signal: {os.strerror(ctypes.get_errno())}\n")
    if os.getppid() != parent:  # it died before prctl: no signal will come
        return 128 + signal.SIGTERM
    for name in ("SIGPIPE", "SIGXFSZ"):  # Python ignores these, and ignored signals survive exec
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    try:
        os.execvp(command[0], command)  # noqa: S606 - the user's command is what it is for
    except OSError as error:
        sys.stderr.write(f"syncd: cannot execute {command[0]}: {error.strerror}\n")
        return 127 if isinstance(error, FileNotFoundError | NotADirectoryError) else 126


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
