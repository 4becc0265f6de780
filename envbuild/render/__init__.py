"""Text files from recipe and lock: a Dockerfile on NVIDIA's base, environment.yml (docs/reference/render.md)."""

from envbuild.render.files import check, render, write

__all__ = ["check", "render", "write"]
