"""Image references, as `docker pull` reads them, with a digest."""

from __future__ import annotations

import re
from dataclasses import dataclass

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.digest import is_digest
from envbuild.store.network import is_loopback

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_REGISTRY = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?")
_HUB = "docker.io"
_HUB_API = "registry-1.docker.io"
_HUB_ACCOUNT = "https://index.docker.io/v1/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """One image in one registry: ``registry`` (host and port), ``repository``, ``digest``; ``tag`` is a comment."""

    registry: str
    repository: str
    digest: str
    tag: str | None = None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.registry}/{self.repository}{tag}@{self.digest}"

    @property
    def address(self) -> str:
        """The API's base address (distribution spec, "Endpoints"). Plain HTTP is spoken to this machine only."""
        host = _HUB_API if self.registry == _HUB else self.registry
        return f"{'http' if is_loopback(_bare_host(host)) else 'https'}://{host}/v2/{self.repository}"

    @property
    def accounts(self) -> tuple[str, ...]:
        """Under which names Docker's configuration may hold credentials."""
        if self.registry == _HUB:
            return (_HUB_ACCOUNT, _HUB, _HUB_API)
        return (
            self.registry,
            f"https://{self.registry}",
            f"https://{self.registry}/v1/",
            f"https://{self.registry}/v2/",
        )


def parse_reference(text: str) -> Reference:
    """Read ``[REGISTRY/]REPOSITORY[:TAG]@sha256:HEX``; without a registry it is Docker Hub's, as in Docker.

    Raises:
        EnvbuildError: it is malformed, or has no digest (exit 2).
    """
    name, _, digest = text.partition("@")
    first, _, rest = name.partition("/")
    if rest and ("." in first or ":" in first or first == "localhost"):
        registry, path = first, rest
    else:
        registry, path = _HUB, name
    repository, _, tag = path.partition(":")
    if registry == _HUB and "/" not in repository:
        repository = f"library/{repository}"
    if not (
        _REGISTRY.fullmatch(registry)
        and _REPOSITORY.fullmatch(repository)
        and (not tag or _TAG.fullmatch(tag))
    ):
        raise _bad(text, "is not an image reference")
    if not digest:
        raise EnvbuildError(
            "base-without-digest",
            f"{text} names no digest, and a tag may move",
            hint=f"name what it means today: {name}@sha256:… "
            f"(`skopeo inspect --format '{{{{.Digest}}}}' docker://{name}` prints the digest)",
            exit=Exit.USAGE,
            where=text,
        )
    if not is_digest(digest):
        raise _bad(text, f"has a digest that is not sha256: and 64 lower-case hex digits ({digest})")
    return Reference(registry=registry, repository=repository, digest=digest, tag=tag or None)


def _bare_host(host: str) -> str:
    return host.partition("]")[0].strip("[") if host.startswith("[") else host.partition(":")[0]


def _bad(text: str, what: str) -> EnvbuildError:
    return EnvbuildError(
        "bad-image-reference",
        f"{text!r} {what}",
        hint="write it as REGISTRY/REPOSITORY@sha256:DIGEST",
        exit=Exit.USAGE,
        where=text,
    )
