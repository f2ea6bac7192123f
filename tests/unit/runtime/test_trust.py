"""Signatures and key files, and the checks that run in a process of their own."""

import contextlib
import stat
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.runtime.assignment import AssignedPackage, AssignmentDocument, next_assignment, read_assignment
from edgeinfer.runtime.errors import GateError, RefusedError, SignatureError, UsageError
from edgeinfer.runtime.manifest import Signature
from edgeinfer.runtime.store import Store
from edgeinfer.runtime.trust import SigningKey, key_id, open_envelope, parse_public_key, seal, verify
from edgeinfer.runtime.verify import AssignmentRequest, GateAnswer, GateRequest, PackageRequest, ask
from packages import linear_model, make_package

KEY, OTHER = SigningKey(b"k" * 32), SigningKey(b"o" * 32)
# RFC 8032, section 7.1, test 2: secret key, public key, message, signature.
RFC = (
    "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
    "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
    "72",
    (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    ),
)


def test_signatures_are_those_of_the_standard() -> None:
    secret, public, message, signature = (bytes.fromhex(part) for part in RFC)
    key = SigningKey(secret)
    assert key.public == public
    assert key.sign(message).sig == signature.hex()
    assert verify(message, [Signature(key_id(public), signature.hex())], [public]) == key_id(public)


