"""envbuild-jupyter: JupyterLab in a container, with a token.

Debian's Python and its standard library only; it lies in the image as ``/usr/local/lib/envbuild/jupyter``.
"""
