"""Disk, home and network: where programs write, and what other machines are reached by."""

from __future__ import annotations

import os
import socket

from .model import Finding, Host, State, size

FREE = 2 << 30


def disk(host: Host) -> Finding:
    """Free space where programs write: the working folder, temporary files, the home for caches."""
    home = host.environ.get("HOME", "/root")
    rows, worth, facts = [], [], {}
    for path in dict.fromkeys(("/workspace", host.environ.get("TMPDIR", "/tmp"), home)):
        place = host.root / path.lstrip("/")
        try:
            found = os.statvfs(place)
        except OSError as error:
            worth.append(f"{path}: {error.strerror}")
            continue
        free, writable = found.f_frsize * found.f_bavail, os.access(place, os.W_OK)
        facts[path] = {"free_bytes": free, "writable": writable}
        rows.append(f"{path} {size(free)} free")
        if not writable:
            worth.append(f"{path} cannot be written by user {os.getuid()}")
        elif free < FREE:
            worth.append(f"{path} has only {size(free)} free")
    if worth:
        return Finding(
            id="disk",
            state=State.WARNING,
            detail="; ".join(worth),
            fix='mount a folder that this user may write (docker run -v "$PWD":/workspace); Triton and torch.compile '
            "keep their caches in the home and in the temporary folder (TRITON_CACHE_DIR, TORCHINDUCTOR_CACHE_DIR)",
            facts=facts,
        )
    return Finding(id="disk", state=State.GOOD, detail=", ".join(rows), facts=facts)


def network(host: Host) -> Finding:
    """Interfaces besides loopback, and whether this host's own name leads to loopback."""
    have = [name for name in host.names("sys/class/net", ".+") if name != "lo"]
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
    except OSError:
        address = ""
    facts = {"interfaces": have, "name": name, "address": address}
    if not have:
        return Finding(id="network", state=State.GOOD, detail="loopback only: one machine", facts=facts)
    if not address or address.startswith("127."):
        return Finding(
            id="network",
            state=State.WARNING,
            detail=f"the name {name} leads to {address or 'nowhere'}: other machines do not reach rank 0 by it",
            fix="for several machines give --master_addr (or MASTER_ADDR) an address that they reach",
            facts=facts,
        )
    return Finding(
        id="network", state=State.GOOD, detail=f"{', '.join(have)}; {name} is {address}", facts=facts
    )


def environment(host: Host) -> Finding:
    """Whether the image's torch imports, and sees the GPUs."""
    answer, count = host.torch, len(host.gpus())
    if answer.get("error"):
        return Finding(
            id="torch",
            state=State.PROBLEM,
            detail=f"torch does not import: {answer['error']}",
            fix="something installed or mounted over /opt/venv broke it: start the image as it is, then add one thing "
            "at a time",
            facts=dict(answer),
        )
    if "version" not in answer:
        return Finding(id="torch", state=State.UNKNOWN, detail="not asked", facts=dict(answer))
    told = f"{answer['version']}, CUDA {answer.get('cuda')}"
    if count and not answer.get("available"):
        heard = answer.get("warnings")
        why = f": {heard[0]}" if isinstance(heard, list) and heard else ""
        return Finding(
            id="torch",
            state=State.PROBLEM,
            detail=f"{told} does not see the {count} GPUs{why}",
            fix="see the rows driver, cuda and variables",
            facts=dict(answer),
        )
    if answer.get("cuda") is None:
        return Finding(
            id="torch",
            state=State.PROBLEM,
            detail=f"{told}: a build for the CPU has taken the image's place",
            fix="a pip install replaced it: ask pip for nothing that pins another torch, or take a fresh container",
            facts=dict(answer),
        )
    return Finding(
        id="torch",
        state=State.GOOD,
        detail=told + (f", sees {answer.get('count')} GPUs" if count else ""),
        facts=dict(answer),
    )
