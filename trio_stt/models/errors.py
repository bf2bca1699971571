"""What goes wrong with models, in words for people."""

from __future__ import annotations


class ModelStoreError(Exception):
    """Something about a model cannot be done. The message says what, why, and what to do; it is shown as it is."""


class SourceError(ModelStoreError):
    """One source cannot give the archive; the next may."""
