"""A process that answers as the synthesiser does, and misbehaves when the text says so.

`python -m tests.agent.played_synthesiser NOTES`: each request is noted in that file. Texts: ``die``; ``die once`` (if
it was not asked that before); ``hang``; ``slow`` (until cancelled); ``fail``; ``garbage``; ``wrong id``; any other is
spoken as 100 samples a character, each the number of the request.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

from agent.tts.frames import write_frame

notes = Path(sys.argv[1])
how_to_start = notes.with_suffix(".start").read_text() if notes.with_suffix(".start").exists() else ""
if how_to_start == "fail":
    write_frame(sys.stdout.buffer, {"status": "failed", "error": "no such file"})
    sys.exit(1)
if how_to_start == "hang":
    time.sleep(60)
write_frame(sys.stdout.buffer, {"status": "ready"})

cancelled = threading.Event()
requests = []
news = threading.Semaphore(0)


def read() -> None:
    for line in sys.stdin.buffer:
        content = json.loads(line)
        if "cancel" in content:
            cancelled.set()
        else:
            requests.append(content)
            news.release()
    os._exit(0)


threading.Thread(target=read, daemon=True).start()
while True:
    news.acquire()
    request = requests.pop(0)
    id, text = request["id"], request["text"]
    asked_before = text in notes.read_text().splitlines() if notes.exists() else False
    with notes.open("a") as file:
        file.write(text + "\n")
    if text == "die" or (text == "die once" and not asked_before):
        os._exit(9)
    if text == "hang":
        time.sleep(60)
    if text == "garbage":
        os.write(1, b"\xff" * 100)
        continue
    if text == "slow":
        cancelled.wait()
        cancelled.clear()
        write_frame(sys.stdout.buffer, {"id": id, "status": "cancelled"})
    elif text == "fail":
        write_frame(sys.stdout.buffer, {"id": id, "status": "failed", "error": "ValueError"})
    else:
        samples = id.to_bytes(2, "little") * (100 * len(text))
        write_frame(sys.stdout.buffer, {"id": 0 if text == "wrong id" else id, "status": "spoken"}, samples)
