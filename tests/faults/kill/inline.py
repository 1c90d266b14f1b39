"""`syncd` in one thread: a script that runs it with all blocking work done in the event loop, call by call.

strace counts the calls of each thread by itself, so where threads share the work the Nth call of one of them is not the Nth
of all. Here every call is one of the main thread, and each of them is reached by some N.
"""

import asyncio
import sys
from collections.abc import Callable
from typing import Any


def run_in_executor(
    self: asyncio.BaseEventLoop, executor: object, work: Callable[..., Any], *args: object
) -> "asyncio.Future[Any]":
    done = self.create_future()
    try:
        done.set_result(work(*args))
    except StopIteration as error:
        done.set_exception(RuntimeError(repr(error)))  # a future cannot hold one
    except Exception as error:  # it is the awaiting task's
        done.set_exception(error)
    return done


if __name__ == "__main__":
    from syncd.__main__ import main

    asyncio.BaseEventLoop.run_in_executor = run_in_executor  # type: ignore[method-assign,assignment]
    sys.exit(main())
