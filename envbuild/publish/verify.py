"""Verify a published image: what holds, what does not, and what nobody can say."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from envbuild.errors import EnvbuildError
from envbuild.gate.expect import expect
from envbuild.gate.keys import PublicKey
from envbuild.gate.promote import Terms, promote
from envbuild.gate.signed import SignedVerdict
from envbuild.gate.verdict import subject_of
from envbuild.image.locked import image_of
from envbuild.lock.asked import asked_recipe
from envbuild.lock.file import lock_bytes, parse_lock
from envbuild.lock.model import Lock
from envbuild.oci.digest import of_bytes
from envbuild.oci.document import read_json
from envbuild.oci.image import Image
from envbuild.publish.believing import Believed, believe, bundles_of, locks_named, signed_verdicts
from envbuild.publish.proofs import CYCLONEDX, LOCK, Proof
from envbuild.publish.provenance import PREDICATE as PROVENANCE
from envbuild.publish.remote_image import RemoteImage
from envbuild.publish.sbom import sbom
from envbuild.publish.statements import PREDICATE as SBOM
from envbuild.registry.remote import Remote
from envbuild.smoke.fingerprint import fingerprint

Status = Literal["holds", "fails", "missing"]
_LOOKUPS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The answer to one question. ``missing``: there is nothing that could be checked."""

    question: str
    status: Status
    text: str

    def to_dict(self) -> dict[str, str]:
        """For ``--json``."""
        return {"question": self.question, "status": self.status, "text": self.text}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """All answers about one image; ``verdict`` is the one that was believed, newest first."""

    digest: str
    findings: tuple[Finding, ...]
    lock: Lock | None
    verdict: SignedVerdict | None
    keys: tuple[PublicKey, ...]

    @property
    def holds(self) -> bool:
        """Whether every question was answered, and well."""
        return all(finding.status == "holds" for finding in self.findings)


def verify_image(
    remote: Remote,
    image: RemoteImage,
    proofs: Sequence[Proof],
    *,
    trusted: Sequence[PublicKey],
    gate: Sequence[PublicKey],
    tag: str | None,
    now: datetime,
) -> Verification:
    """Ask everything that can be asked of an image without fetching its layers.

    Args:
        remote: where it is.
        image: manifest and config, whose digests were checked when they were read.
        proofs: what is attached.
        trusted: the keys that are believed.
        gate: the keys that alone are believed of a verdict; none: as ``trusted``.
        tag: the tag that it was named by, if any: a tag without ``-candidate`` promises a passing verdict.
        now: the time, with its zone: no verdict is from the future.

    Raises:
        EnvbuildError: exit 4, the registry fails.
    """
    findings = [
        Finding(question="manifest", status="holds", text=f"{image.digest}, {len(image.layers)} layers"),
        Finding(question="config", status="holds", text=image.config.digest),
        _layers(remote, image),
    ]
    lock, about_lock = _lock(image, proofs)
    findings.append(about_lock)
    if tag is not None and lock is not None:
        findings.append(_tag(lock, tag))
    bill, about_bill = _sbom(image, proofs, lock, trusted)
    origin, about_origin = _provenance(image, proofs, lock, trusted)
    verdict, about_verdict = _verdict(image, proofs, lock, gate or trusted, tag, now)
    findings += [about_bill, about_origin, about_verdict]
    signers = [*bill, *origin, *(verdict.keys if verdict else ())]
    return Verification(
        digest=image.digest,
        findings=tuple(findings),
        lock=lock,
        verdict=verdict,
        keys=tuple(dict.fromkeys(signers)),
    )


