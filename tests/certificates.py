"""Certificates of an authority of our own, written as PEM files: good ones, expired ones, and those of another name."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)


class Authority:
    """A private certificate authority with its files in one directory."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self._authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.file = directory / f"{name}.pem"
        self._authority.cert_pem.write_to_path(self.file)

    def server(self, name: str, *identities: str, expired: bool = False) -> Path:
        """Key and chain of a server in one file, the key as PKCS 8 (Kafka reads no other)."""
        certificate = self._issue(*(identities or ("localhost", "127.0.0.1")), expired=expired)
        file = self._directory / f"{name}.pem"
        file.write_bytes(_key(certificate, None) + _chain(certificate))
        return file

    def client(self, name: str, *, expired: bool = False, password: str | None = None) -> tuple[Path, Path]:
        """Certificate and key of a client; its principal is `CN=name`."""
        return self.write_client(self._directory, name, name, expired=expired, password=password)

    def write_client(
        self, directory: Path, file: str, name: str, *, expired: bool = False, password: str | None = None
    ) -> tuple[Path, Path]:
        """Write (or replace) certificate and key of a client as `file.crt` and `file.key`."""
        certificate = self._issue(f"{name}@example.org", expired=expired, common_name=name)
        paths = directory / f"{file}.crt", directory / f"{file}.key"
        for path, content in zip(paths, (_chain(certificate), _key(certificate, password)), strict=True):
            fresh = path.with_suffix(path.suffix + ".new")
            fresh.write_bytes(content)
            fresh.replace(path)
        return paths

    def _issue(self, *identities: str, expired: bool, common_name: str | None = None) -> trustme.LeafCert:
        ends = datetime.now(UTC) + timedelta(days=-1 if expired else 30)
        begins = ends - timedelta(days=60)
        return self._authority.issue_cert(
            *identities, common_name=common_name, not_before=begins, not_after=ends, key_type=trustme.KeyType.ECDSA
        )


def _chain(certificate: trustme.LeafCert) -> bytes:
    return b"".join(blob.bytes() for blob in certificate.cert_chain_pems)


def _key(certificate: trustme.LeafCert, password: str | None) -> bytes:
    key = load_pem_private_key(certificate.private_key_pem.bytes(), None)
    encryption = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
