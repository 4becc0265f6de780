"""Licences: read from real packages made here, remembered in the lock, and no part of what an artifact is."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from email.parser import HeaderParser
from pathlib import Path

import pytest
from smallimage import SmallWorld

from envbuild.errors import EnvbuildError, Exit
from envbuild.image.plan import inputs_digest
from envbuild.layers.debian_copyright import copyright_expression
from envbuild.layers.licence_names import debian_expression, spdx_expression, spdx_id
from envbuild.layers.licences import REVISION, add_licences, licences_of, metadata_licence
from envbuild.lock import Artifact, Lock, lock_bytes, parse_lock, read_lock
from envbuild.lock.compare import check, follows
from envbuild.lock.licences import artifacts_of, known_licences, with_licences
from envbuild.native.inputs import inputs_of
from envbuild.progress import SilentProgress
from envbuild.recipe import load_recipe, parse_ref
from envbuild.store import Store

RECIPES = Path(__file__).parents[2] / "recipes"
DEP5 = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: demo

Files: *
Copyright: somebody
License: GPL-2+ or Artistic, and Expat
 The text.

Files: lib/*
Copyright: somebody
License: BSD-3-clause

License: BSD-3-clause
 Redistribution and use

License: GPL-1
 Nothing is under this one.
"""
GPL = """\
This package was debianized by somebody.

   This program is free software; you can redistribute it and/or modify
   it under the terms of the GNU General Public License as published by
   the Free Software Foundation; either version 3 of the License, or
   (at your option) any later version.

On Debian systems, the complete text of the GNU General
Public License can be found in `/usr/share/common-licenses/GPL-3'.
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


@pytest.fixture
def put(store: Store) -> Callable[..., Artifact]:
    """Put bytes into the store; their locked form."""

    def put(name: str, file: str, data: bytes, kind: str) -> Artifact:
        path = store.root / "tmp" / "put"
        path.write_bytes(data)
        store.adopt(path)
        index = {"deb": "debian/bookworm/main"}.get(kind, "python")
        sha256 = hashlib.sha256(data).hexdigest()
        return Artifact(
            kind=kind, name=name, version="1", file=file, size=len(data), sha256=sha256, index=index
        )  # type: ignore[arg-type]

    return put


@pytest.fixture
def deb(put: Callable[..., Artifact], tmp_path: Path) -> Callable[..., Artifact]:
    """A package that dpkg-deb itself builds, with a copyright, or with a link to another's folder or file."""

    def deb(
        name: str, copyright: str | None = None, link: str | None = None, file_link: str | None = None
    ) -> Artifact:
        root = tmp_path / f"{name}-root"
        (root / "DEBIAN").mkdir(parents=True)
        (root / "DEBIAN/control").write_text(
            f"Package: {name}\nVersion: 1\nArchitecture: amd64\nMaintainer: A <a@b.c>\nDescription: d\n"
        )
        doc = root / "usr/share/doc"
        doc.mkdir(parents=True)
        if link is not None:
            (doc / name).symlink_to(link)
        else:
            (doc / name).mkdir()
        if copyright is not None:
            (doc / name / "copyright").write_text(copyright)
        if file_link is not None:
            (doc / name / "copyright").symlink_to(file_link)
        path = tmp_path / f"{name}.deb"
        subprocess.run(["dpkg-deb", "--root-owner-group", "-b", root, path], check=True, capture_output=True)
        return put(name, f"pool/main/{name[0]}/{name}/{name}_1_amd64.deb", path.read_bytes(), "deb")

    return deb


