"""The suite: questions asked of an image from inside it.

This folder is standalone. It is copied beside a file of expectations, mounted read-only into a container and
started as ``python -P -s -m smoke --expect FILE --report -``; it imports the standard library, and in its check
processes torch and deepspeed, and nothing of the rest of envbuild. Each check is a process of its own.
"""

FORMAT = 2
"""Format number of the expectations and of the report."""
