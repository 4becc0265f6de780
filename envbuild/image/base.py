"""An image of a registry as the base."""

from __future__ import annotations

from collections.abc import Mapping

from envbuild.image.plan import ImageBase
from envbuild.layers.base_image import base_from_image
from envbuild.oci.digest import is_digest
from envbuild.progress import Progress
from envbuild.registry import pull_image
from envbuild.sandbox import Sandbox
from envbuild.store import Http, Store


def pull_base(
    reference: str,
    *,
    store: Store,
    sandbox: Sandbox,
    http: Http,
    environ: Mapping[str, str],
    jobs: int,
    progress: Progress,
) -> ImageBase:
    """Bring the image that ``reference`` names by digest into the store, and see that envbuild can build on it.

    Raises:
        EnvbuildError: what pulling raises; exit 3 when it has no Python 3.11 or too old a C library.
    """
    pulled = pull_image(reference, store=store, http=http, environ=environ, jobs=jobs, progress=progress)
    variables = (pulled.config.get("config") or {}).get("Env") or []
    root = base_from_image(reference, pulled.layers, sandbox=sandbox, store=store, progress=progress)
    digest = reference.rpartition("@")[2]
    assert is_digest(digest)
    return ImageBase(
        reference=reference,
        digest=digest,
        layers=pulled.layers,
        env=dict(str(item).partition("=")[::2] for item in variables),
        has_tini=(root / "usr/bin/tini").exists(),
    )