def zipped(name: str, content: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, content)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        ("License-Expression: mit or apache-2.0\nLicense: BSD\n", "MIT OR Apache-2.0"),
        ("License-Expression: no such expression\n", "no such expression"),
        ("License: MIT License\n", "MIT"),
        ("License: MPL-2.0 AND MIT\n", "MPL-2.0 AND MIT"),
        ("License: Apache 2.0\nClassifier: License :: Other/Proprietary License\n", "Apache-2.0"),
        ("License: BSD 3-Clause License\n        \n        Copyright (c) 2001\n", "BSD-3-Clause"),
        ("License: UNKNOWN\nClassifier: License :: OSI Approved :: ISC License (ISCL)\n", "ISC"),
        ("License: BSD\nClassifier: License :: OSI Approved :: BSD License\n", "BSD"),
        ("Classifier: License :: OSI Approved :: BSD License\n", "BSD License"),
        ("License: NVIDIA Proprietary Software\n", "NVIDIA Proprietary Software"),
        (
            "Classifier: License :: OSI Approved :: MIT License\n"
            "Classifier: License :: OSI Approved :: Apache Software License\n",
            "Apache-2.0 AND MIT",
        ),
        ("License: Mine\x1b[2J\x07 own\x9b\n", "Mine [2J own"),
        ("License-Expression: Mine\x00\u202e\u200bown\n", "Mine own"),
        ("Classifier: License :: My\x7f own\n", "My own"),
        ("License: \x01\x02\n", None),
        ("Classifier: Topic :: Utilities\n", None),
        ("License: " + "long words " * 40 + "\n", None),
    ],
)
def test_of_python_packages(fields: str, licence: str | None) -> None:
    text = f"Metadata-Version: 2.4\nName: demo\nVersion: 1\n{fields}"
    assert metadata_licence(HeaderParser().parsestr(text)) == licence


@pytest.mark.parametrize(
    ("name", "expression"),
    [
        ("GPL-2+", "GPL-2.0-or-later"),
        ("GPL-2", "GPL-2.0-only"),
        ("GPL-2.0+", "GPL-2.0-or-later"),
        ("GPL", "GPL-1.0-or-later"),
        ("LGPL-2.1+", "LGPL-2.1-or-later"),
        ("LGPLv3", "LGPL-3.0-only"),
        ("GFDL-NIV-1.3+", "GFDL-1.3-no-invariants-or-later"),
        ("Expat", "MIT"),
        ("Artistic", "Artistic-1.0-Perl"),
        ("bsd-3-clause", "BSD-3-Clause"),
        ("public-domain", None),
        ("a name", None),
    ],
)
def test_names_that_spdx_has_under_another(name: str, expression: str | None) -> None:
    assert spdx_id(name) == expression
    assert expression is None or spdx_expression(expression) == expression


@pytest.mark.parametrize(
    ("line", "expression"),
    [
        ("GPL-1+ or Artistic", "Artistic-1.0-Perl OR GPL-1.0-or-later"),
        ("GPL-1+ or Artistic, and Expat", "(Artistic-1.0-Perl OR GPL-1.0-or-later) AND MIT"),
        ("ISC and/or LGPL-2.1+", "ISC OR LGPL-2.1-or-later"),
        ("GPL-3+ with Bison exception", "GPL-3.0-or-later WITH Bison-exception-2.2"),
        ("GPL-2+-libtool-exception", "GPL-2.0-or-later WITH Libtool-exception"),
        ("GPL-2 with Linux-syscall-note exception", "GPL-2.0-only WITH Linux-syscall-note"),
        ("GPL-2+ with distribution exception", "LicenseRef-GPL-2-or-later-with-distribution-exception"),
        ("BSD-tcp_wrappers", "TCP-wrappers"),
        ("ISC+IBM", "LicenseRef-ISC-IBM"),
        ("__AUTO_PERMISSIVE__", "LicenseRef-AUTO-PERMISSIVE"),
    ],
)
def test_license_lines_of_debian(line: str, expression: str) -> None:
    assert debian_expression(line) == expression
    assert spdx_expression(expression)


