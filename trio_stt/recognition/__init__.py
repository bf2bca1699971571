"""Words from samples: the engine's protocol, Vosk behind it, the threads it runs in and the breaker before it."""
