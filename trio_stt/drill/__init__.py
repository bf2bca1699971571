"""Drills: a fleet with its people talking, hurt on purpose, and what they saw of it."""
