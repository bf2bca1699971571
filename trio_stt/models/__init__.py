"""Models on disk: which exist, where they come from, how their graphs are compiled."""