def _layers(remote: Remote, image: RemoteImage) -> Finding:
    """Every layer is there with its size. Their content is checked by who pulls them."""
    with ThreadPoolExecutor(max_workers=_LOOKUPS) as pool:
        there = list(pool.map(lambda layer: remote.has(layer.digest, layer.size), image.layers))
    lost = [layer.digest for layer, found in zip(image.layers, there, strict=True) if not found]
    if lost:
        named = ", ".join(lost[:3]) + (" …" if lost[3:] else "")
        text = f"{len(lost)} of {len(there)} are not in the registry: {named}"
        return Finding(question="layers", status="fails", text=text)
    return Finding(
        question="layers", status="holds", text=f"all {len(there)} are there, {image.size} bytes; not read"
    )


def _lock(image: RemoteImage, proofs: Sequence[Proof]) -> tuple[Lock | None, Finding]:
    """The attached lock gives this very image: the plan is a function of it, down to the manifest's bytes."""
    attached = [proof for proof in proofs if proof.artifact_type == LOCK]
    if not attached:
        made = "io.envbuild.ref" in image.labels
        text = (
            "none is attached"
            if made
            else "none is attached, and no label says that envbuild made this image: what is in it, and of what it "
            "was made, cannot be said"
        )
        return None, Finding(question="lock", status="missing", text=text)
    problems = []
    for proof in attached:
        try:
            lock = parse_lock(proof.data, Path(str(proof.referrer)))
            made_of = image_of(lock)
        except EnvbuildError as error:
            problems.append(_flat(error))
            continue
        if made_of is not None and made_of.digest == image.digest:
            text = f"{lock.ref}: its {len(lock.debian)} Debian and {len(lock.python)} Python packages give this image"
            return lock, Finding(question="lock", status="holds", text=text)
        problems.append(f"it gives {made_of.digest if made_of else 'no image'}, not this one")
    return None, Finding(question="lock", status="fails", text="; ".join(dict.fromkeys(problems)))


def _tag(lock: Lock, tag: str) -> Finding:
    """The tag is the recipe's: an older image under a newer one's tag proves itself, and is another image."""
    own = lock.ref.tag
    if tag in (own, f"{own}-candidate"):
        return Finding(question="tag", status="holds", text=f"{tag} is the recipe's own")
    text = f"{tag} names the image of {lock.ref}, whose own tag is {own}"
    return Finding(question="tag", status="fails", text=text)


def _sbom(
    image: RemoteImage, proofs: Sequence[Proof], lock: Lock | None, trusted: Sequence[PublicKey]
) -> tuple[list[PublicKey], Finding]:
    """The signed bill is about this image, and is the one that the lock gives; so is the one that lies beside it."""
    believed, why = _believed(proofs, trusted, SBOM, image.digest)
    if believed is None:
        return [], Finding(question="SBOM", status=_status(proofs, SBOM), text=why)
    if lock is None:
        return [], Finding(
            question="SBOM", status="fails", text="it is signed, but there is no lock to hold it against"
        )
    expected = sbom(lock)
    plain = [proof.data for proof in proofs if proof.artifact_type == CYCLONEDX]
    if believed.predicate != _json(expected):
        text = "what is signed is not what the lock gives"
    elif any(_json(data) != _json(expected) for data in plain):
        text = "the attached bill is not the one that is signed"
    else:
        components = _json(expected).get("components")
        number = len(components) if isinstance(components, list) else 0
        text = f"{number} components, as the lock has them; signed by {_names(believed.keys)}"
        return list(believed.keys), Finding(question="SBOM", status="holds", text=text)
    return [], Finding(question="SBOM", status="fails", text=text)


