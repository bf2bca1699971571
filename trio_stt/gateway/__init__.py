"""The sockets' side: WebSocket and HTTP routes, admission."""
