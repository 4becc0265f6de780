"""The plan is a pure function of the lock: what changes with what, and what an image promises its users."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

import envbuild
from envbuild.errors import EnvbuildError, Exit
from envbuild.image.locked import image_of, locked_image
from envbuild.image.plan import Plan, plan_image
from envbuild.layers.files import files_diff_id
from envbuild.lock import Lock, read_lock
from envbuild.lock.model import Artifact, ImageLock
from envbuild.oci.image import Image
from envbuild.store import Store

ROOT = Path(envbuild.__file__).parents[1]
LOCKS = sorted((ROOT / "recipes").glob("*/*/lock.json"))
PAGE = (ROOT / "docs/reference/image.md").read_text()
OTHER = "0" * 64


def committed(tag: str = "v2.7") -> Lock:
    return read_lock(ROOT / f"recipes/pytorch-cuda/{tag}/lock.json")


@pytest.fixture
def lock() -> Lock:
    return fitting(committed())


def fitting(lock: Lock) -> Lock:
    """The lock as it is after a build by this very envbuild, whatever its programs are now."""
    assert lock.image is not None
    written = {layer.name: files_diff_id(layer.files) for layer in plan(lock).layers if layer.kind == "files"}
    layers = tuple(replace(x, diff_id=written.get(x.name, x.diff_id)) for x in lock.image.layers)
    laid = plan(lock)
    image = Image(layers=layers, run=laid.run, created=laid.created, annotations=laid.annotations)
    return replace(
        lock, image=ImageLock(digest=image.digest, config=image.config.digest, layers=image.layers)
    )


def plan(lock: Lock) -> Plan:
    return plan_image(lock, operator=lock.native.wheel if lock.native else None)


def with_other(artifacts: tuple[Artifact, ...], name: str) -> tuple[Artifact, ...]:
    assert name in {item.name for item in artifacts}
    return tuple(replace(item, sha256=OTHER) if item.name == name else item for item in artifacts)


def changed_layers(before: Plan, after: Plan) -> set[str]:
    """The names of the layers that are other ones; the layers' names and order must be the same."""
    assert [layer.name for layer in before.layers] == [layer.name for layer in after.layers]
    return {a.name for a, b in zip(before.layers, after.layers, strict=True) if a.key != b.key}


def test_the_same_lock_gives_the_same_plan(lock: Lock) -> None:
    assert plan(lock) == plan(committed())


@pytest.mark.parametrize(
    ("package", "layers"),
    [
        ("torch", {"torch", "torch-bytecode"}),
        ("nvidia-cudnn-cu12", {"cudnn", "cuda-bytecode"}),
        ("nvidia-nvtx-cu12", {"cuda", "cuda-bytecode"}),
    ],
)
def test_another_wheel_changes_its_layer_its_byte_code_and_the_config(
    lock: Lock, package: str, layers: set[str]
) -> None:
    before, after = plan(lock), plan(replace(lock, python=with_other(lock.python, package)))
    assert changed_layers(before, after) == layers
    labels, others = before.run.labels, after.run.labels
    assert {key for key in labels if labels[key] != others[key]} == {"io.envbuild.inputs"}
    assert replace(after.run, labels=labels) == before.run


def test_every_wheel_changes_two_layers_at_most(lock: Lock) -> None:
    before = plan(lock)
    for item in lock.python:
        changed = changed_layers(before, plan(replace(lock, python=with_other(lock.python, item.name))))
        assert len(changed) == 2, item.name
        assert len({name for name in changed if name.endswith("-bytecode")}) == 1, item.name


def test_another_operator_changes_deepspeed_only(lock: Lock) -> None:
    assert lock.native is not None
    assert lock.native.wheel is not None
    other = replace(lock, native=replace(lock.native, wheel=replace(lock.native.wheel, sha256=OTHER)))
    assert changed_layers(plan(lock), plan(other)) == {"deepspeed", "deepspeed-bytecode"}


@pytest.mark.parametrize(
    ("package", "byte_code_too"),
    [("less", False), ("git", False), ("python3.11-minimal", True), ("zlib1g", True)],
)
def test_another_deb_changes_the_base_and_byte_code_only_if_it_makes_it(
    lock: Lock, package: str, byte_code_too: bool
) -> None:
    before, after = plan(lock), plan(replace(lock, debian=with_other(lock.debian, package)))
    code = {layer.name for layer in before.layers if layer.kind == "bytecode"}
    assert changed_layers(before, after) == {"base"} | (code if byte_code_too else set())


def test_the_order_of_the_lock_s_wheels_does_not_matter(lock: Lock) -> None:
    assert plan(replace(lock, python=lock.python[::-1])).layers == plan(lock).layers


def test_the_image_part_of_a_lock_is_not_looked_at(lock: Lock) -> None:
    assert plan(replace(lock, image=None)) == plan(lock)