def test_a_machine_readable_file_tells_what_its_files_are_under() -> None:
    told = copyright_expression(DEP5, "demo")
    assert told == "(Artistic-1.0-Perl OR GPL-2.0-or-later) AND BSD-3-Clause AND MIT"


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        (GPL, "GPL-3.0-or-later"),
        (GPL.replace("or\n   (at your option) any later version", "nothing else"), "GPL-3.0-only"),
        ("* GNU Lesser General\n* Public License (either version 3\n* of the License, or, at your option, any later\n"
         "* version).", "LGPL-3.0-or-later"),
        ("The library is licensed as LGPLv2.1+, its tools are GPLv3+.", "GPL-3.0-or-later AND LGPL-2.1-or-later"),
        ("see /usr/share/common-licenses/Apache-2.0, /usr/share/common-licenses/BSD.", "Apache-2.0 AND BSD-3-Clause"),
        ("Permission is hereby granted, free of charge, to any\nperson obtaining a copy", "MIT"),
        ("GNU Free Documentation License, Version 1.2 or any later\nversion; with no Invariant Sections",
         "GFDL-1.2-no-invariants-or-later"),
        ("Redistribution and use in source and binary forms, with or without\nmodification, are permitted.\n"
         "3. Neither the name may be used to endorse or promote products", "BSD-3-Clause"),
        ("Redistribution and use in source and binary forms", "BSD-2-Clause"),
        ("Nobody knows.", "see /usr/share/doc/demo/copyright"),
    ],
)  # fmt: skip
def test_free_text_tells_what_well_known_phrases_mean(text: str, expression: str) -> None:
    assert copyright_expression(text, "demo") == expression


def test_wheels_sdists_and_packages_of_a_store(
    store: Store, put: Callable[..., Artifact], deb: Callable[..., Artifact]
) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        data = b"Name: source\nLicense: Apache 2.0\n"
        entry = tarfile.TarInfo("source-1/PKG-INFO")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    items = [
        put(
            "demo", "demo-1-py3-none-any.whl", zipped("demo-1.dist-info/METADATA", "License: MIT\n"), "wheel"
        ),
        put("source", "source-1.tar.gz", stream.getvalue(), "sdist"),
        deb("first", GPL),
        deb("second", link="first"),
        deb("third", file_link="../first/copyright"),
        deb("circle", link="ring"),
        deb("ring", link="circle"),
        deb("alone", link="absent"),
    ]
    absent = replace(items[0], name="absent", sha256="a" * 64)
    found = licences_of([*items, absent], store, SilentProgress())
    names = {item.sha256: item.name for item in items}
    assert {names[sha256]: text for sha256, text in found.items()} == {
        "demo": "MIT", "source": "Apache-2.0", "first": "GPL-3.0-or-later", "second": "GPL-3.0-or-later",
        "third": "GPL-3.0-or-later",
    }  # fmt: skip


def test_what_was_read_once_is_remembered_without_the_files(
    store: Store, deb: Callable[..., Artifact]
) -> None:
    item = deb("first", GPL)
    first = licences_of([item], store, SilentProgress())
    store.artifact(item.sha256).unlink()
    assert licences_of([item], store, SilentProgress()) == first == {item.sha256: "GPL-3.0-or-later"}


@pytest.mark.parametrize(
    ("file", "data", "kind"),
    [
        ("demo-1-py3-none-any.whl", b"no zip", "wheel"),
        ("demo-1-py3-none-any.whl", zipped("other/METADATA", "License: MIT\n"), "wheel"),
        ("demo-1.tar.gz", b"no tar", "sdist"),
        ("pool/d/demo_1_amd64.deb", b"!<arch>\ncut off", "deb"),
    ],
)
def test_a_damaged_file_is_named(
    store: Store, put: Callable[..., Artifact], file: str, data: bytes, kind: str
) -> None:
    with pytest.raises(EnvbuildError) as caught:
        licences_of([put("demo", file, data, kind)], store, SilentProgress())
    assert caught.value.exit is Exit.VERIFY
    assert str(caught.value.where) == file.rsplit("/", 1)[-1]


