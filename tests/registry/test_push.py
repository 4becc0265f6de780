"""Blobs into a registry: what is sent, in which pieces, and how it goes on after a cut."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from contents import Counted, blob_of, push, random_bytes
from modern_registry import ModernRegistry
from registry_proxy import RegistryProxy, cut_upload, delay, expire, lose_answer, lose_upload, stall, status

from envbuild.errors import EnvbuildError, Exit
from envbuild.progress import SilentProgress
from envbuild.registry import Blob, Remote, Sent, push_all
from envbuild.registry import upload as upload_module

if TYPE_CHECKING:
    from conftest import Connect

PATCH = r"^PATCH "
COMMIT = r"^PUT .*digest="
UPLOADED = "uploaded"


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> int:
    """Pieces of 1 MiB instead of 64, so that a test needs little content."""
    monkeypatch.setattr(upload_module, "PIECE", 1 << 20)
    return 1 << 20


def assert_there(remote: Remote, *blobs: Blob) -> None:
    for blob in blobs:
        content = b"".join(blob.chunks(0))
        assert remote.blob(blob.descriptor.digest, limit=1 << 30) == content


def test_what_is_there_is_not_sent_again(front: RegistryProxy, connect: Connect) -> None:
    remote = connect(front.host)
    blobs = [blob_of(random_bytes(3_000_000)), blob_of(b"{}"), blob_of(b"")]
    assert [item.how for item in push(remote, *blobs)] == [UPLOADED] * 3
    assert_there(remote, *blobs)
    front.calls.clear()
    assert push(remote, *blobs) == [Sent(how="present")] * 3
    assert {call.split()[0] for call in front.calls} == {"HEAD"}


def test_a_blob_is_mounted_from_a_neighbour(front: RegistryProxy, connect: Connect) -> None:
    blob = blob_of(random_bytes(1_000_000))
    push(connect(front.host, "team/base"), blob)
    front.calls.clear()
    here = connect(front.host, "team/app")
    assert push(here, blob, mount_from=("no/such", "team/base")) == [Sent(how="mounted")]
    assert_there(here, blob)
    assert not any(call.startswith("PATCH") for call in front.calls)
    assert sum(call.startswith("DELETE") for call in front.calls) == 1  # the upload that no/such began


def test_a_mount_that_is_no_mount_goes_on_as_an_upload(front: RegistryProxy, connect: Connect) -> None:
    blob = blob_of(random_bytes(100_000))
    remote = connect(front.host)
    assert push(remote, blob, mount_from=("no/such",)) == [Sent(how="uploaded", bytes=100_000)]
    assert sum(call.startswith("POST") for call in front.calls) == 1
    assert_there(remote, blob)


def test_mounting_asks_for_the_right_to_read_there(front: RegistryProxy, connect: Connect) -> None:
    front.token = "t"
    push(connect(front.host), blob_of(b"abc"), mount_from=("team/base",))
    scopes = [request["scope"] for request in front.token_requests]
    assert scopes[0] == "repository:team/app:pull"
    assert "repository:team/app:pull,push repository:team/base:pull" in scopes


def test_pieces(front: RegistryProxy, connect: Connect, small_pieces: int) -> None:
    blob = blob_of(random_bytes(3 * small_pieces + 5))
    remote = connect(front.host)
    assert push(remote, blob) == [Sent(how="uploaded", bytes=3 * small_pieces + 5)]
    ranges = [headers["content-range"] for _, headers in front.requests if "content-range" in headers]
    assert ranges == ["0-1048575", "1048576-2097151", "2097152-3145727", "3145728-3145732"]
    assert_there(remote, blob)


def test_the_least_piece_of_a_registry(modern: ModernRegistry, connect: Connect, small_pieces: int) -> None:
    modern.least = 2 * small_pieces
    push(connect(modern.host), blob_of(random_bytes(5 * small_pieces)))
    assert modern.ranges == ["0-2097151", "2097152-4194303", "4194304-5242879"]


@pytest.mark.parametrize("size", [1, 2, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_sizes_around_a_piece(modern: ModernRegistry, connect: Connect, small_pieces: int, size: int) -> None:
    remote = connect(modern.host)
    blob = blob_of(random_bytes(size))
    assert push(remote, blob) == [Sent(how="uploaded", bytes=size)]
    assert_there(remote, blob)


@pytest.mark.parametrize("after", [0, 1, 500_000, 1_500_000])
@pytest.mark.parametrize("fault", [cut_upload, lose_upload])
def test_a_cut_is_made_good(
    front: RegistryProxy, connect: Connect, small_pieces: int, fault: object, after: int
) -> None:
    """docker-registry 2.8 forgets an upload that was cut in a piece; one whose cut it never saw goes on."""
    remote = connect(front.host)
    blob = blob_of(random_bytes(2 * small_pieces + 7))
    number = 0 if after < small_pieces else 1
    front.faults = [
        (PATCH, lambda handler: handler.forward(), False),
        (PATCH, fault(after - number * small_pieces), False),  # type: ignore[operator]  # pytest gives objects
    ][1 - number :]
    push(remote, blob)
    assert_there(remote, blob)


def test_a_cut_that_the_registry_never_saw_costs_one_piece(
    front: RegistryProxy, connect: Connect, small_pieces: int
) -> None:
    front.faults = [
        (PATCH, lambda handler: handler.forward(), False),
        (PATCH, lose_upload(1000), False),
    ]
    blob = blob_of(random_bytes(3 * small_pieces))
    [sent] = push(connect(front.host), blob)
    ranges = [headers["content-range"] for _, headers in front.requests if "content-range" in headers]
    assert ranges == ["0-1048575", "1048576-2097151", "1048576-2097151", "2097152-3145727"]
    assert 3 * small_pieces <= sent.bytes <= 4 * small_pieces


def test_what_a_registry_kept_is_not_sent_again(modern: ModernRegistry, connect: Connect) -> None:
    modern.cuts = [1_000_000, 2_000_000, 2_500_000]
    remote = connect(modern.host)
    blob = blob_of(random_bytes(4_000_000))
    push(remote, blob)
    starts = [int(text.partition("-")[0]) for text in modern.ranges]
    assert len(starts) == 4
    assert all(start >= cut for start, cut in zip(starts[1:], (1_000_000, 2_000_000, 2_500_000), strict=True))
    assert_there(remote, blob)


def test_progress_starts_the_count_anew(modern: ModernRegistry, connect: Connect) -> None:
    """Eight cuts, and three tries: each cut comes after new bytes."""
    modern.cuts = [number * 300_000 for number in range(1, 9)]
    remote = connect(modern.host)
    blob = blob_of(random_bytes(3_000_000))
    push(remote, blob)
    assert_there(remote, blob)


def test_an_answer_that_is_lost_costs_nothing(modern: ModernRegistry, connect: Connect) -> None:
    modern.lost_answers = 1
    assert push(connect(modern.host), blob_of(random_bytes(900_000))) == [Sent(how="uploaded", bytes=900_000)]


def test_a_commit_whose_answer_is_lost_is_seen(front: RegistryProxy, connect: Connect) -> None:
    front.faults = [(COMMIT, lose_answer, False)]
    assert push(connect(front.host), blob_of(random_bytes(900_000))) == [Sent(how="uploaded", bytes=900_000)]


def test_another_position_than_the_registry_has_is_corrected(
    modern: ModernRegistry, connect: Connect, small_pieces: int
) -> None:
    modern.range_faults = [True]
    remote = connect(modern.host)
    blob = blob_of(random_bytes(3 * small_pieces))
    push(remote, blob)
    assert_there(remote, blob)


@pytest.mark.parametrize("which", ["second", "all"])
@pytest.mark.parametrize("code", [400, 405, 416, 501])
def test_a_registry_that_takes_no_pieces(
    modern: ModernRegistry, connect: Connect, small_pieces: int, which: str, code: int
) -> None:
    modern.refuse_pieces, modern.refusal = which, code
    remote = connect(modern.host)
    blob = blob_of(random_bytes(3 * small_pieces))
    push(remote, blob)
    assert_there(remote, blob)
    assert modern.uploads == {}


@pytest.mark.parametrize("where", [PATCH, COMMIT, r"^POST "])
@pytest.mark.parametrize(
    "fault",
    [status(429, Retry_After="0"), status(500), status(503), stall, delay(0.2)],
    ids=["429", "500", "503", "stall", "delay"],
)
def test_what_passes_is_tried_again(
    front: RegistryProxy, connect: Connect, where: str, fault: object
) -> None:
    front.faults = [(where, fault, False)] * 2  # type: ignore[list-item]  # pytest gives parameters as objects
    remote = connect(front.host)
    blob = blob_of(random_bytes(500_000))
    push(remote, blob)
    assert_there(remote, blob)


@pytest.mark.parametrize("where", [r"^HEAD ", r"^POST ", PATCH, COMMIT])
def test_a_token_that_ends_in_the_middle_is_renewed(
    front: RegistryProxy, connect: Connect, small_pieces: int, where: str
) -> None:
    front.token = "first"
    remote = connect(front.host)
    assert remote.tags() == []
    front.faults = [(where, expire, False)]
    blob = blob_of(random_bytes(2 * small_pieces))
    assert push(remote, blob)[0].bytes <= 3 * small_pieces
    assert front.token == "first-new"
    assert_there(remote, blob)


def test_another_who_was_faster_saves_the_rest(front: RegistryProxy, empty: int, connect: Connect) -> None:
    blob = blob_of(random_bytes(700_000))

    def meanwhile(handler: object) -> None:
        push(connect(f"127.0.0.1:{empty}"), blob)
        lose_upload(1000)(handler)  # type: ignore[arg-type]

    front.faults = [(PATCH, meanwhile, False), (r"^GET .*uploads", status(404), False)]
    assert push(connect(front.host), blob)[0].bytes < 1_400_000
    assert sum(call.startswith("PATCH") for call in front.calls) == 1


def test_content_that_changed_is_never_completed(front: RegistryProxy, connect: Connect) -> None:
    data = random_bytes(2_500_000)
    other = data[:-1] + bytes([data[-1] ^ 1])
    remote = connect(front.host)
    for really in (other, data + b"x", data[:-1]):
        blob = blob_of(data, "torch", really=really)
        with pytest.raises(EnvbuildError, match="torch is not what its image names") as caught:
            push(remote, blob)
        assert (caught.value.id, caught.value.exit) == ("wrong-content", Exit.VERIFY)
        assert not remote.has(blob.descriptor.digest)
    assert not any("digest=" in call for call in front.calls)


def test_content_that_changed_is_never_completed_by_one_put(modern: ModernRegistry, connect: Connect) -> None:
    """The whole body goes with the request that completes it; so its last piece is kept back."""
    modern.refuse_pieces = "all"
    data = random_bytes(2_500_000)
    with pytest.raises(EnvbuildError) as caught:
        push(connect(modern.host), blob_of(data, really=data[:-1] + b"!"))
    assert caught.value.id == "wrong-content"
    assert modern.content == {}


def test_skipped_bytes_are_hashed_as_well(modern: ModernRegistry, connect: Connect) -> None:
    """What the registry kept before the cut was another content than what is read now."""
    modern.cuts = [1_000_000]
    data, other = random_bytes(3_000_000), random_bytes(3_000_000, 1)
    versions = iter([data])

    def chunks(offset: int) -> Iterator[bytes]:
        content = next(versions, other)
        for start in range(offset, len(content), 1 << 16):
            yield content[start : start + (1 << 16)]

    blob = Blob(descriptor=blob_of(data).descriptor, name="layer", chunks=chunks)
    with pytest.raises(EnvbuildError) as caught:
        push(connect(modern.host), blob)
    assert caught.value.id == "wrong-content"
    assert modern.content == {}
    assert modern.uploads == {}  # it was cancelled


def test_content_that_cannot_be_read_is_named(modern: ModernRegistry, connect: Connect) -> None:
    def chunks(_: int) -> Iterator[bytes]:
        yield b"abc"
        raise OSError(5, "Input/output error")

    blob = Blob(descriptor=blob_of(random_bytes(100)).descriptor, name="torch", chunks=chunks)
    with pytest.raises(EnvbuildError, match="torch cannot be read: Input/output error") as caught:
        push(connect(modern.host), blob)
    assert caught.value.id == "unreadable-content"


def test_one_task_counts_each_byte_once(modern: ModernRegistry, connect: Connect) -> None:
    modern.cuts = [1_000_000, 1_500_000]
    blobs = [blob_of(random_bytes(2_000_000)), blob_of(random_bytes(10, 1)), blob_of(random_bytes(10, 1))]
    progress = Counted()
    sent = push_all(connect(modern.host), blobs, jobs=2, progress=progress)
    assert progress.tasks == [("push 2 blobs", 2_000_010)]
    assert progress.seen == 2_000_010
    assert len(sent) == 2


def test_the_first_error_stops_the_others(modern: ModernRegistry, connect: Connect) -> None:
    """The endless blob stops at its next piece, once the small one has failed."""
    going = threading.Event()

    def endless(_: int) -> Iterator[bytes]:
        while True:
            going.set()
            yield bytes(1 << 16)

    def bad(_: int) -> Iterator[bytes]:
        going.wait(10)
        yield b"other"

    long = Blob(descriptor=blob_of(b"a").descriptor, name="long", chunks=endless)
    descriptor = type(long.descriptor)(media_type="x", digest="sha256:" + "1" * 64, size=1 << 40)
    long = Blob(descriptor=descriptor, name="long", chunks=endless)
    wrong = Blob(descriptor=blob_of(b"right").descriptor, name="wrong", chunks=bad)
    with pytest.raises(EnvbuildError, match="wrong is not what") as caught:
        push_all(connect(modern.host), [long, wrong], jobs=2, progress=SilentProgress())
    assert caught.value.id == "wrong-content"
    assert modern.content == {}


def test_two_pushers_at_once(empty: int, connect: Connect) -> None:
    blobs = [blob_of(random_bytes(1_500_000, seed)) for seed in range(6)]
    remotes = [connect(f"127.0.0.1:{empty}") for _ in range(2)]
    problems: list[BaseException] = []

    def work(remote: Remote) -> None:
        try:
            push(remote, *blobs)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(remote,)) for remote in remotes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert_there(remotes[0], *blobs)


MEMORY = """
import hashlib, pathlib, re, sys
from envbuild.oci.descriptor import Descriptor
from envbuild.progress import SilentProgress
from envbuild.registry import Blob, Remote, parse_repository, push_all
from envbuild.store import Http

piece, count = bytes(range(256)) * 4096, 400
blobs = []
for number in range(2):
    hasher = hashlib.sha256(bytes([number]))
    for _ in range(count):
        hasher.update(piece)
    def chunks(offset, number=number):
        start = max(0, offset - 1)
        if offset == 0:
            yield bytes([number])
        yield piece[start % len(piece):]
        for _ in range(start // len(piece) + 1, count):
            yield piece
    size = 1 + count * len(piece)
    descriptor = Descriptor(media_type="x", digest="sha256:" + hasher.hexdigest(), size=size)
    blobs.append(Blob(descriptor=descriptor, name=f"blob {number}", chunks=chunks))
remote = Remote(parse_repository(sys.argv[1]), http=Http(environ={}), environ={})
sent = push_all(remote, blobs, jobs=2, progress=SilentProgress())
assert {item.how for item in sent.values()} == {"uploaded"}
print(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
"""


def test_memory_does_not_depend_on_the_size(empty: int) -> None:
    """Two blobs of 400 MiB at once, and the whole process stays under 100 MB."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, f"127.0.0.1:{empty}/team/app"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(done.stdout) * 1024 < 100_000_000
