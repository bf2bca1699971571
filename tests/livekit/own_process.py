"""Tests that use LiveKit's SDK run in a process of their own: its native library has threads, and panics end it."""

import asyncio
import importlib
import inspect
import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection

from agent.process_end import end_process

LONGEST_S = 200


def in_own_process(test: Callable) -> Callable:
    """Runs the coroutine function with asyncio, in a new process; what fails there fails here."""

    def run(*arguments: object, **named: object) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_run, args=(theirs, test.__module__, test.__qualname__, arguments, named))
        process.start()
        theirs.close()
        try:
            failure = ours.recv() if ours.poll(LONGEST_S) else f"not done after {LONGEST_S} s"
        except EOFError:
            failure = "the process died"
        finally:
            process.join(10)
            process.kill()
            process.join()
            ours.close()
        assert failure is None, failure
        assert process.exitcode == 0, "it was done, but did not end"

    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        setattr(run, name, getattr(test, name))
    run.__signature__ = inspect.signature(test)  # the fixtures that it asks for
    run.itself = test
    return run


def _run(pipe: Connection, module: str, name: str, arguments: tuple, named: dict) -> None:
    try:
        test = getattr(importlib.import_module(module), name).itself
        asyncio.run(asyncio.wait_for(test(*arguments, **named), LONGEST_S - 20))
    except BaseException:  # noqa: BLE001  (also an interrupt fails the test)
        pipe.send(traceback.format_exc())
    else:
        pipe.send(None)
    end_process(0)
