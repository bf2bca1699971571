"""Self-hosted real-time captions for calls: live speech in over WebSocket, captions out while the words are spoken."""

__version__ = "0.1.0"
