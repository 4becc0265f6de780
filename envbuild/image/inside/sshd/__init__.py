"""envbuild-sshd: OpenSSH's server in a container: keys only, for debugging and for training on several machines.

Debian's Python and its standard library only; it lies in the image as ``/usr/local/lib/envbuild/sshd``.
"""
