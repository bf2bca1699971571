"""`trio-stt transcribe`: files, standard input or a microphone in, captions out, through a server's WebSocket."""