@pytest.mark.network
def test_the_unpacked_base_tells_the_same_as_the_packages(small: SmallWorld, tmp_path: Path) -> None:
    other = Store.open(tmp_path / "other")
    for item in small.lock.debian:
        other.artifact(item.sha256).hardlink_to(small.store.artifact(item.sha256))
    lock = replace(small.lock, image=small.built.lock)
    streamed = licences_of(small.lock.debian, other, SilentProgress())
    assert known_licences([add_licences(lock, small.store, SilentProgress())]) == streamed
    assert len(streamed) == len(small.lock.debian)
    assert [text for text in streamed.values() if spdx_expression(text) is None] == []


@pytest.fixture
def plain() -> Lock:
    lock = read_lock(RECIPES / "pytorch-cuda/v2.7/lock.json")
    document = json.loads(lock_bytes(lock))
    for group in ("debian", "python"):
        for item in document[group]:
            item.pop("licence", None)
    return parse_lock(json.dumps(document).encode(), RECIPES / "pytorch-cuda/v2.7/lock.json")


def test_a_lock_with_licences_has_the_same_inputs(plain: Lock) -> None:
    told = with_licences(plain, {item.sha256: "MIT" for item in artifacts_of(plain)})
    assert told == plain
    assert inputs_digest(told) == inputs_digest(plain)
    assert inputs_of(told).key(b"") == inputs_of(plain).key(b"")
    assert check(load_recipe(parse_ref("pytorch-cuda:v2.7"), [RECIPES]), told) == []
    assert follows(told, plain) == []


def test_a_lock_keeps_licences_in_its_file_and_only_fills_what_it_lacks(plain: Lock) -> None:
    path = RECIPES / "pytorch-cuda/v2.7/lock.json"
    assert plain.native is not None
    native = (plain.native.source, *plain.native.toolchain, *plain.native.build, plain.native.wheel)
    assert lock_bytes(plain).count(b'"licence"') == sum(bool(item and item.licence) for item in native)
    told = with_licences(plain, {plain.python[0].sha256: "MIT", plain.debian[0].sha256: "GPL-2.0-only"})
    data = lock_bytes(told)
    again = parse_lock(data, path)
    assert lock_bytes(again) == data
    assert (again.python[0].licence, again.debian[0].licence, again.debian[1].licence) == (
        "MIT",
        "GPL-2.0-only",
        None,
    )
    assert with_licences(again, {plain.python[0].sha256: "ISC"}).python[0].licence == "MIT"


def test_a_lock_with_a_hostile_licence_is_one_that_is_read_again(
    plain: Lock, store: Store, put: Callable[..., Artifact]
) -> None:
    metadata = "Name: demo\nLicense: Mine\x1b[2J\x00\n"
    item = put("demo", "demo-1-py3-none-any.whl", zipped("demo-1.dist-info/METADATA", metadata), "wheel")
    told = add_licences(replace(plain, python=(item,)), store, SilentProgress())
    assert told.python[0].licence == "Mine [2J"
    again = parse_lock(lock_bytes(told), Path("a/b/lock.json"))
    assert again.python[0].licence == "Mine [2J"


@pytest.mark.parametrize(
    "record", [{"licence": "Mine\x1b[2J"}, {"licence": ""}, {"other": 1}, {"licence": None}]
)
def test_what_an_older_envbuild_remembered_is_cleaned_or_read_again(
    store: Store, put: Callable[..., Artifact], record: dict[str, object]
) -> None:
    data = zipped("demo-1.dist-info/METADATA", "Name: demo\nLicense: Mine\x1b[2J\n")
    item = put("demo", "demo-1-py3-none-any.whl", data, "wheel")
    store.put_record("licence", f"{item.sha256}-{REVISION}", record)
    assert licences_of([item], store, SilentProgress()) == {item.sha256: "Mine [2J"}


@pytest.mark.parametrize("text", ["", "two\\nlines"])
def test_a_licence_is_one_line(plain: Lock, text: str) -> None:
    told = with_licences(plain, {plain.python[0].sha256: "MIT OR ISC"})
    with pytest.raises(EnvbuildError, match="licence") as caught:
        parse_lock(lock_bytes(told).replace(b'"MIT OR ISC"', f'"{text}"'.encode()), Path("a/b/lock.json"))
    assert caught.value.exit is Exit.INPUT
