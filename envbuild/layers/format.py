"""The constants of layer format 2. Any change here changes digests and needs a new FORMAT."""

FORMAT = 2
"""Part of every layer's cache key."""

MTIME = 1577836800
"""mtime of every file in every layer, in seconds (2020-01-01T00:00:00Z): not the clock's, not the lock's."""

PYTHON = "python3.11"
VENV = "opt/venv"
SITE = f"{VENV}/lib/{PYTHON}/site-packages"
