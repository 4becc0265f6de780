"""What can go wrong with one request, in plain words without addresses or credentials."""

from __future__ import annotations

import ssl

from urllib3 import exceptions

from envbuild.store.pace import Slow

_AGAIN = "check the connection, then run the same command again: it goes on where it stopped"
_CERTIFICATE = (
    "set SSL_CERT_FILE to a bundle that holds the authority of this server, or of the proxy between"
)
NO_TLS = "check http:// against https:// in the address"


class Fault(Exception):
    """One request that failed.

    Args:
        reason: a verb phrase that follows the source's label (``answered 503``).
        retry: whether the same request may succeed later.
        status: the HTTP status, where there was an answer.
        pause: seconds that the server asked to wait.
        hint: what a person can do about it; left out where only trying again helps.
        stalled: seconds of waiting for too little.
    """

    def __init__(
        self,
        reason: str,
        *,
        retry: bool,
        status: int | None = None,
        pause: float | None = None,
        hint: str | None = None,
        stalled: float = 0.0,
    ) -> None:
        super().__init__(reason)
        self.stalled = stalled
        self.retry = retry
        self.status = status
        self.pause = pause
        self.advice = hint

    @property
    def hint(self) -> str:
        """What a person can do: to try again, where nothing better is known."""
        return self.advice or _AGAIN


def fault_of(error: Exception, read_timeout: float) -> Fault:
    """Name what urllib3 or the socket met. Its own texts hold addresses, so they are not used."""
    slow = _slow(error)
    return Fault(str(slow), retry=True, stalled=slow.seconds) if slow else _fault_of(error, read_timeout)


def _fault_of(error: Exception, read_timeout: float) -> Fault:
    if isinstance(error, exceptions.ProxyError):
        inner = error.original_error
        text = str(inner).rsplit(": ", 1)[-1] if isinstance(inner, OSError) else type(inner).__name__
        hint = "check http_proxy, https_proxy and no_proxy"
        return Fault(f"cannot be reached through the proxy ({text})", retry=True, hint=hint)
    if isinstance(error, exceptions.SSLError | ssl.SSLError):
        return _tls_fault(error)
    if isinstance(error, exceptions.NewConnectionError):  # NameResolutionError among them
        named = isinstance(error, exceptions.NameResolutionError)
        text = "its host name is not known" if named else str(error).rsplit(": ", 1)[-1]
        return Fault(f"cannot be reached ({text})", retry=True)
    for kinds, reason in (
        ((exceptions.ConnectTimeoutError,), "did not accept a connection in time"),
        ((exceptions.ReadTimeoutError, TimeoutError), f"sent nothing for {read_timeout:g} seconds"),
        ((exceptions.ProtocolError, OSError), "cut the connection"),
    ):
        if isinstance(error, kinds):
            return Fault(reason, retry=True)
    if isinstance(error, exceptions.LocationValueError | ValueError):
        return Fault("has an address that is not valid", retry=False, hint="correct the address")
    return Fault(f"failed ({type(error).__name__})", retry=False)


def _slow(error: BaseException | None) -> Slow | None:
    """What broke the pace, where that is the cause."""
    while error is not None and not isinstance(error, Slow):
        error = error.__cause__
    return error


def _tls_fault(cause: BaseException) -> Fault:
    text = str(cause)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        reason = text.split("certificate verify failed: ", 1)[-1].split(" (_ssl", 1)[0]
        return Fault(f"has a certificate that is not trusted ({reason})", retry=False, hint=_CERTIFICATE)
    if "EOF" in text or "reset" in text:
        return Fault("cut the connection", retry=True)
    return Fault("does not speak TLS as expected", retry=False, hint=NO_TLS)
