"""Thousands of messages a second at their own times, at little cost: the load that a server is measured under."""
