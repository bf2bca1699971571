"""Samples only: encodings, rates, voice activity and the speech gate."""
