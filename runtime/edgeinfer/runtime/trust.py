"""Signatures: Ed25519 (RFC 8032) over exact bytes. The seam where a full TUF client takes over later.

A key file holds a raw 32-byte key in hex: `*.key` the private seed (mode 0600), `*.pub` the public key.
A key id is the sha256 of the raw public key, in hex.
"""

import os
import string
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.errors import SignatureError, UsageError
from edgeinfer.runtime.hashing import sha256
from edgeinfer.runtime.manifest import Signature

__all__ = ["Envelope", "SigningKey", "key_id", "open_envelope", "parse_public_key", "seal", "verify"]

_KEY_BYTES = 32
# Of a key file; a model that was named by mistake is not read as a whole.
_MAX_FILE_BYTES = 4096
_HINTS = {
    "private": "edgeinfer package keygen FILE.key makes one: name that file",
    "public": "name the .pub file that lies beside the private key, or give what it holds",
}


class Envelope(msgspec.Struct, frozen=True):
    """Signed bytes: `payload` is exactly what was signed."""

    payload: bytes
    signatures: list[Signature]


class SigningKey:
    """A private Ed25519 key. Its `repr` never shows the secret. Raises UsageError for what is none."""

    def __init__(self, seed: bytes) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        if len(seed) != _KEY_BYTES:
            raise UsageError(f"expected a private key of {_KEY_BYTES} bytes, found {len(seed)}")
        self._seed = seed
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._key.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"SigningKey(id={key_id(self.public)[:12]})"

    @classmethod
    def generate(cls) -> "SigningKey":
        return cls(os.urandom(_KEY_BYTES))

    @classmethod
    def load(cls, path: Path) -> "SigningKey":
        """Raises UsageError where there is no key in `path`, or the public one."""
        if path.suffix == ".pub":
            raise UsageError(f"{path}: expected a private key, found the name of a public one", hint=_HINTS["private"])
        return cls(_read_hex(path, "private"))

    @classmethod
    def load_or_create(cls, path: Path) -> "SigningKey":
        """Load the key at `path`, or make one there, with its `.pub` beside it."""
        if path.exists():
            return cls.load(path)
        key = cls.generate()
        key.save(path)
        return key

    def save(self, path: Path) -> None:
        """Write the private key (0600) to `path` and the public key to `path` with `.pub`. Never overwrites."""
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(self._seed.hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        path.with_suffix(".pub").write_text(self.public.hex() + "\n")

    def sign(self, data: bytes) -> Signature:
        return Signature(keyid=key_id(self.public), sig=self._key.sign(data).hex())


def key_id(public: bytes) -> str:
    return sha256(public).hexdigest()


def parse_public_key(text: str) -> bytes:
    """A public key in hex, or the path of a `.pub` file that holds one. Raises UsageError for what is none."""
    candidate = text.strip()
    # A path may have 64 characters, too.
    if len(candidate) != 2 * _KEY_BYTES or candidate.endswith(".pub"):
        if candidate.endswith(".key"):
            raise UsageError(
                f"{candidate}: expected a public key, found the name of a private one", hint=_HINTS["public"]
            )
        return _read_hex(Path(candidate), "public")
    if not all(character in string.hexdigits for character in candidate):  # fromhex would pass over spaces
        raise UsageError(
            f"expected a public key of {2 * _KEY_BYTES} hex digits, found something else", hint=_HINTS["public"]
        )
    return bytes.fromhex(candidate)


def verify(data: bytes, signatures: Iterable[Signature], trusted: Sequence[bytes]) -> str:
    """Return the id of the trusted key that signed `data`. Raises SignatureError: unsigned, unknown, wrong."""
    by_id = {key_id(public): public for public in trusted}
    found = list(signatures)
    if not found:
        raise SignatureError("expected a signature, found none", hint="sign it: edgeinfer package sign")
    known = [signature for signature in found if signature.keyid in by_id]
    if not known:
        raise SignatureError(
            f"signed by {found[0].keyid[:12]}, which is none of the {len(by_id)} trusted keys",
            hint="add the signer's public key to [trust], or sign with a trusted key",
        )
    for signature in known:
        if _is_valid(data, signature, by_id[signature.keyid]):
            return signature.keyid
    raise SignatureError(f"the signature by {known[0].keyid[:12]} does not fit the content")


def _is_valid(data: bytes, signature: Signature, public: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(bytes.fromhex(signature.sig), data)
    except (InvalidSignature, ValueError):
        return False
    return True


def seal(payload: bytes, key: SigningKey) -> bytes:
    """Sign `payload` and wrap it for the wire (JSON, payload in base64)."""
    return msgspec.json.encode(Envelope(payload, [key.sign(payload)]))


def open_envelope(raw: bytes, trusted: Sequence[bytes]) -> bytes:
    """The payload of a sealed message, once a trusted key's signature on it has been checked.

    Raises SignatureError for anything else.
    """
    try:
        envelope = msgspec.json.decode(raw, type=Envelope)
    except MALFORMED as error:
        raise SignatureError(f"expected a signed envelope, found something else: {error}") from error
    verify(envelope.payload, envelope.signatures, trusted)
    return envelope.payload


def _read_hex(path: Path, what: str) -> bytes:
    """What is found is never shown: it may be a secret of another kind. Raises UsageError."""
    try:
        with path.open("rb") as file:
            found = file.read(_MAX_FILE_BYTES).strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{path}: expected a {what} key in hex: {reason}", hint=_HINTS[what]) from error
    try:
        raw = bytes.fromhex(found.decode("ascii"))
    except ValueError:
        kind = "a PEM file" if found.startswith(b"-----BEGIN ") else "something else"
        raise UsageError(f"{path}: expected a {what} key in hex, found {kind}", hint=_HINTS[what]) from None
    if len(raw) != _KEY_BYTES:
        raise UsageError(f"{path}: expected a {what} key of {_KEY_BYTES} bytes, found {len(raw)}", hint=_HINTS[what])
    return raw
