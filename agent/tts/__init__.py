"""Speech: text becomes sound, sentence by sentence, in a process of its own."""
