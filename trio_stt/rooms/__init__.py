"""LiveKit rooms that want captions: who may ask for them, which agent goes in, and that it is exactly one.

Shared by the servers (Trio), which take the requests, and the agents (asyncio), which go into the rooms: what waits
here does so with anyio.
"""
