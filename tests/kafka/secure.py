"""A broker that lets in only who shows a certificate, a password or a token, and lets them do only what they may."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any, Self

from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ResourcePattern,
    ResourceType,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from tests.certificates import Authority
from tests.kafka.broker import KafkaBroker
from transport import KafkaSettings

USER, PASSWORD = "worker", "pass-4-worker"

LISTENERS = {
    "TLS": "SSL",
    "MUTUAL": "SSL",
    "EXPIRED": "SSL",
    "RENAMED": "SSL",
    "SIGNIN": "SASL_SSL",
    "BARE": "SASL_PLAINTEXT",
    "BRIEF": "SASL_SSL",
}
"""What each shows: a certificate; one, and asks for one; an expired one; one of another name; one, and asks to sign in;
none, and asks to sign in; one, and asks to sign in again every `SESSION_S`."""

SESSION_S = 1.5

_MODULES = "org.apache.kafka.common.security"


class SecureBroker:
    """One broker with a listener for each way of coming in, and access rights.

    Who comes in by the plain listener may do everything: tests prepare through it.
    """

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory)
        self.stranger = Authority(directory / "stranger")
        self.clients = directory / "clients.pem"  # whose certificates the mutual listener takes
        self.trust(self.authority)
        self.plain = KafkaBroker(properties=self._properties(), listeners=LISTENERS, scram={USER: PASSWORD})

    def _properties(self) -> dict[str, str]:
        stores = {
            "tls": self.authority.server("tls"),
            "mutual": self.authority.server("mutual"),
            "expired": self.authority.server("expired", expired=True),
            "renamed": self.authority.server("renamed", "elsewhere.example"),
            "signin": self.authority.server("signin"),
            "brief": self.authority.server("brief"),
        }
        properties = {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "allow.everyone.if.no.acl.found": "true",
            "listener.name.mutual.ssl.client.auth": "required",
        }
        for name, file in stores.items():
            prefix = f"listener.name.{name}.ssl"
            properties |= {
                f"{prefix}.keystore.type": "PEM",
                f"{prefix}.keystore.location": str(file),
                f"{prefix}.truststore.type": "PEM",
                f"{prefix}.truststore.location": str(self.clients),
            }
        jaas = {
            "plain": f'{_MODULES}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";',
            "scram-sha-256": f"{_MODULES}.scram.ScramLoginModule required;",
            "scram-sha-512": f"{_MODULES}.scram.ScramLoginModule required;",
            "oauthbearer": f'{_MODULES}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="b";',
        }
        for name in ("signin", "bare", "brief"):
            offered = ["plain", "scram-sha-512"] if name == "bare" else list(jaas)
            properties[f"listener.name.{name}.sasl.enabled.mechanisms"] = ",".join(map(str.upper, offered))
            properties |= {f"listener.name.{name}.{each}.sasl.jaas.config": jaas[each] for each in offered}
        for each in jaas:
            properties[f"listener.name.brief.{each}.connections.max.reauth.ms"] = f"{SESSION_S * 1000:.0f}"
        return properties

    def settings(self, listener: str, **settings: Any) -> KafkaSettings:
        """How to come in by a listener."""
        return KafkaSettings.model_validate(self.told(listener) | settings)

    def told(self, listener: str) -> dict[str, Any]:
        """The settings that this takes beside those of who we are."""
        protocol = LISTENERS[listener]
        told: dict[str, Any] = {
            "bootstrap_servers": self.plain.address_of(listener),
            "security_protocol": protocol,
            "connect_timeout_s": 5.0,
            "request_timeout_s": 10.0,
            "metadata_max_age_s": 2.0,
            "reconnect_backoff_max_s": 0.2,
        }
        return told | ({"ssl_cafile": str(self.authority.file)} if protocol.endswith("SSL") else {})

    def trust(self, authority: Authority) -> None:
        """Take certificates of clients from this authority alone, from the next start on."""
        self.clients.write_bytes(authority.file.read_bytes())

    def change_password(self, password: str, user: str = USER) -> None:
        """Let the user sign in with another password from now on, by SCRAM."""
        admin = KafkaAdminClient(bootstrap_servers=self.plain.bootstrap_servers)
        try:
            admin.alter_user_scram_credentials(
                [UserScramCredentialUpsertion(user, ScramMechanism.SCRAM_SHA_512, password)]
            )
        finally:
            admin.close()

    def forbid(self, user: str, kind: ResourceType, name: str, *operations: ACLOperation) -> None:
        """Take rights away from a user (or `User:CN=...` of a certificate), and leave everything to everybody else."""
        pattern = ResourcePattern(kind, name)
        denied = [ACL(f"User:{user}", "*", each, ACLPermissionType.DENY, pattern) for each in operations]
        allowed = ACL("User:*", "*", ACLOperation.ALL, ACLPermissionType.ALLOW, pattern)
        admin = KafkaAdminClient(bootstrap_servers=self.plain.bootstrap_servers)
        try:
            admin.create_acls([*denied, allowed])
        finally:
            admin.close()

    def __enter__(self) -> Self:
        self.plain.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.plain.close()


def token(subject: str = USER, *, life_s: float = 3600.0, **claims: Any) -> str:
    """A token without a signature, as Kafka's validator for tests takes it."""
    now_s = time.time()
    body = {"sub": subject, "iat": now_s - 1, "exp": now_s + life_s} | claims
    return f"{_part({'alg': 'none'})}.{_part(body)}."


def _part(content: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()
