"""Folders with other people's owners and modes. Called through :meth:`Sandbox.call`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from envbuild.oci.trees import remove_tree


def remove(arguments: Mapping[str, object], _advance: Callable[[int], None]) -> None:
    """Remove the file or tree ``path``; fine if there is none. Folders without permissions are opened first."""
    remove_tree(str(arguments["path"]))
