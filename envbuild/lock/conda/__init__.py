"""Conda locks: solving from channels, reading and writing ``conda.lock.json``."""
