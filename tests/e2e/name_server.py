"""A name server as Docker has one: it answers each question for IPv4 addresses with those that are set."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_ANSWER = bytes.fromhex("c00c00010001")  # the name of the question, an A record of the Internet
_TTL_S = 600  # as Docker's


class NameServer:
    def __init__(self) -> None:
        self.addresses: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._socket.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            question, client = self._socket.recvfrom(512)
            if not question:
                return
            self._socket.sendto(_answer(question, list(self.addresses)), client)


def _answer(question: bytes, addresses: list[str]) -> bytes:
    no_such_name = 0 if addresses else 3
    head = question[:2] + (0x8180 | no_such_name).to_bytes(2, "big")
    counts = b"\0\1" + len(addresses).to_bytes(2, "big") + b"\0\0\0\0"
    end_of_name = question.index(b"\0", 12)
    asked = question[12 : end_of_name + 5]
    records = [_ANSWER + _TTL_S.to_bytes(4, "big") + b"\0\4" + socket.inet_aton(address) for address in addresses]
    return head + counts + asked + b"".join(records)


@contextmanager
def name_server() -> Iterator[NameServer]:
    server = NameServer()
    try:
        yield server
    finally:
        server.close()
