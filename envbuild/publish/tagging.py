"""Tags in a registry: immutable unless a person says otherwise, and given last."""

from __future__ import annotations

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.descriptor import Descriptor
from envbuild.registry.remote import Remote


def check_tag(remote: Remote, tag: str, digest: str, *, move: bool) -> str | None:
    """See whether ``tag`` may mean ``digest``, before anything is sent.

    Args:
        remote: the repository.
        tag: the tag.
        digest: the image's.
        move: whether a tag that means another image may be moved.

    Returns:
        The digest that the tag has now, where that is another one (and may be moved); else ``None``.

    Raises:
        EnvbuildError: exit 6, the tag means another image; exit 4, the registry fails.
    """
    found = remote.head(tag)
    if found is None or found.digest == digest:
        return None
    if not move:
        raise EnvbuildError(
            "tag-exists",
            f"{remote.name}:{tag} is {found.digest} already, not {digest}",
            where=f"{remote.name}:{tag}",
            hint="tags do not move by themselves: choose another one in the recipe, or say --move-tag, which the "
            "provenance then records",
            exit=Exit.GATE,
        )
    return found.digest


def give_tag(remote: Remote, tag: str, data: bytes, manifest: Descriptor) -> None:
    """Let ``tag`` mean the manifest, which the repository has already; no blob is moved.

    A registry has no way to give a tag only where it is free, so what another publisher did at the same moment is seen
    afterwards.

    Raises:
        EnvbuildError: exit 4, the registry fails; exit 6, another publisher gave the tag to another image meanwhile.
    """
    remote.put_manifest(data, manifest.media_type, tag=tag)
    found = remote.head(tag)
    if found is None or found.digest != manifest.digest:
        raise EnvbuildError(
            "tag-lost",
            f"{remote.name}:{tag} is {found.digest if found else 'gone'}, not {manifest.digest}: "
            "another publisher gave it at the same time",
            where=f"{remote.name}:{tag}",
            hint="see who publishes this tag, then run the command again",
            exit=Exit.GATE,
        )
