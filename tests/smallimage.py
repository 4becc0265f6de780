"""A small real image: Debian's interpreter from the committed lock, and tiny wheels that are made here.

Whoever uses it needs the locked .debs: from the user's own store (ENVBUILD_STORE or the default), or, where that
lacks them, from the machine's mirror.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import subprocess
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from needed import need
from platformdirs import user_cache_path

import envbuild
from envbuild.image.assemble import Built, assemble
from envbuild.image.workshop import Workshop
from envbuild.lock import Indexes, Lock, lock_bytes, read_lock, sources_for
from envbuild.lock.model import Artifact
from envbuild.progress import SilentProgress
from envbuild.recipe import load_recipe, parse_ref
from envbuild.sandbox import Sandbox
from envbuild.store import Http, Store, Wanted, fetch

COMMITTED = Path(envbuild.__file__).parents[1] / "recipes/pytorch-cuda/v2.7/lock.json"
REF = "small:v1"
RECIPE = """\
description = "a small image"
[python]
version = "3.11"
packages = []
[torch]
version = "2.7.1"
[cuda]
version = "12.6"
cudnn = "9.5.1.17"
nccl = "2.26.2"
[debian]
release = "bookworm"
packages = []
security-updates = false
[gate]
gpus = 2
"""
WHEELS = {
    "demo": "1.0",
    "nvidia-cublas-cu12": "12.6.4.1",
    "nvidia-cuda-runtime-cu12": "12.6.77",
    "nvidia-cudnn-cu12": "9.5.1.17",
    "nvidia-nccl-cu12": "2.26.2",
    "other": "2.0",
    "torch": "2.7.1",
}
_WANTED = ("python3.11", "python3.11-minimal", "python3", "tini", "ca-certificates", "gzip")


def make_wheel(name: str, version: str, extra: str = "") -> tuple[str, bytes]:
    """A wheel's file name and bytes: one module, and one program of the same name."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    files = {
        f"{module}.py": f"VERSION = {version!r}\n\n\ndef main():\n    print(VERSION)\n{extra}",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name}-version = {module}:main\n",
    }
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
        record += f"{path},sha256={digest},{len(text.encode())}\n"
    files[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, text in files.items():
            entry = zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0))
            entry.external_attr = 0o100644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, text)
    return f"{module}-{version}-py3-none-any.whl", content.getvalue()


def wheel_artifact(name: str, version: str, extra: str = "", *, store: Store | None = None) -> Artifact:
    """The locked form of such a wheel; put into ``store`` where one is given."""
    file, data = make_wheel(name, version, extra)
    if store is not None:
        path = store.root / "tmp" / file
        path.write_bytes(data)
        store.adopt(path)
    return Artifact(
        kind="wheel",
        name=name,
        version=version,
        file=file,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        index="python",
        uploaded="2026-01-02T03:04:05Z",
    )


def small_recipes(folder: Path) -> Path:
    """A folder of recipes with ``small:v1`` in it, not locked."""
    place = folder / "small" / "v1"
    place.mkdir(parents=True)
    (place / "recipe.toml").write_text(RECIPE)
    return folder


def small_lock(recipes: Path, debian: Sequence[Artifact], python: Sequence[Artifact]) -> Lock:
    """Lock ``small:v1`` to these artifacts and write its lock.json."""
    recipe = load_recipe(parse_ref(REF), [recipes])
    lock = replace(
        read_lock(COMMITTED),
        ref=recipe.ref,
        recipe=recipe.to_dict(),
        created="2026-01-02T03:04:05Z",
        debian=tuple(debian),
        python=tuple(sorted(python, key=lambda item: item.name)),
        native=None,
        image=None,
    )
    recipe.lock_path.write_bytes(lock_bytes(lock))
    return lock


def unreachable(artifacts: Sequence[Artifact]) -> int:
    """A fetch that must not be asked."""
    raise AssertionError(f"nothing has to be fetched, but {[a.name for a in artifacts]} was asked for")


