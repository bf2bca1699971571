"""The program with the allocator that it is given: in processes of their own, since a process has but one."""

import os
import subprocess
import sys
from pathlib import Path

from trio_stt.operations import allocator

PROGRAM = """
import os, sys
from trio_stt.operations import allocator
allocator.start_with_jemalloc()
ours = "LD_PRELOAD", "MALLOC_CONF", "PYTHONMALLOC"
print(allocator.in_use(), sys.argv[1:], [name for name in ours if name in os.environ])
"""


def run(*arguments: str, **environment: str) -> str:
    inherited = {
        name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", "MALLOC_CONF", "PYTHONMALLOC")
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    return done.stdout.strip()


def test_the_program_starts_anew_with_jemalloc_and_its_arguments_and_passes_nothing_on() -> None:
    assert run("serve", "--port 1") == "jemalloc ['serve', '--port 1'] []"


def test_a_program_that_was_given_jemalloc_does_not_start_anew() -> None:
    program = PROGRAM.replace("allocator.start_with_jemalloc()", "print(allocator.is_chosen(), allocator.is_chosen())")
    given = allocator.preloaded({"PATH": os.environ["PATH"], "MALLOC_CONF": "narenas:2"})
    assert given["MALLOC_CONF"] == "narenas:2"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=given, capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.splitlines() == ["True False", "jemalloc [] []"]


def test_another_allocator_is_not_replaced() -> None:
    assert allocator.preloaded({"LD_PRELOAD": "libc.so.6"}) == {"LD_PRELOAD": "libc.so.6"}


def test_whoever_chose_an_allocator_keeps_it() -> None:
    assert run(LD_PRELOAD="libc.so.6") == "system [] ['LD_PRELOAD']"


def test_the_first_that_is_there_is_taken(tmp_path: Path) -> None:
    folders = [str(tmp_path / name) for name in ("local", "system")]
    assert allocator.find_library(folders) is None
    (tmp_path / "system").mkdir()
    (tmp_path / "system" / allocator.LIBRARY).touch()
    assert allocator.find_library(folders) == f"{folders[1]}/{allocator.LIBRARY}"