def test_every_input_is_in_exactly_one_layer_of_files(lock: Lock) -> None:
    found = [
        item.name
        for layer in plan(lock).layers
        if layer.kind in {"base", "wheels"}
        for item in layer.artifacts
    ]
    assert sorted(found) == sorted([item.name for item in (*lock.debian, *lock.python)] + ["deepspeed"])


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.parts[-2])
def test_the_number_of_layers_is_within_the_budget(path: Path) -> None:
    assert len(plan(read_lock(path)).layers) <= 40


def test_the_topmost_layer_hides_what_the_form_of_wheel_layers_brings(lock: Lock) -> None:
    """stargz.index.json and the landmark (stargz-snapshotter, docs/estargz.md), by whiteouts (layer.md)."""
    hidden = {entry.path for entry in plan(lock).layers[-1].files if entry.path.startswith(".wh.")}
    assert hidden == {".wh.stargz.index.json", ".wh..no.prefetch.landmark"}


def test_programs_lie_on_top_so_that_changing_one_changes_one_layer(lock: Lock) -> None:
    assert plan(lock).layers[-1].name == "programs"
    assert "usr/local/bin/envbuild-doctor" in {entry.path for entry in plan(lock).layers[-1].files}
    assert lock.image is not None
    *below, top = lock.image.layers
    other = replace(lock, image=replace(lock.image, layers=(*below, replace(top, diff_id="sha256:" + OTHER))))
    with pytest.raises(EnvbuildError) as caught:
        image_of(other)
    assert "its layer programs is not what this envbuild writes" in caught.value.message


@pytest.mark.parametrize("tag", ["v2.7", "v2.8", "v2.11"])
def test_a_devel_image_is_its_parent_s_layers_with_a_toolkit_below_the_programs(tag: str) -> None:
    parent, child = plan(committed(tag)), plan(committed(f"{tag}-devel"))
    *shared, programs = parent.layers
    assert list(child.layers[:-2]) == shared
    assert [layer.name for layer in child.layers[-2:]] == ["toolkit", programs.name]
    added = {name: text for name, text in child.run.env.items() if parent.run.env.get(name) != text}
    path = parent.run.env["PATH"].replace("/opt/venv/bin:", "/opt/venv/bin:/usr/local/cuda/bin:")
    assert added.pop("PATH") == path
    documented = dict(
        re.findall(r"^\| `([A-Z_]+)` \| `([^`]+)`", PAGE.partition("\n## -devel\n")[2], re.MULTILINE)
    )
    assert added == documented
    assert not {name for name in child.run.env if name.startswith("LD_")}


def test_every_lock_shares_the_layers_of_what_it_has_in_common() -> None:
    """Shared packages share layers: the base, numpy and all small packages but the group that torch decides."""
    images = {tag: committed(tag).image for tag in ("v2.7", "v2.8", "v2.11")}
    digests = {tag: {x.name: x.digest for x in image.layers} for tag, image in images.items() if image}
    common = {n for n, d in digests["v2.7"].items() if digests["v2.8"][n] == d == digests["v2.11"][n]}
    assert {"base", "files", "numpy", "python-1", "python-2", "python-3", "python-4", "python-5"} <= common
    also = {name for name, digest in digests["v2.7"].items() if digests["v2.8"][name] == digest}
    assert also - common == {"python-6", "python-6-bytecode"}, "setuptools, which torch 2.11 wants older"


@pytest.mark.parametrize(
    ("parts", "ports"),
    [
        ([], ()),
        (["jupyter"], ("8888/tcp",)),
        (["ssh"], ("22/tcp",)),
        (["jupyter", "ssh"], ("22/tcp", "8888/tcp")),
    ],
)
def test_ports_follow_from_the_parts(lock: Lock, parts: list[str], ports: tuple[str, ...]) -> None:
    recipe = {**lock.recipe, "parts": {name: {"debian": [], "python": []} for name in parts}}
    run = plan(replace(lock, recipe=recipe)).run
    assert run.exposed_ports == ports
    assert run.labels.get("io.envbuild.parts", "") == " ".join(parts)


def test_a_lock_with_deepspeed_needs_its_compiled_wheel(lock: Lock) -> None:
    with pytest.raises(EnvbuildError) as caught:
        plan_image(lock, operator=None)
    assert caught.value.id == "no-operator"
    assert caught.value.exit is Exit.VERIFY


@pytest.mark.parametrize(
    ("nccl", "set_"),
    [
        ("2.23.4", False),
        ("2.24.3", True),
        ("2.25.1", True),
        ("2.26.2", True),
        ("2.26.5", True),
        ("2.27.3", False),
    ],
)
def test_cumem_host_is_off_where_nccl_would_need_a_capability(lock: Lock, nccl: str, set_: bool) -> None:
    recipe = {**lock.recipe, "cuda": {"version": "12.6", "cudnn": "9.5.1.17", "nccl": nccl}}
    env = plan(replace(lock, recipe=recipe)).run.env
    assert env.get("NCCL_CUMEM_HOST_ENABLE") == ("0" if set_ else None)


