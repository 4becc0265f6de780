"""The command line. Nothing below it knows argv, the environment or the terminal."""

from envbuild.cli.app import main

__all__ = ["main"]
