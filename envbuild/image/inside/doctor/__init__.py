"""envbuild-doctor: whether this host, and the way this container was started, fits the image.

Debian's Python and its standard library only, so that it works where torch, the virtual environment or the driver do
not. Imports are relative: the folder lies in the image as ``/usr/local/lib/envbuild/doctor``.
"""
