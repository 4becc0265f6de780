"""The page: the answer first, nothing from outside, nothing of a report is taken as HTML, readable in a browser."""

from __future__ import annotations

import json
import re
import struct
import subprocess
from html.parser import HTMLParser

import pytest
import samples
from needed import need

from envbuild.gate.figures import bandwidth, duration, key_number, size, training
from envbuild.gate.page import page
from envbuild.gate.plot import draw, nice_step

EMPTY = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


class Reader(HTMLParser):
    """Collects text and attributes, and sees that elements are closed in order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.text = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    @property
    def shown(self):
        return re.sub(r"\s+", " ", " ".join(self.text))


@pytest.fixture
def written(report, verdict_of, key):
    """The page of a (changed) report."""
    return lambda change=samples.full: page(verdict_of(change(report)), [key.public])


# what it says


def test_a_pass_says_so_first_and_about_what(written, image, key):
    shown = Reader(written()).shown
    first = shown.partition("Checks")[0]
    for text in (
        "Passed",
        "pytorch-cuda:v2.7",
        image.digest,
        image.config.digest,
        "2 × NVIDIA H200",
        "580.159.04",
    ):
        assert text in first
    assert key.public.id in first
    assert "What failed" not in shown
    assert "all_reduce 324.2 GB/s" in shown
    assert "floor 240 GB/s" in shown
    assert "NCCL_NVLS_ENABLE" in shown


def test_every_pin_is_shown_as_declared_resolved_installed_and_loaded(written):
    text = written()
    row = re.search(r"<tr><td>libcudnn</td>(.*?)</tr>", text)
    assert row
    assert re.findall(r"<td>(.*?)</td>", row[1]) == ["9.5.1.17", "9.5.1.17", "9.5.1.17", "9.5.1"]


def test_a_failure_says_what_to_do_before_anything_else(written):
    shown = Reader(written(samples.failing)).shown
    assert shown.index("Failed") < shown.index("What failed, and what to do") < shown.index("Checks")
    part = shown.partition("What failed, and what to do")[2].partition("Checks")[0]
    for text in ("all_reduce 41.0 GB/s", "NCCL_P2P_DISABLE is set: unset it", "timeout", "line 12 in step"):
        assert text in part


def test_a_candidate_says_what_is_missing_and_plots_nothing(written):
    text = written(samples.candidate)
    shown = Reader(text).shown
    assert "2 GPUs are wanted and 0 GPUs are here" in shown
    assert "A candidate gives no tag" in shown
    assert shown.count("not run") >= 5
    assert "<svg" not in text


def test_a_python_environment_is_about_no_image(report, verdict_of, key):
    shown = Reader(page(verdict_of(samples.full(report), about=None, lock=None), [key.public])).shown
    assert "About no image" in shown
    assert "/opt/venv/bin/python" in shown
    assert "manifest" not in shown


def test_warnings_are_shown_with_their_check(written, report):
    shown = Reader(written()).shown
    assert f"{report['checks'][0]['id']} GPU 1 is throttled" in shown


# what it is


def test_nothing_comes_from_outside_and_nothing_runs(written):
    text = written()
    reader = Reader(text)
    assert not {"script", "link", "iframe", "img", "object", "embed", "form", "base"} & set(reader.tags)
    outside = {"src", "href", "srcset", "action", "data", "poster", "background"}
    assert not [name for name, _ in reader.attributes if name in outside or name.startswith("on")]
    assert not re.search(r"url\(|@import|https?://", text)
    assert "default-src 'none'" in text


def test_the_same_verdict_gives_the_same_page(written):
    assert written() == written()


EVIL = "</pre></title></style><script>alert(1)</script><img src=x onerror=alert(1)>\"'&{{ 7 * 7 }}"


def test_what_a_report_says_is_text_and_never_markup(report, verdict_of, key):
    """Everything in a report comes from inside a container."""
    value = samples.failing(report)
    value["why"] = EVIL
    value["environment"] = {"NCCL_" + EVIL: EVIL}
    value["host"] |= {"system": EVIL, "kernel": EVIL, "executable": EVIL, "libc": EVIL}
    for gpu in value["gpus"]:
        gpu.update(name=EVIL, uuid=EVIL)
    for check in value["checks"]:
        check.update(reason=EVIL, seen=EVIL, hint=EVIL, expected=EVIL, output=EVIL, warnings=[EVIL])
        check["numbers"] = {**check["numbers"], EVIL: EVIL, "pins": [{"name": EVIL, "loaded": EVIL}]}
        if check["id"] == "nccl":
            check["numbers"] |= {"transport": EVIL, "link": EVIL, "floor": {"busbw": 1.0, "source": EVIL}}
            check["numbers"]["curve"] = {EVIL: samples.curve(1.0, 1.0)}
    text = page(verdict_of(value), [key.public])
    reader = Reader(text)
    assert {"script", "img"} & set(reader.tags) == set()
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    assert reader.shown.count("<script>alert(1)</script>") > 30
    assert "49" not in re.findall(r"&amp;(\S*)", text)
    assert "{{ 7 * 7 }}" in text


def test_what_turns_text_around_or_hides_in_it_is_written_out(report, verdict_of, key):
    value = samples.failing(report)
    for check in value["checks"]:
        check.update(seen="a\u202eb\x1bc\x9bd\u200be\x7ff\n<b>", output="\u2066\r")
    text = page(verdict_of(value), [key.public])
    assert r"a\u202eb\x1bc\x9bd\u200be\x7ff" + "\n&lt;b&gt;" in text
    assert r"\u2066\r" in text
    assert all(char == "\n" or char.isprintable() for char in text)


# numbers of another form than expected: the page leaves out what it cannot show


@pytest.mark.parametrize(
    "numbers",
    [
        {},
        {
            "curve": None,
            "floor": 3,
            "busbw": "x",
            "step_seconds": "x",
            "gpus": 1,
            "libraries": [],
            "pins": {},
        },
        {"curve": {"all_reduce": []}, "step_seconds": [], "losses": None, "pins": [1, None]},
        {"curve": {"all_reduce": [{"bytes": 0, "seconds": 1, "busbw": 1}, 3, {"bytes": "8"}]}, "pins": [{}]},
        {
            "curve": {"x": [{"bytes": 8, "seconds": 0, "busbw": 0}]},
            "floor": {"busbw": None},
            "step_seconds": [0],
        },
        {"curve": {"x": [{"bytes": 8, "seconds": 1e-5, "busbw": 1e9}]}, "step_seconds": [True, "1", 2.5]},
        {"machine_code": 9, "ptx": [None], "packages": "many", "torch": ["x"]},
        {"gpus": [None, {"name": 3}], "busbw": {"all_reduce": None, "x": True}},
    ],
)
def test_numbers_of_any_form_make_a_page(report, verdict_of, key, numbers):
    for check in report["checks"]:
        check["numbers"] = numbers
    verdict = verdict_of(report)
    Reader(page(verdict, [key.public]))
    for check in verdict.checks:
        assert isinstance(key_number(check), str)


def test_every_form_of_the_key_figure(report, verdict_of):
    figures = {check.id: key_number(check) for check in verdict_of(samples.full(report)).checks}
    assert figures["versions"] == "203 packages, 13,314 files hashed"
    assert figures["loaded"] == "torch 2.7.1+cu126, CUDA 12.6, cuDNN 9.5.1, NCCL 2.26.2"
    assert figures["operator-file"] == "7.0, 8.0, 8.6, 9.0, 9.0 PTX"
    assert figures["cuda-available"] == "2 × NVIDIA H200"
    assert re.fullmatch(r"all_reduce 32\d\.\d GB/s \(floor 240\)", figures["nccl"])
    assert figures["zero3-fused-adam"] == "step 30.0 ms, loss 5.057 → 4.800"


def test_a_check_with_parts_shows_each_part_once(report, verdict_of):
    names = [steps.name for steps in training(verdict_of(samples.full(report)))]
    assert [name for name in names if name.startswith("zero-stages")] == ["zero-stages 1", "zero-stages 2"]
    assert [name for name in names if name.startswith("zero-offload")] == [
        "zero-offload cpu_adam",
        "zero-offload torch_adam",
    ]
    assert len(names) == len(set(names))


# the plot


def test_a_doubling_is_always_as_wide_and_the_floor_lies_where_its_bandwidth_does(report, verdict_of):
    measured = bandwidth(verdict_of(samples.full(report)))
    plot = draw(measured, width=880, height=340, x_ticks=10)
    [line] = [line for line in plot.lines if line.name == "all_reduce"]
    widths = [round(b.x - a.x, 0) for a, b in zip(line.dots, line.dots[1:], strict=False)]
    assert max(widths) - min(widths) <= 1
    assert (line.dots[0].x, line.dots[-1].x) == (plot.left, plot.right)
    above = [dot.y < plot.floor for dot in line.dots]
    assert above == [point.busbw > 240 for point in measured.curves["all_reduce"]]
    assert plot.x_ticks[-1].label == "1 GiB"
    assert plot.y_ticks[0].label == "0"
    assert len(plot.x_ticks) <= 10
    assert line.dots[-1].title.startswith("all_reduce, 1 GiB: 324")


@pytest.mark.parametrize(
    ("highest", "step"), [(326.7, 50), (41, 10), (7, 1), (0.0, 1), (0.003, 0.0005), (950, 200)]
)
def test_ticks_are_round_numbers(highest, step):
    assert nice_step(highest) == pytest.approx(step)


def test_units():
    assert [size(8), size(4096), size(1 << 20), size(1 << 30)] == ["8 B", "4 KiB", "1 MiB", "1 GiB"]
    assert [duration(2.5e-5), duration(0.031), duration(2)] == ["25.0 µs", "31.0 ms", "2.00 s"]


# in a browser


@pytest.fixture(scope="module")
def browser():
    return [need("chromium"), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]


def dump(browser, file, profile, *options):
    done = subprocess.run(
        [*browser, f"--user-data-dir={profile}", *options, "--dump-dom", file.as_uri()],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return done.stdout


def test_a_browser_shows_the_whole_page_and_complains_about_nothing(browser, written, tmp_path):
    file = tmp_path / "verdict.html"
    file.write_text(written())
    reader = Reader(dump(browser, file, tmp_path / "profile"))
    assert reader.tags.count("svg") >= 2
    assert reader.tags.count("circle") == 2 * 4 * 28
    assert "Passed" in reader.shown
    assert reader.text[-1].strip() == ""


@pytest.mark.parametrize("width", [1200, 400])
@pytest.mark.parametrize("scheme", ["0", "1"])
def test_a_browser_draws_it_wide_and_narrow_dark_and_light(browser, written, tmp_path, width, scheme):
    """A picture of the page has the size that was asked for and the page's own background, dark or light."""
    file, shot = tmp_path / "verdict.html", tmp_path / "shot.png"
    file.write_text(written())
    subprocess.run(
        [*browser, f"--user-data-dir={tmp_path / 'profile'}", f"--blink-settings=preferredColorScheme={scheme}",
         f"--window-size={width},900", f"--screenshot={shot}", file.as_uri()],
        capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    data = shot.read_bytes()
    assert struct.unpack(">II", data[16:24]) == (width, 900)
    assert corner(data) == {"0": (0x10, 0x13, 0x17), "1": (0xF6, 0xF7, 0xF9)}[scheme]


def corner(png):
    """The first pixel of an 8-bit PNG: the first row's filter, whichever it is, adds nothing to it."""
    import zlib

    position, packed = 8, b""
    while position < len(png):
        length, kind = struct.unpack(">I4s", png[position : position + 8])
        if kind == b"IDAT":
            packed += png[position + 8 : position + 8 + length]
        position += 12 + length
    return tuple(zlib.decompressobj().decompress(packed, 4)[1:4])


def test_no_part_is_wider_than_a_narrow_screen(browser, report, verdict_of, key, tmp_path):
    """Measured by the browser: the page is opened in a frame of 400 px by a page that may run scripts."""
    value = samples.full(report)
    value["environment"]["NCCL_" + "X" * 120] = "y" * 400
    inner = page(verdict_of(value), [key.public])
    file = tmp_path / "outer.html"
    file.write_text(
        "<!doctype html><iframe id=f style='width:400px;height:800px;border:0' srcdoc='"
        + inner.replace("&", "&amp;").replace("'", "&#39;")
        + "'></iframe><p id=out></p><script>f.onload = () => { const e = f.contentDocument.documentElement;"
        "out.textContent = JSON.stringify([e.clientWidth, e.scrollWidth]); }</script>"
    )
    text = dump(browser, file, tmp_path / "profile", "--virtual-time-budget=3000")
    found = re.search(r'<p id="out">(\[.*?\])</p>', text)
    assert found, text[-500:]
    client, scroll = json.loads(found[1])
    assert client == 400
    assert scroll <= client
