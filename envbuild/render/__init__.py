"""Text files from recipe and locks: Dockerfiles on NVIDIA's bases, conda environments (docs/reference/render.md)."""

from envbuild.render.files import check, render, write

__all__ = ["check", "render", "write"]
