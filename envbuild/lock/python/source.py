"""DeepSpeed's source on Python's index: found, fetched, and its requirements read without running it."""

from __future__ import annotations

from collections.abc import Sequence

from packaging.version import Version

from envbuild.lock.model import Artifact
from envbuild.lock.python import explain, files, simple
from envbuild.progress import Progress
from envbuild.recipe.model import Recipe
from envbuild.store import Http, Source, Store, Wanted, fetch


def deepspeed_source(
    recipe: Recipe, urls: Sequence[str], *, http: Http, store: Store, progress: Progress, before: str | None
) -> Artifact:
    """DeepSpeed's sdist in the recipe's version, fetched into the store.

    Args:
        recipe: with ``[deepspeed]``.
        urls: the indexes, in order.
        http: the connections.
        store: where the file is kept.
        progress: what is going on.
        before: the RFC 3339 cut-off for uploads, for the words of an error.

    Raises:
        EnvbuildError: exit 3, there is no such version; exit 4, the index; exit 5, another file than it says.
    """
    assert recipe.deepspeed is not None
    version = recipe.deepspeed.version
    files_of = simple.project("deepspeed", urls, http)
    offered = [item for item in files_of if item.name.endswith(".tar.gz") and item.sha256]
    found = [item for item in offered if Version(item.version) == Version(version)]
    if not found:
        raise explain.no_version(recipe, "deepspeed", version, offered, before=before)
    file = min(found, key=lambda item: item.name)
    assert file.sha256 is not None
    size = file.size if file.size is not None else files.length_of(file.url, file.name, urls, http)
    address = files.with_credentials(file.url, urls)
    source = Source(url=address, headers={}, label="Python's index")
    wanted = Wanted(name="deepspeed", file=file.name, sha256=file.sha256, size=size, sources=(source,))
    fetch(store, [wanted], http=http, jobs=1, progress=progress)
    return Artifact(
        kind="sdist", name="deepspeed", version=file.version, file=file.name, size=size, sha256=file.sha256,
        index="python", uploaded=file.uploaded,
    )  # fmt: skip
