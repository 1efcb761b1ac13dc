"""Signatures of artifacts: who holds the private key may publish; it knows bytes and keys, not what is signed.

Ed25519 over the exact bytes, the 64 bytes of a signature as they are, keys in PEM: `openssl pkeyutl -verify -rawin`
reads all of it.

Source: Josefsson and Liusvaara, "Edwards-Curve Digital Signature Algorithm (EdDSA)", RFC 8032, 2017.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from detector.errors import SigningKeyError
from detector.files import UnsafeFileError, read_plain

SIGNATURE_BYTES = 64
"""Bytes of a signature."""

_MOST_KEY_BYTES = 64 * 1024
_PUBLIC = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)


class PublicKeys:
    """The keys whose signatures count: one, or several while one is replaced by the next.

    Attributes:
        fingerprints: The first 16 digits of the sha256 of each key's 32 bytes, for people to compare.
    """

    def __init__(self, keys: Sequence[Ed25519PublicKey]) -> None:
        if not keys:
            raise SigningKeyError("no public key is given: nothing could be verified")
        self._keys = tuple(keys)
        self.fingerprints = tuple(_fingerprint(key) for key in keys)

    @classmethod
    def read(cls, paths: Iterable[Path]) -> PublicKeys:
        """The keys of PEM files, each with one or several.

        Raises:
            SigningKeyError: A file cannot be read, or holds something else than Ed25519 public keys.
        """
        keys: list[Ed25519PublicKey] = []
        for path in paths:
            content = _content(path)
            blocks = _PUBLIC.findall(content)
            if not blocks:
                hint = ": it is a private key, which belongs to the trainer alone" if b"PRIVATE KEY" in content else ""
                raise SigningKeyError(
                    f"{path} holds no public key in PEM{hint}; `offbeat models keygen` writes a pair, or `openssl pkey "
                    "-in KEY -pubout` the public one of a private one"
                )
            keys += [_public(path, block) for block in blocks]
        return cls(keys)

    def signer_of(self, content: bytes, signature: bytes) -> str | None:
        """Fingerprint of the key that signed these bytes, None where none of them did."""
        for key, fingerprint in zip(self._keys, self.fingerprints, strict=True):
            try:
                key.verify(signature, content)
            except InvalidSignature:
                continue
            return fingerprint
        return None


class PrivateKey:
    """The key that signs. It shows nothing of itself.

    Attributes:
        public: Its public key, alone.
    """

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKeys([key.public_key()])

    @classmethod
    def read(cls, path: Path, passphrase: str | None = None) -> PrivateKey:
        """The key of a PEM file (PKCS #8).

        Args:
            path: The file.
            passphrase: What it is encrypted with, None where it is not.

        Raises:
            SigningKeyError: It cannot be read, is no Ed25519 private key, or the passphrase does not open it.
        """
        content = _content(path)
        secret = None if passphrase is None else passphrase.encode()
        is_encrypted = b"ENCRYPTED" in content
        if is_encrypted and secret is None:
            raise SigningKeyError(f"{path} is encrypted, and no passphrase is given")
        try:
            key = load_pem_private_key(content, secret if is_encrypted else None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            # Not what the library says of it: no word of a key or a passphrase belongs into a log.
            wrong = "the passphrase does not open it" if is_encrypted else "it is no private key in PEM"
            raise SigningKeyError(f"{path} cannot be used: {wrong}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise SigningKeyError(f"{path} is not an Ed25519 key: `offbeat models keygen` writes one")
        return cls(key)

    def __repr__(self) -> str:
        return f"<PrivateKey {self.public.fingerprints[0]}>"

    def sign(self, content: bytes) -> bytes:
        """The signature of some bytes, `SIGNATURE_BYTES` long; the same bytes give the same one."""
        return self._key.sign(content)


def write_key_pair(path: Path, passphrase: str | None = None) -> Path:
    """Make a new key: the private one in `path`, readable by its owner alone, the public one in `path`.pub.

    Args:
        path: A file that does not exist yet.
        passphrase: What the private one is encrypted with, None for not at all.

    Returns:
        Where the public one is.

    Raises:
        FileExistsError: One of the files exists; a key is never overwritten.
    """
    public = path.with_name(f"{path.name}.pub")
    key = Ed25519PrivateKey.generate()
    encryption = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase.encode())
    _write_new(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption), 0o600)
    _write_new(public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644)
    return public


def _write_new(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _content(path: Path) -> bytes:
    """The content of a key's file; where secrets are mounted, the file is a link."""
    try:
        return read_plain(path.resolve(), _MOST_KEY_BYTES)
    except (OSError, UnsafeFileError) as error:
        raise SigningKeyError(f"{path} cannot be read as a key: {error}") from error


def _public(path: Path, block: bytes) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(block)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SigningKeyError(f"{path} holds a public key that cannot be read: write it again") from error
    if not isinstance(key, Ed25519PublicKey):
        raise SigningKeyError(
            f"{path} holds a public key that is not an Ed25519 key: `offbeat models keygen` writes one"
        )
    return key


def _fingerprint(key: Ed25519PublicKey) -> str:
    return hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]
