"""The LiveKit agent: it sits in a room, has what is said there captioned by the server, and shows the captions.

A process of its own on asyncio (``python -m agent``), and a client of the server like any other: docs/agent.md.
"""
