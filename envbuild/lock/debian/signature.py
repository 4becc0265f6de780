"""Signatures of Debian's release files, checked by gpgv as apt does."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from envbuild.errors import EnvbuildError, Exit

_DEFAULT = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyring:
    """The program and the keys that check release files."""

    gpgv: str
    path: Path

    @classmethod
    def find(cls, chosen: Path | None) -> Keyring:
        """gpgv on PATH, and the chosen keyring or the distribution's.

        Raises:
            EnvbuildError: exit 2, one of them is missing.
        """
        program = shutil.which("gpgv")
        if program is None:
            raise EnvbuildError(
                "no-gpgv", "gpgv is needed to check Debian's signatures, and it is not on PATH",
                hint="Install it: `apt-get install gpgv`, `dnf install gnupg2`, `apk add gpgv`.", exit=Exit.USAGE,
            )  # fmt: skip
        path = chosen or _DEFAULT
        if not path.is_file():
            raise EnvbuildError(
                "no-keyring", f"there is no keyring at {path}, so Debian's signatures cannot be checked",
                hint="Install debian-archive-keyring, or set ENVBUILD_DEBIAN_KEYRING to a file with Debian's keys.",
                exit=Exit.USAGE, where=str(path),
            )  # fmt: skip
        with path.open("rb") as stream:
            if stream.read(10) == b"-----BEGIN":
                raise EnvbuildError(
                    "armored-keyring", f"{path} is an armored key file, which gpgv does not read", exit=Exit.USAGE,
                    hint=f"Convert it: `gpg --dearmor < {path} > keyring.gpg`, and name that.", where=str(path),
                )  # fmt: skip
        return cls(gpgv=program, path=path)

    def verified(self, signed: bytes, what: str) -> str:
        """The signed text inside a clear-signed message (RFC 9580, section 7), exactly as it was signed.

        At least one signature must be good and none bad; signatures by unknown keys do not count, as for apt.

        Raises:
            EnvbuildError: exit 5, there is no good signature.
        """
        with tempfile.TemporaryDirectory(prefix="envbuild-gpgv-") as name:
            folder = Path(name)
            (folder / "signed").write_bytes(signed)
            result = subprocess.run(
                [
                    self.gpgv, "--homedir", str(folder), "--keyring", str(self.path.resolve()), "--status-fd", "1",
                    "--output", str(folder / "text"), str(folder / "signed"),
                ],
                capture_output=True, check=False,
            )  # fmt: skip
            states = [
                line.split()[1]
                for line in result.stdout.decode("ascii", "replace").splitlines()
                if " " in line
            ]
            if "VALIDSIG" in states and "GOODSIG" in states and "BADSIG" not in states:
                return (folder / "text").read_text("utf-8", "replace")
        if "BADSIG" in states:
            reason = "has a bad signature: it was changed after it was signed"
        elif "EXPKEYSIG" in states or "REVKEYSIG" in states:
            reason = f"is signed by a key that has expired or was revoked, by {self.path}"
        elif "NO_PUBKEY" in states:
            reason = f"is signed by keys that are not in {self.path}"
        else:
            reason = "is not signed"
        raise EnvbuildError(
            "bad-signature", f"{what} {reason}", exit=Exit.VERIFY,
            hint="Update debian-archive-keyring, or set ENVBUILD_DEBIAN_KEYRING; if that is no help, do not trust this "
            "mirror (ENVBUILD_DEBIAN_MIRROR names another).",
        )  # fmt: skip
