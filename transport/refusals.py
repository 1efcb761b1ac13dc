"""Why a broker and we do not come together: which refusals of a connection no retry mends, and whose setting it is.

kafka-python counts a failed handshake, and a sign-in that a broker refuses, as a broker that is away.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from kafka import errors as kafka_errors
from kafka.errors import KafkaError

from transport.errors import ConfigurationRefused, Forbidden, TransportError

# OpenSSL's X509_V_ERR_...: not yet valid, expired, name does not match, address does not match.
_OUT_OF_TIME = (9, 10)
_OTHER_NAME = (62, 64)

# What OpenSSL says of an answer that is no TLS.
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE")

# What a broker says of our certificate, or of there being none; Java says "bad certificate" of none.
_OUR_CERTIFICATE = (
    "CERTIFICATE_REQUIRED",
    "BAD_CERTIFICATE",
    "CERTIFICATE_UNKNOWN",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_REVOKED",
    "UNSUPPORTED_CERTIFICATE",
    "UNKNOWN_CA",
    "ACCESS_DENIED",
)


class Refused(KafkaError):  # type: ignore[misc]  # noqa: N818 - kafka-python has no types; it says what happened
    """A connection that was refused, in a form that kafka-python passes on. `ours` says why, and names the setting."""

    retriable = False

    def __init__(self, ours: TransportError) -> None:
        super().__init__(str(ours))
        self.ours = ours


@dataclass(frozen=True)
class Approach:
    """How we come to a broker.

    Attributes:
        protocol: `security_protocol`.
        mechanism: `sasl_mechanism`, None where we do not sign in.
        shows_certificate: Whether we have one of our own.
        credentials: The setting of what we sign in with.
    """

    protocol: str
    mechanism: str | None
    shows_certificate: bool
    credentials: str


def refusal(error: BaseException | None, broker: str, approach: Approach) -> Refused | None:
    """Return what a failed connection says that no retry mends; None where trying again can help.

    Args:
        error: Why the connection was not made.
        broker: The broker's address.
        approach: How we came to it.
    """
    if error is None or isinstance(error, Refused):
        return error
    handshake = _of_tls(error)
    ours = _of_handshake(handshake, broker, approach) if handshake is not None else _of_sign_in(error, broker, approach)
    return None if ours is None else Refused(ours)


def _of_tls(error: BaseException) -> ssl.SSLError | None:
    """The error of TLS beneath one of kafka-python's; with TLS 1.3 our certificate is refused after the handshake."""
    for beneath in (error, error.__cause__, *error.args):
        if isinstance(beneath, ssl.SSLError):
            return beneath
    return None


def _of_handshake(error: ssl.SSLError, broker: str, approach: Approach) -> TransportError | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _of_their_certificate(error, broker)
    reason = error.reason or ""
    if any(name in reason for name in _NO_TLS):
        return ConfigurationRefused(
            f"{broker} does not speak TLS, and security_protocol is {approach.protocol}: give the port of a TLS "
            f"listener, or correct security_protocol",
            setting="security_protocol",
        )
    if "ALERT" not in reason:
        return None
    if any(name in reason for name in _OUR_CERTIFICATE) or ("HANDSHAKE_FAILURE" in reason):
        if approach.shows_certificate:
            return Forbidden(
                f"{broker} does not accept our certificate ({reason}): is ssl_certfile signed by an authority that the "
                f"broker knows, valid now, and sent with its chain?",
                setting="ssl_certfile",
            )
        return Forbidden(
            f"{broker} wants a certificate of ours and we have none to show ({reason}): set ssl_certfile and "
            f"ssl_keyfile, or give the port of a listener that asks for none",
            setting="ssl_certfile",
        )
    if "PROTOCOL_VERSION" in reason:
        return ConfigurationRefused(
            f"{broker} offers no version of TLS that we speak ({reason}): 1.2 is the oldest; correct the broker's "
            f"ssl.enabled.protocols",
            setting="security_protocol",
        )
    return None


def _of_their_certificate(error: ssl.SSLCertVerificationError, broker: str) -> Forbidden:
    said = error.verify_message
    if error.verify_code in _OTHER_NAME:
        return Forbidden(
            f"{broker} shows a certificate for another name ({said}): name the brokers in bootstrap_servers, and in "
            f"their own advertised.listeners, as their certificates do",
            setting="bootstrap_servers",
        )
    if error.verify_code in _OUT_OF_TIME:
        return Forbidden(
            f"{broker} shows a certificate that is not valid now ({said}): have it, or its authority in ssl_cafile, "
            f"renewed; or set this machine's clock",
            setting="ssl_cafile",
        )
    return Forbidden(
        f"{broker} shows a certificate that ssl_cafile does not vouch for ({said}): give the authority that signed it, "
        f"or find out who answers there",
        setting="ssl_cafile",
    )


def _of_sign_in(error: BaseException, broker: str, approach: Approach) -> TransportError | None:
    setting = approach.credentials
    if isinstance(error, kafka_errors.SaslAuthenticationFailedError):
        who = "sasl_username or " if approach.mechanism != "OAUTHBEARER" else ""
        return Forbidden(
            f"{broker} does not let us in by {approach.mechanism} ({_said(error)}): correct {who}{setting}, or have "
            f"the broker accept it",
            setting=setting,
        )
    if isinstance(error, kafka_errors.UnsupportedSaslMechanismError):
        return ConfigurationRefused(
            f"{broker} does not offer sasl_mechanism {approach.mechanism} there: correct it, or give the port of a "
            f"listener that does",
            setting="sasl_mechanism",
        )
    if isinstance(error, kafka_errors.IllegalSaslStateError):
        return ConfigurationRefused(
            f"{broker} expects nobody to sign in on this port: correct security_protocol, which is {approach.protocol}",
            setting="security_protocol",
        )
    if isinstance(error, kafka_errors.InvalidReceiveError):
        return ConfigurationRefused(
            f"{broker} answers with something else than Kafka's protocol, and security_protocol is "
            f"{approach.protocol}: does this port want TLS?",
            setting="security_protocol",
        )
    if isinstance(error, ValueError) and approach.mechanism is not None and approach.mechanism.startswith("SCRAM"):
        # Its last word proves that the broker knows our password; there is no other ValueError on the way.
        return Forbidden(
            f"{broker} could not prove that it knows us, so it may not be our broker: correct bootstrap_servers or "
            f"{setting}",
            setting=setting,
        )
    return None


def _said(error: KafkaError) -> str:
    """What the broker said, without kafka-python's name for it."""
    return ": ".join(map(str, error.args)).removeprefix("SaslAuthenticationFailedError: ") or "it does not say why"
