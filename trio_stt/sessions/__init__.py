"""Who speaks and who hears: one speaker's stream, the call it belongs to, and the bus between instances."""
