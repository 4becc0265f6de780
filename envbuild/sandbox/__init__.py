"""Root filesystems entered by namespaces: no daemon, no network, fixed paths (docs/explanation/sandbox.md)."""

from envbuild.sandbox.host import Sandbox
from envbuild.sandbox.model import SHM_SIZE, Bind, Command, Rootfs

__all__ = ["SHM_SIZE", "Bind", "Command", "Rootfs", "Sandbox"]
