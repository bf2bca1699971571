"""What clients' frames mean: bytes in, events out, and back. No event loop, no sockets."""
