"""What a speaker is told who does not get the speech model of its language, and an operator who cannot move one."""

from __future__ import annotations

from trio_stt.dialects.request import Refusal, language_unavailable
from trio_stt.recognition.model_shelf import LoadOutcome, NotLent, UnloadOutcome
from trio_stt.recognition.shelved_model import Unavailable

_WHY = {
    Unavailable.LOADING: ("model_loading", "its speech model is being loaded"),
    Unavailable.FAILING: ("recogniser_unavailable", "its speech model fails and will be tried again"),
    Unavailable.NO_MEMORY: ("model_memory_full", "its speech model finds no room beside those in use"),
    Unavailable.ALL_TAKEN: ("full", "its speech model has as many speakers as there is memory for"),
}
"""Code and reason by what stands in the way."""


def refusal_of(language: str, not_lent: NotLent) -> Refusal:
    """The answer to a client that asked to speak `language` (BCP-47), before its upgrade."""
    if not_lent.why is Unavailable.NOT_INSTALLED:
        return language_unavailable(language)
    code, reason = _WHY[not_lent.why]
    wait_s = not_lent.retry_after_s
    return Refusal(503, code, f"language {language}: {reason}; try again in {wait_s} s", "language", wait_s)


def failure_on_stream(language: str, not_lent: NotLent) -> Refusal:
    """The answer to a client that asked for it on an open stream: always `language_unavailable`, with the reason."""
    refusal = refusal_of(language, not_lent)
    return Refusal(400, "language_unavailable", refusal.message, "language")


def not_loaded(language: str, outcome: LoadOutcome) -> Refusal | None:
    """Why a model is not loaded as an operator wanted it, or None if it is."""
    match outcome:
        case LoadOutcome.LOADED | LoadOutcome.ALREADY_LOADED:
            return None
        case LoadOutcome.NOT_INSTALLED:
            return language_unavailable(language)
        case LoadOutcome.NO_MEMORY:
            message = "its speech model finds no room beside those in use; raise MODELS_MEMORY_MB or unload another"
            return Refusal(503, "model_memory_full", f"language {language}: {message}", "language")
        case LoadOutcome.FAILED:
            message = "its speech model cannot be loaded; the server's log says why"
            return Refusal(503, "recogniser_unavailable", f"language {language}: {message}", "language")


def not_unloaded(language: str, outcome: UnloadOutcome) -> Refusal | None:
    """Why a model is still loaded though an operator wanted it gone, or None if it is."""
    match outcome:
        case UnloadOutcome.UNLOADED | UnloadOutcome.NOT_LOADED:
            return None
        case UnloadOutcome.NOT_INSTALLED:
            return language_unavailable(language)
        case UnloadOutcome.IN_USE:
            message = "somebody speaks it now; end those streams first (trio-stt admin streams)"
            return Refusal(409, "model_in_use", f"language {language}: {message}", "language")
        case UnloadOutcome.OWN:
            message = "the model of the server's own LANGUAGE stays loaded"
            return Refusal(409, "own_language", f"language {language}: {message}", "language")