class TestKeys:
    def test_a_key_file_is_made_once_and_is_secret(self, tmp_path: Path) -> None:
        path = tmp_path / "keys" / "release.key"
        made = SigningKey.load_or_create(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert SigningKey.load_or_create(path).public == made.public
        assert parse_public_key(str(path.with_suffix(".pub"))) == made.public
        assert parse_public_key(made.public.hex()) == made.public
        with pytest.raises(FileExistsError):
            made.save(path)

    def test_the_secret_is_not_shown(self) -> None:
        assert (b"k" * 32).hex() not in repr(KEY)
        assert key_id(KEY.public)[:12] in repr(KEY)

    @pytest.mark.parametrize("content", ["", "zz", "00" * 31, "00" * 33, "\xe9"])
    def test_a_file_that_is_no_key_is_refused(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "x.key").write_text(content)
        with pytest.raises(UsageError, match="expected a private key") as caught:
            SigningKey.load(tmp_path / "x.key")
        assert "package keygen" in caught.value.hint

    def test_one_key_of_the_pair_is_not_taken_for_the_other(self, tmp_path: Path) -> None:
        KEY.save(tmp_path / "a.key")
        with pytest.raises(UsageError, match=r"a\.pub: expected a private key, found the name of a public one"):
            SigningKey.load(tmp_path / "a.pub")
        with pytest.raises(UsageError, match=r"a\.key: expected a public key, found the name of a private one"):
            parse_public_key(str(tmp_path / "a.key"))

    def test_what_a_file_holds_is_not_shown(self, tmp_path: Path) -> None:
        (tmp_path / "x.key").write_text("-----BEGIN PRIVATE KEY-----\nsecret\n")
        with pytest.raises(UsageError, match="in hex, found a PEM file") as caught:
            SigningKey.load(tmp_path / "x.key")
        assert "secret" not in str(caught.value)

    @given(st.text(max_size=80))
    def test_any_text_is_a_key_or_refused(self, text: str) -> None:
        with contextlib.suppress(UsageError):
            assert len(parse_public_key(text)) == 32

    @pytest.mark.parametrize("text", ["/nowhere/release.pub", "0" * 63, "g" * 64, "x" * 5000, "a\0b"])
    def test_what_is_no_public_key_is_refused(self, text: str) -> None:
        with pytest.raises(UsageError):
            parse_public_key(text)


class TestEnvelopes:
    def test_what_was_sealed_comes_out(self) -> None:
        assert open_envelope(seal(b"payload", KEY), [OTHER.public, KEY.public]) == b"payload"

    def test_another_key_is_refused(self) -> None:
        with pytest.raises(SignatureError, match="none of the 1 trusted"):
            open_envelope(seal(b"payload", KEY), [OTHER.public])

    def test_every_changed_byte_is_refused(self) -> None:
        sealed = seal(b'{"version":1}', KEY)
        for position in range(len(sealed)):
            changed = bytearray(sealed)
            changed[position] ^= 1
            try:
                payload = open_envelope(bytes(changed), [KEY.public])
            except SignatureError:
                continue
            assert payload == b'{"version":1}', "an unknown key, or another spelling of the same"

    @pytest.mark.parametrize(
        "raw", [b"", b"{}", b"null", b"[" * 100_000, b'{"x":' * 100_000, b'{"payload":"YQ==","signatures":[]}']
    )
    def test_what_is_no_envelope_is_refused(self, raw: bytes) -> None:
        with pytest.raises(SignatureError):
            open_envelope(raw, [KEY.public])

    @given(st.binary(max_size=100), st.text(max_size=70), st.text(max_size=130))
    def test_any_signature_is_refused(self, payload: bytes, keyid: str, sig: str) -> None:
        for named in (keyid, key_id(KEY.public)):
            with pytest.raises(SignatureError):
                verify(payload, [Signature(named, sig)], [KEY.public])


def assignment(version: int = 3, device: str = "dev-1", **changes: object) -> AssignmentDocument:
    one = AssignedPackage("job", "m", "1.0.0", "0" * 64, "1" * 64, 10)
    return AssignmentDocument(version, device, (msgspec.structs.replace(one, **changes),))


class TestAssignments:
    def test_one_that_is_right(self) -> None:
        document = assignment()
        assert read_assignment(msgspec.json.encode(document), device="dev-1", at_least=3) == document

    @pytest.mark.parametrize(
        ("document", "part"),
        [
            (assignment(device="dev-2"), "found one for 'dev-2'"),
            (assignment(version=2), "version 3 or newer"),
            (assignment(version=-1), "cannot be read"),
            (assignment(digest="../" + "0" * 61), "cannot be read"),
            (assignment(blob_sha256="0" * 64 + "\n"), "cannot be read"),
            (assignment(blob_bytes=1 << 60), "cannot be read"),
            (assignment(job="x" * 600), "cannot be read"),
        ],
    )
    def test_one_that_is_not(self, document: AssignmentDocument, part: str) -> None:
        with pytest.raises(RefusedError, match=part):
            read_assignment(msgspec.json.encode(document), device="dev-1", at_least=3)

    @given(st.binary(max_size=200))
    def test_any_bytes_are_refused(self, raw: bytes) -> None:
        with pytest.raises(RefusedError):
            read_assignment(raw, device="dev-1")

    def test_deep_json_is_refused(self) -> None:
        with pytest.raises(RefusedError):
            read_assignment(b'{"x":' + b"[" * 100_000, device="dev-1")

    def test_the_first_job_that_is_not_done(self) -> None:
        first, second = (AssignedPackage(job, "m", "1.0.0", "0" * 64, "1" * 64, 1) for job in ("a", "b"))
        document = AssignmentDocument(1, "dev-1", (first, second))
        assert next_assignment(document, {}) == first
        assert next_assignment(document, {"a": "FAILED"}) == second
        assert next_assignment(document, {"a": "FAILED", "b": "COMMITTED"}) is None


class TestProcess:
    """The checks as the daemon asks for them."""

    def test_an_assignment(self) -> None:
        request = AssignmentRequest(seal(b"payload", KEY), (KEY.public.hex(),))
        assert ask(request) == b"payload"
        with pytest.raises(RefusedError, match="none of the 1 trusted keys"):
            ask(msgspec.structs.replace(request, keys=(OTHER.public.hex(),)))
        with pytest.raises(RefusedError, match="expected a public key"):
            ask(msgspec.structs.replace(request, keys=("/nowhere.pub",)))

    def test_a_package(self, tmp_path: Path) -> None:
        model = linear_model(tmp_path / "m.onnx")
        digest = make_package(tmp_path / "m.edgepkg", model, name="m", key=KEY)
        request = PackageRequest(str(tmp_path / "m.edgepkg"), digest, (KEY.public.hex(),))
        assert ask(request) == b"{}"
        with pytest.raises(RefusedError, match="expected the assigned package"):
            ask(msgspec.structs.replace(request, digest="0" * 64))
        (tmp_path / "m.edgepkg").write_bytes(b"nothing")
        with pytest.raises(RefusedError, match="expected an edgeinfer package"):
            ask(request)

    @pytest.mark.parametrize("engine", ["same", "moved"])
    def test_a_gate(self, tmp_path: Path, engine: str) -> None:
        model = linear_model(tmp_path / "m.onnx")
        offset = 0.0 if engine == "same" else 0.01
        make_package(tmp_path / "m.edgepkg", model, name="m", golden=3, golden_offset=offset)
        installed = Store(tmp_path).install(tmp_path / "m.edgepkg")
        request = GateRequest(str(tmp_path), installed.digest, "", 1)
        if engine == "same":
            answer = msgspec.json.decode(ask(request), type=GateAnswer)
            assert answer.variant == "onnx-fp32"
            assert answer.max_abs < 1e-6
            assert answer.latency_us > 0
        else:
            with pytest.raises(RefusedError, match=r"golden outputs differ by at most 0\.01"):
                ask(request)

    def test_a_check_that_takes_too_long_or_dies_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        request = AssignmentRequest(seal(b"payload", KEY), (KEY.public.hex(),))
        with pytest.raises(GateError, match="took longer"):
            ask(request, timeout_s=0.001)
        program = tmp_path / "dies"
        program.write_text("#!/bin/sh\nkill -9 $$\n")
        program.chmod(0o755)
        monkeypatch.setattr("sys.executable", str(program))
        with pytest.raises(GateError, match="ended with status -9"):
            ask(request)