def _provenance(
    image: RemoteImage, proofs: Sequence[Proof], lock: Lock | None, trusted: Sequence[PublicKey]
) -> tuple[list[PublicKey], Finding]:
    """The signed provenance is about this image and names the attached lock."""
    believed, why = _believed(proofs, trusted, PROVENANCE, image.digest)
    if believed is None:
        return [], Finding(question="provenance", status=_status(proofs, PROVENANCE), text=why)
    if lock is None or of_bytes(lock_bytes(lock)) not in set(locks_named(believed)):
        text = "it names another lock than the one that is attached"
        return [], Finding(question="provenance", status="fails", text=text)
    details = believed.predicate.get("runDetails")
    builder = details.get("builder", {}) if isinstance(details, dict) else {}
    version = builder.get("version", {}) if isinstance(builder, dict) else {}
    told = " ".join(f"{key} {value}" for key, value in version.items()) if isinstance(version, dict) else ""
    text = f"built from this lock{f' by {told}' if told else ''}; signed by {_names(believed.keys)}"
    return list(believed.keys), Finding(question="provenance", status="holds", text=text)


def _verdict(
    image: RemoteImage,
    proofs: Sequence[Proof],
    lock: Lock | None,
    trusted: Sequence[PublicKey],
    tag: str | None,
    now: datetime,
) -> tuple[SignedVerdict | None, Finding]:
    """The newest verdict by a trusted key is about this image, passed, and asked what the lock's recipe demands."""
    verdicts, refused = signed_verdicts(proofs, trusted, where="the attached verdict")
    if not verdicts:
        promised = tag is not None and not tag.endswith("-candidate")
        text = "; ".join(dict.fromkeys(_flat(error) for error in refused)) or (
            f"none is attached, and the tag {tag} promises one"
            if promised
            else "none is attached: a candidate"
        )
        status: Status = "fails" if refused or promised else "missing"
        return None, Finding(question="verdict", status=status, text=text)
    newest = max(verdicts, key=lambda item: item.verdict.started)
    verdict = newest.verdict
    if lock is None:
        text = "it is signed, but there is no lock that says what it had to ask"
        return newest, Finding(question="verdict", status="fails", text=text)
    made_of = image_of(lock)
    assert isinstance(made_of, Image)  # _lock gives no other
    try:
        expected = expect(asked_recipe(lock, image.digest), lock)
        terms = Terms(expected=expected, lock=of_bytes(lock_bytes(lock)), suites=None, now=now)
        promote(verdict, subject_of(str(lock.ref), made_of), terms)
    except EnvbuildError as error:
        return newest, Finding(question="verdict", status="fails", text=_flat(error))
    counts: dict[str, int] = {}
    for gpu in verdict.gpus:
        counts[gpu.name] = counts.get(gpu.name, 0) + 1
    gpus = ", ".join(f"{number} × {name}" for name, number in counts.items())
    text = (
        f"passed {len(verdict.checks)} checks on {gpus}, driver {verdict.driver}, {verdict.started}; "
        f"signed by {_names(newest.keys)}"
    )
    if verdict.suite != fingerprint():
        text += f"; note: by the suite {verdict.suite}, which is not this envbuild's"
    return newest, Finding(question="verdict", status="holds", text=text)


def _believed(
    proofs: Sequence[Proof], trusted: Sequence[PublicKey], predicate: str, digest: str
) -> tuple[Believed | None, str]:
    """The first statement of that kind about the image that a trusted key signed; else why there is none."""
    why = "none is attached"
    for proof in bundles_of(proofs, predicate):
        try:
            believed = believe(proof, trusted, predicate)
        except EnvbuildError as error:
            why = _flat(error)
            continue
        if believed.is_about(digest):
            return believed, ""
        why = "what is signed is about another image"
    return None, why


def _flat(error: EnvbuildError) -> str:
    """Its message on one line."""
    return "; ".join(error.message.split("\n"))


def _status(proofs: Sequence[Proof], predicate: str) -> Status:
    return "fails" if any(True for _ in bundles_of(proofs, predicate)) else "missing"


def _json(data: bytes) -> dict[str, object]:
    try:
        value = read_json(data)
    except (ValueError, RecursionError):  # msgspec's own, and UnicodeDecodeError
        return {}
    return value if isinstance(value, dict) else {}


def _names(keys: Sequence[PublicKey]) -> str:
    return ", ".join(key.id[:16] for key in keys)