@dataclass(frozen=True)
class SmallWorld:
    """The built small image, its unbuilt lock, its store and its recipes."""

    store: Store
    recipes: Path
    lock: Lock
    built: Built
    sandbox: Sandbox

    def workshop(self, store: Store | None = None, *, jobs: int = 2) -> Workshop:
        """A workshop that has no network."""
        return Workshop(
            store=store or self.store,
            progress=SilentProgress(),
            jobs=jobs,
            fetch=unreachable,
            sandbox=lambda: self.sandbox,
        )

    def remove_roots(self, store: Store) -> None:
        """Unpacked roots may belong to the sandbox's users."""
        for root in store.roots.iterdir():
            self.sandbox.remove(root)


def make_world(folder: Path, sandbox: Sandbox) -> SmallWorld:
    """Takes some 20 s of two quiet cores."""
    store = Store.open(folder / "store")
    debian = interpreter_closure(bring_debs(store), store)
    wheels = [wheel_artifact(*pins, store=store) for pins in WHEELS.items()]
    recipes = small_recipes(folder / "recipes")
    lock = small_lock(recipes, debian, wheels)
    bare = Workshop(
        store=store, progress=SilentProgress(), jobs=2, fetch=unreachable, sandbox=lambda: sandbox
    )
    return SmallWorld(store=store, recipes=recipes, lock=lock, built=assemble(lock, bare), sandbox=sandbox)


def bring_debs(store: Store) -> tuple[Artifact, ...]:
    """Put the committed lock's .debs into ``store``."""
    lock = read_lock(COMMITTED)
    bring(lock, lock.debian, store)
    return lock.debian


def bring(lock: Lock, artifacts: Sequence[Artifact], store: Store) -> None:
    """Put these artifacts of ``lock`` into ``store``: from the user's own, or from where the lock's indexes are."""
    own = Path(os.environ.get("ENVBUILD_STORE") or user_cache_path("envbuild")) / "artifacts" / "sha256"
    missing = []
    for deb in artifacts:
        try:
            os.link(own / deb.sha256, store.artifact(deb.sha256))
        except OSError:
            missing.append(deb)
    if missing:
        need("gpgv")
        indexes, silent = Indexes.from_machine(os.environ), SilentProgress()
        http = Http(environ=indexes.environ)
        sources = sources_for(lock, missing, indexes=indexes, http=http, progress=silent)
        wanted = [
            Wanted(name=d.name, file=d.basename, sha256=d.sha256, size=d.size, sources=sources[d.sha256])
            for d in missing
        ]
        fetch(store, wanted, http=http, jobs=4, progress=silent)


def interpreter_closure(
    debs: Sequence[Artifact], store: Store, more: Sequence[str] = ()
) -> tuple[Artifact, ...]:
    """The essential packages, Python, tini and ``more``, and what they depend on."""
    fields = {}
    for deb in debs:
        told = subprocess.run(
            ["dpkg-deb", "-f", store.artifact(deb.sha256), "Essential", "Depends", "Pre-Depends", "Provides"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        fields[deb.name] = dict(line.split(": ", 1) for line in told.splitlines())
    providers = {
        name: deb for deb, values in fields.items() for name in [deb, *_names(values.get("Provides", ""))]
    }
    todo = [name for name, values in fields.items() if values.get("Essential") == "yes"] + [*_WANTED, *more]
    closure: set[str] = set()
    while todo:
        name = providers.get(todo.pop())
        if name is not None and name not in closure:
            closure.add(name)
            todo += _names(fields[name].get("Depends", "") + "," + fields[name].get("Pre-Depends", ""))
    return tuple(deb for deb in debs if deb.name in closure)


def _names(relations: str) -> list[str]:
    return [
        match[0]
        for part in re.split(r"[,|]", relations)
        if (match := re.match(r"[a-z0-9.+-]+", part.strip()))
    ]
