"""Names of repositories and images in registries, and where a registry is spoken to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.digest import is_digest
from envbuild.store.network import is_loopback

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_REGISTRY = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?")
_LONGEST = 255
_HUB = "docker.io"
_HUB_API = "registry-1.docker.io"
_HUB_ACCOUNT = "https://index.docker.io/v1/"
_ACCOUNT = re.compile(r"^([a-z]+://)?[^/@]*:[^/@]*@(?!sha256:)")
PLAIN_HTTP = "ENVBUILD_PLAIN_HTTP"


@dataclass(frozen=True, slots=True)
class Repository:
    """One repository of one registry: ``registry`` is host and port, ``repository`` the path in it."""

    registry: str
    repository: str

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}"

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


@dataclass(frozen=True, slots=True)
class ImageName:
    """One image in one repository: by ``digest``, by ``tag``, or both; then the digest counts."""

    repository: Repository
    tag: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.repository}{tag}{digest}"

    @property
    def reference(self) -> str:
        """What the API calls ``<reference>``: the digest, or the tag where there is none."""
        return self.digest or self.tag or ""


def parse_repository(text: str) -> Repository:
    """Read ``REGISTRY/REPOSITORY``, neither tag nor digest in it.

    Raises:
        EnvbuildError: ``bad-repository``: malformed, without a registry's host, or with a tag or digest (exit 2).
    """
    name, at, _ = text.partition("@")
    registry, path = _split(name)
    repository, colon, _ = path.partition(":")
    if "://" in text:
        raise _bad_repository(text, "is an address", "REGISTRY/REPOSITORY, without http:// or https://")
    if not registry and _is_host(name):
        raise _bad_repository(text, "names a registry and no repository", f"{name.rstrip('/')}/REPOSITORY")
    if not registry:
        raise _bad_repository(
            text, "names no registry", f"REGISTRY/{repository or 'REPOSITORY'}, with its host"
        )
    found = _repository(registry, repository)
    if found is None:
        raise _bad_repository(
            text,
            "is not the name of a repository",
            "REGISTRY/REPOSITORY; a repository has lower-case letters, digits and . _ - / only",
        )
    if at or colon:
        raise _bad_repository(text, "names a tag or a digest, and only a repository is wanted", str(found))
    return found


def parse_neighbour(text: str, repository: Repository) -> str:
    """Read the name of another repository of the same registry, which may stand in front; returns it without.

    Raises:
        EnvbuildError: ``bad-repository``: malformed, with a tag or digest, or in another registry (exit 2).
    """
    path = text.removeprefix(f"{repository.registry}/")
    if _REPOSITORY.fullmatch(path) and not _split(path)[0]:
        return path
    form = f"REPOSITORY or {repository.registry}/REPOSITORY, without tag and digest"
    raise _bad_repository(text, f"is not the name of a repository of {repository.registry}", form)


def parse_image_name(text: str) -> ImageName:
    """Read ``REGISTRY/REPOSITORY[:TAG][@sha256:HEX]`` with at least one of tag and digest.

    Raises:
        EnvbuildError: ``bad-image-reference`` (exit 2).
    """
    name, at, digest = text.partition("@")
    registry, path = _split(name)
    repository, colon, tag = path.partition(":")
    found = _repository(registry, repository) if registry else None
    if found is None or (colon and not _TAG.fullmatch(tag)):
        raise _bad(text, "is not the name of an image in a registry", "REGISTRY/REPOSITORY:TAG")
    if at and not is_digest(digest):
        raise _bad_digest(text, digest)
    if not colon and not at:
        raise _bad(text, "has neither a tag nor a digest", f"{text}:TAG or {text}@sha256:DIGEST")
    return ImageName(found, tag or None, digest or None)


def is_image_name(text: str) -> bool:
    """Whether ``text`` has a registry's host in front and a repository behind it, as `docker pull` tells them.

    ``pytorch-cuda:v2.7`` has not, ``127.0.0.1:5000/team/app:v2.7`` has.
    """
    registry, path = _split(text.partition("@")[0])
    return bool(path) and _REGISTRY.fullmatch(registry) is not None


def is_tag(value: object) -> TypeGuard[str]:
    """Whether ``value`` is a tag (distribution spec, "Pulling manifests")."""
    return isinstance(value, str) and _TAG.fullmatch(value) is not None


def parse_reference(text: str) -> ImageName:
    """Read ``[REGISTRY/]REPOSITORY[:TAG]@sha256:HEX``; without a registry it is Docker Hub's, as in Docker.

    Raises:
        EnvbuildError: it is malformed, or has no digest (exit 2).
    """
    name, _, digest = text.partition("@")
    registry, path = _split(name)
    repository, _, tag = path.partition(":")
    found = _repository(registry or _HUB, repository)
    if found is None or (tag and not _TAG.fullmatch(tag)):
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
        raise _bad_digest(text, digest)
    return ImageName(found, tag or None, digest)


def base_address(repository: Repository, environ: Mapping[str, str]) -> str:
    """The API's base address of a repository (distribution spec, "Endpoints").

    Plain HTTP is spoken with this machine, and with the registries that ``ENVBUILD_PLAIN_HTTP`` names.
    """
    host = _HUB_API if repository.registry == _HUB else repository.registry
    return f"{'http' if speaks_plain(host, environ) else 'https'}://{host}/v2/{repository.repository}"


def speaks_plain(host: str, environ: Mapping[str, str]) -> bool:
    """Whether plain HTTP may be spoken with ``host``, which may have a port."""
    bare = _bare_host(host)
    named = {item.strip().lower() for item in environ.get(PLAIN_HTTP, "").split(",")}
    return is_loopback(bare) or host.lower() in named or bare.lower() in named


def _split(name: str) -> tuple[str, str]:
    """The registry, empty where none is named, and the rest (Docker's rule: a dot, a colon, or localhost)."""
    first, _, rest = name.partition("/")
    if rest and ("." in first or ":" in first or first == "localhost"):
        return first, rest
    return "", name


def _is_host(name: str) -> bool:
    """Whether a name without a repository can only be a registry's: by Docker's rule, and nothing follows it."""
    host = name.removesuffix("/")
    return _REGISTRY.fullmatch(host) is not None and bool(_split(f"{host}/x")[0])


def _repository(registry: str, path: str) -> Repository | None:
    if registry == _HUB and "/" not in path:
        path = f"library/{path}"
    if not (_REGISTRY.fullmatch(registry) and _REPOSITORY.fullmatch(path)) or len(path) > _LONGEST:
        return None
    port = registry.rpartition(":")[2] if not registry.endswith("]") and ":" in registry else "1"
    if not 0 < int(port) < 1 << 16:
        return None
    return Repository(registry, path)


def _bare_host(host: str) -> str:
    return host.partition("]")[0].strip("[") if host.startswith("[") else host.partition(":")[0]


def _bad_repository(text: str, what: str, form: str) -> EnvbuildError:
    shown = _shown(text)
    return EnvbuildError(
        "bad-repository", f"{shown!r} {what}", hint=f"write {form}", exit=Exit.USAGE, where=shown
    )


def _bad_digest(text: str, digest: str) -> EnvbuildError:
    return _bad(text, f"has a digest that is not sha256: and 64 lower-case hex digits ({digest})")


def _bad(text: str, what: str, form: str = "REGISTRY/REPOSITORY@sha256:DIGEST") -> EnvbuildError:
    shown = _shown(text)
    return EnvbuildError(
        "bad-image-reference", f"{shown!r} {what}", hint=f"write it as {form}", exit=Exit.USAGE, where=shown
    )


def _shown(text: str) -> str:
    """``text`` without a user and password in front of a host, where somebody wrote them."""
    return _ACCOUNT.sub(r"\1", text)
