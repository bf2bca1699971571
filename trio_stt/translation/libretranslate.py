"""A LibreTranslate server, or any other that speaks its protocol: ``POST /translate``, ``GET /languages``."""

from __future__ import annotations

import json
import logging
from typing import Any

import httpx

from trio_stt.translation.engine import Pair, TranslationError

MAX_ANSWER_BYTES = 1_000_000
"""More than this is no translation of a caption."""


logging.getLogger("httpx").setLevel(logging.WARNING)  # its line for each request would be one for each caption


class LibreTranslate:
    """Translates by HTTP. Texts leave this machine if the server is elsewhere."""

    name = "libretranslate"

    def __init__(self, url: str, api_key: str = "", *, timeout_s: float) -> None:
        """`url`: the server's address, to which ``/translate`` is added; `timeout_s`: for each wait on the network."""
        self._api_key = api_key
        self._client = httpx.Client(base_url=url, timeout=timeout_s)
        self._codes: dict[str, str] = {}
        self._pairs: frozenset[Pair] | None = None

    @property
    def pairs(self) -> frozenset[Pair] | None:
        """What the server said that it translates."""
        return self._pairs

    def load(self) -> None:
        """Asks the server for its languages."""
        if self._pairs is not None:
            return
        try:
            languages = [
                (str(each["code"]), [str(code) for code in each["targets"]]) for each in self._ask("languages")
            ]
        except (TypeError, KeyError) as error:
            raise TranslationError("the LibreTranslate server's list of languages is not understood") from error
        if not languages:
            raise TranslationError("the LibreTranslate server has no languages")
        # Of several forms of one language (zh-Hans, zh-Hant), the first that is listed stands for it.
        for code, _ in reversed(languages):
            self._codes[_primary(code)] = code
        self._pairs = frozenset(
            (_primary(code), _primary(target))
            for code, targets in languages
            for target in targets
            if _primary(code) != _primary(target)
        )

    def translate(self, text: str, source: str, target: str) -> str:
        """Asks the server."""
        self.load()
        question = {"q": text, "source": self._code(source), "target": self._code(target), "format": "text"}
        if self._api_key:
            question["api_key"] = self._api_key
        answer = self._ask("translate", question)
        translated = answer.get("translatedText") if isinstance(answer, dict) else None
        if not isinstance(translated, str):
            raise TranslationError("the LibreTranslate server's answer holds no translatedText")
        return translated.encode("utf-8", "replace").decode()  # half a surrogate pair could be sent to nobody

    def _code(self, language: str) -> str:
        return self._codes.get(language, language)

    def _ask(self, route: str, question: dict[str, str] | None = None) -> Any:
        try:
            with self._client.stream("GET" if question is None else "POST", route, json=question) as answer:
                body = b""
                for piece in answer.iter_bytes():
                    body += piece
                    if len(body) > MAX_ANSWER_BYTES:
                        raise TranslationError(f"the LibreTranslate server's answer exceeds {MAX_ANSWER_BYTES:,} bytes")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise TranslationError(f"the LibreTranslate server cannot be asked: {type(error).__name__}") from error
        if answer.status_code != httpx.codes.OK:
            raise TranslationError(f"the LibreTranslate server answered with HTTP {answer.status_code}")
        try:
            return json.loads(body)
        except ValueError as error:
            raise TranslationError("the LibreTranslate server's answer is not JSON") from error


def _primary(code: str) -> str:
    # LibreTranslate's own codes for Brazilian Portuguese and traditional Chinese, before it took BCP-47's.
    return {"pb": "pt", "zt": "zh"}.get(code, code.partition("-")[0].lower())
