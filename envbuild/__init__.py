"""envbuild: reproducible deep learning images, environments and Dockerfiles from one lock."""

__version__ = "0.1.0"
