"""Self-hosted real-time captions for calls: live speech in over WebSocket, captions out while the words are spoken."""

import os

# ONNX Runtime (since 1.29) tells its maker what runs where, and keeps a number of the device in the home folder, unless
# this is set before it is imported. No sound and no word is in that; but nothing at all is to leave this machine.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__ = "0.1.0"
