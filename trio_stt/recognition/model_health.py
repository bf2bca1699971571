"""How the speech models of an instance are, for `/health` and `/ws/stats`."""

from __future__ import annotations

from trio_stt.operations.health import PartHealth, Status
from trio_stt.recognition.breaker import BreakerState
from trio_stt.recognition.model_shelf import ModelShelf
from trio_stt.recognition.shelved_model import ModelState

_STATUS = {
    BreakerState.CLOSED: Status.HEALTHY,
    BreakerState.HALF_OPEN: Status.DEGRADED,
    BreakerState.OPEN: Status.UNHEALTHY,
}


def models_as_they_stand(shelf: ModelShelf) -> dict[str, dict[str, object]]:
    """Each known model by its folder's name."""
    return {
        model.name: {
            "language": model.language,
            "state": model.state.value,
            "users": model.users,
            "memory_mb": model.memory_mb,
        }
        for model in shelf.statistics()
    }


def shelf_health(shelf: ModelShelf, limit_mb: float) -> PartHealth:
    """Which models are loaded, and what they take."""
    models = shelf.statistics()
    figures: dict[str, object] = {
        "models": models_as_they_stand(shelf),
        "memory_mb": round(shelf.memory_mb),
        "memory_limit_mb": round(limit_mb),
    }
    failing = ", ".join(model.name for model in models if model.state is ModelState.FAILING)
    if failing:
        return PartHealth(Status.DEGRADED, f"failing: {failing}", figures)
    return PartHealth(Status.HEALTHY, f"{shelf.loaded} loaded", figures)


def recogniser_health(shelf: ModelShelf) -> PartHealth:
    """The breakers of the models in service: unhealthy only if none of the loaded ones works."""
    seen = {model: model.breaker.statistics() for model in shelf.in_service}
    figures: dict[str, object] = {
        "breakers": {model.breaker.name: one.state.value for model, one in seen.items()},
        "recent_failures": sum(one.failures for one in seen.values()),
    }
    worst = max(_STATUS[one.state] for one in seen.values())
    if worst is Status.HEALTHY:
        return PartHealth(Status.HEALTHY, "working", figures)
    loaded = [_STATUS[one.state] for model, one in seen.items() if model is shelf.own or model.engine is not None]
    best = min(loaded)
    if best is Status.HEALTHY:
        return PartHealth(Status.DEGRADED, "failing for some languages, whose new speakers are refused", figures)
    return PartHealth(best, "failing, new speakers are refused", figures)
