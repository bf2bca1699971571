"""Measurements: the engine alone, and the server under real speech."""
