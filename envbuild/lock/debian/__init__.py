"""Debian packages: signed indexes read and checked, dependencies closed."""
