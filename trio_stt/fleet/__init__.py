"""The local fleet: several instances on one machine behind nginx, as one service."""
