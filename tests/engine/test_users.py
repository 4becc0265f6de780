"""Who a container runs as is what the image's own tables say, and no table of this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from envbuild.engine.users import TABLES, User, find_user
from envbuild.errors import EnvbuildError, Exit
from envbuild.sandbox import Sandbox

PASSWD = "root:x:0:0::/root:/bin/sh\nworker:x:1000:100::/home/worker:/bin/sh\n"


def tables(sandbox: Sandbox, *lowers: Path) -> dict[str, str]:
    """What a container of these layers reads."""
    arguments = {
        "lowers": [str(path) for path in lowers],
        "names": list(TABLES),
        "user_namespace": sandbox.maps is not None,
    }
    found = sandbox.call("envbuild.sandbox.mounts:read_files", arguments)
    assert isinstance(found, dict)
    return found


def layer(folder: Path, **files: str) -> Path:
    (folder / "etc").mkdir(parents=True)
    for name, text in files.items():
        (folder / "etc" / name).write_text(text)
    return folder


@pytest.mark.parametrize("style", ["absolute", "relative", "one file"])
def test_a_link_in_a_layer_is_not_followed_to_this_machine(
    sandbox: Sandbox, tmp_path: Path, style: str
) -> None:
    host = layer(tmp_path / "host", passwd=PASSWD, group="wheel:x:10:\n") / "etc"
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    if style == "one file":
        (hostile / "etc").mkdir()
        (hostile / "etc/passwd").symlink_to(host / "passwd")
    else:
        (hostile / "etc").symlink_to(host if style == "absolute" else "../" * 20 + str(host).lstrip("/"))
    assert tables(sandbox, hostile) == {}


def test_links_are_followed_as_a_program_in_the_image_would(sandbox: Sandbox, tmp_path: Path) -> None:
    below = layer(tmp_path / "below", passwd=PASSWD, group="old:x:1:\n")
    (below / "usr").mkdir()
    (below / "usr/passwd").write_text("linked:x:7:7::/linked:/bin/sh\n")
    above = layer(tmp_path / "above", group="new:x:2:\n")
    (above / "etc/passwd").symlink_to("../usr/passwd")
    found = tables(sandbox, below, above)
    assert found == {"/etc/passwd": "linked:x:7:7::/linked:/bin/sh\n", "/etc/group": "new:x:2:\n"}
    assert find_user("linked", found) == User(uid=7, gid=7, home="/linked")


@pytest.mark.timeout(60)
def test_a_whiteout_a_pipe_and_a_folder_are_no_tables(sandbox: Sandbox, tmp_path: Path) -> None:
    below = layer(tmp_path / "below", passwd=PASSWD, group="old:x:1:\n")
    above = layer(tmp_path / "above")
    os.mknod(above / "etc/passwd", 0o020600, os.makedev(0, 0))
    os.mkfifo(above / "etc/group")
    assert tables(sandbox, below, above) == {}
    (above / "etc/group").unlink()
    (above / "etc/group").mkdir()
    assert tables(sandbox, below, above) == {}


def test_a_table_without_end_is_read_in_part(sandbox: Sandbox, tmp_path: Path) -> None:
    found = tables(sandbox, layer(tmp_path / "layer", passwd=PASSWD + "x" * (8 << 20)))
    assert find_user("worker", found).uid == 1000
    assert len(found["/etc/passwd"]) == 4 << 20


ROWS = {
    "an id that is no number": "odd:x:one:1::/:\n",
    "a group that is no number": "odd:x:1:one::/:\n",
    "a digit of another script": "odd:x:²:1::/:\n",
    "an id that the kernel lacks": "odd:x:4294967295:1::/:\n",
    "an endless id": f"odd:x:{'9' * 5000}:1::/:\n",
    "too few fields": "odd:x:1:1\n",
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_a_broken_row_is_left_out_as_libc_does(row: str) -> None:
    with pytest.raises(EnvbuildError) as caught:
        find_user("odd", {"/etc/passwd": row + PASSWD})
    assert (caught.value.id, caught.value.exit) == ("no-such-user", Exit.USAGE)
    assert find_user("worker", {"/etc/passwd": row + PASSWD}).gid == 100


@pytest.mark.parametrize("spec", ["4294967295", "9" * 5000, "²", "-1", "0:4294967295", "0:²"])
def test_an_id_that_the_kernel_lacks_is_no_user(spec: str) -> None:
    with pytest.raises(EnvbuildError) as caught:
        find_user(spec, {"/etc/passwd": PASSWD})
    assert (caught.value.id, caught.value.exit) == ("no-such-user", Exit.USAGE)
