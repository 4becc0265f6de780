"""Locks: resolving Python and Debian packages, reading and writing ``lock.json``."""
