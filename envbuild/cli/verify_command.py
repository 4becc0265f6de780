"""``envbuild verify``."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from envbuild.cli.context import Context, common
from envbuild.cli.keys import key_option, trusted
from envbuild.cli.registries import plain_http_option, plainly
from envbuild.cli.terminal import Terminal
from envbuild.errors import EnvbuildError, Exit
from envbuild.gate import keys_in

_MARKS = {"holds": "✓", "fails": "✗", "missing": "–"}


@click.command()
@click.argument("name", metavar="REGISTRY/REPO:TAG|REGISTRY/REPO@sha256:…")
@key_option("at the publisher's")
@click.option(
    "--gate-key",
    "gate",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="PEM",
    help="Believe a verdict only by this key: that of the machines with GPUs (repeatable) [default: as --key].",
)
@plain_http_option
@common
def command(
    context: Context, name: str, keys: tuple[Path, ...], gate: tuple[Path, ...], plain_http: bool
) -> int:
    """Check a published image: digests, lock, SBOM, provenance, verdict, and who signed them.

    Says of each what holds, what does not, and what is not there; exit 5 where something does not hold or is not
    there. No layer is fetched: `envbuild pull` checks those. Believed are the keys of --key, those of
    ENVBUILD_TRUSTED_KEYS and this machine's own.
    """
    from envbuild.cli.pulled import find
    from envbuild.publish.verify import verify_image
    from envbuild.registry.reference import parse_image_name

    believed = trusted(context, keys)
    judges = keys_in(gate)
    if plain_http:
        context = plainly(context, parse_image_name(name).repository)
    found = find(context, name)
    done = verify_image(
        found.remote,
        found.image,
        found.proofs,
        trusted=believed,
        gate=judges,
        tag=found.name.tag,
        now=datetime.now(UTC),
    )
    bad = [finding for finding in done.findings if finding.status != "holds"]
    refusal = None
    if bad:
        told = ", ".join(f"{finding.question} ({finding.status})" for finding in bad)
        refusal = EnvbuildError(
            "not-verified",
            f"of {len(done.findings)} things about {found.pinned} these do not hold: {told}",
            where=found.pinned,
            hint="give the publisher's public key with --key PEM; an image that lacks proofs is published again with "
            "`envbuild publish`, and proven with `envbuild smoke --attach` and `envbuild promote`",
            exit=Exit.VERIFY,
        )
    verdict = done.verdict.verdict if done.verdict is not None else None
    value: dict[str, object] = {
        "name": name,
        "digest": done.digest,
        "ref": str(done.lock.ref) if done.lock is not None else None,
        "holds": done.holds,
        "findings": [finding.to_dict() for finding in done.findings],
        "gpus": [gpu.name for gpu in verdict.gpus] if verdict is not None else [],
        "keys": [key.id for key in done.keys],
    }
    if refusal is not None:
        value["error"] = refusal.to_dict()
    width = max(len(finding.question) for finding in done.findings)
    lines = [f"{_MARKS[f.status]} {f.question:<{width}}  {f.text}" for f in done.findings]
    context.terminal.data(value, [found.pinned, *lines])
    if refusal is None:
        return int(Exit.DONE)
    Terminal(json=False, quiet=True).error(refusal)  # the one JSON document holds it already
    return int(refusal.exit)