def test_the_environment_is_the_documented_one(lock: Lock) -> None:
    run = plan(lock).run
    table = PAGE.partition("\nEnvironment:\n")[2].partition("\nLabels,")[0]
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| `([^`]+)`", table, re.MULTILINE))
    assert set(rows) == set(run.env)
    assert run.env["PATH"].startswith(rows.pop("PATH") + ":")
    assert {name: run.env[name] for name in rows} == rows


def test_the_labels_are_the_documented_ones(lock: Lock) -> None:
    run = plan(lock).run
    text = PAGE.partition("\nLabels,")[2].partition("`created`")[0]
    documented = {
        f"{prefix}.{name}"
        for prefix, names in re.findall(r"`([a-z.]+)\.\{([a-z.,]+)\}`", text)
        for name in names.split(",")
    }
    assert set(run.labels) == documented
    assert run.labels["io.envbuild.ref"] == str(lock.ref)
    assert run.labels["io.envbuild.nccl"] == "2.26.2"
    assert run.labels["org.opencontainers.image.created"] == lock.created


def test_how_containers_start_is_documented(lock: Lock) -> None:
    run = plan(lock).run
    assert f"`{' '.join(run.entrypoint)}`" in PAGE
    assert f"| command | `{' '.join(run.cmd)}` |" in PAGE
    assert f"| working directory | `{run.working_dir}`" in PAGE
    assert f"| default user | `{run.user}`" in PAGE


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: f"{path.parts[-3]}:{path.parts[-2]}")
def test_committed_digests_are_what_the_plan_gives(path: Path) -> None:
    """A digest that changes without a new format number fails here."""
    lock = read_lock(path)
    image = image_of(lock)
    assert image is not None, "a committed lock names its image"
    assert lock.image is not None
    assert image.digest == lock.image.digest
    assert image.config.digest == lock.image.config
    planned = [(layer.name, {item.name for item in layer.artifacts}) for layer in plan(lock).layers]
    assert [(layer.name, set(layer.artifacts)) for layer in lock.image.layers] == planned


def test_there_are_committed_locks() -> None:
    assert LOCKS


def edited(lock: Lock, what: str) -> Lock:
    image = lock.image
    assert image is not None
    first, *rest = image.layers
    match what:
        case "digest":
            return replace(lock, image=replace(image, digest="sha256:" + OTHER))
        case "config":
            return replace(lock, image=replace(image, config="sha256:" + OTHER))
        case "layer":
            return replace(
                lock, image=replace(image, layers=(replace(first, digest="sha256:" + OTHER), *rest))
            )
        case "diff_id":
            return replace(
                lock, image=replace(image, layers=(replace(first, diff_id="sha256:" + OTHER), *rest))
            )
        case "layer gone":
            return replace(lock, image=replace(image, layers=tuple(rest)))
        case "size":
            return replace(lock, image=replace(image, layers=(replace(first, size=1), *rest)))
        case "wheel":
            return replace(lock, python=with_other(lock.python, "torch"))
        case "deb":
            return replace(lock, debian=with_other(lock.debian, "less"))
        case "pin":
            return replace(lock, recipe={**lock.recipe, "description": "another"})
        case _:
            return replace(lock, created="2020-01-01T00:00:00Z")


@pytest.mark.parametrize(
    "what",
    ["digest", "config", "layer", "diff_id", "layer gone", "size", "wheel", "deb", "pin", "created"],
)
def test_a_lock_that_contradicts_itself_is_refused(lock: Lock, what: str, tmp_path: Path) -> None:
    assert image_of(lock) is not None
    for refused in (image_of, lambda bad: locked_image(bad, Store.open(tmp_path / "store"))):
        with pytest.raises(EnvbuildError) as caught:
            refused(edited(lock, what))
        assert caught.value.id == "lock-contradicts-itself"
        assert caught.value.exit is Exit.VERIFY
        assert "envbuild lock pytorch-cuda:v2.7" in caught.value.hint


def test_a_lock_that_was_never_built_names_no_image(lock: Lock) -> None:
    assert lock.native is not None
    assert image_of(replace(lock, image=None)) is None
    assert image_of(replace(lock, native=replace(lock.native, wheel=None))) is None


def test_the_locked_image_is_there_only_with_all_of_its_blobs(lock: Lock, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    assert locked_image(lock, store) is None
    image = image_of(lock)
    assert image is not None
    # A made-up image of one small layer, so that all blobs can be there.
    with store.layout.writer() as writer:
        writer.write(b"a layer")
    layer = replace(image.layers[0], digest=writer.digest, size=writer.size)
    one = replace(image, layers=(layer,))
    small = replace(lock, image=ImageLock(digest=one.digest, config=one.config.digest, layers=one.layers))
    assert locked_image(small, store) is None
    store.layout.put(one.config_bytes)
    store.layout.put(one.manifest_bytes)
    assert locked_image(small, store) == one
    store.layout.path(layer.digest).unlink()
    assert locked_image(small, store) is None
