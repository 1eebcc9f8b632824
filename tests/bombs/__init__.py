"""Bodies that cost far more than their length, and bodies of chance: what the daemon does with them, in how much memory."""
