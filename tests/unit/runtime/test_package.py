"""Packages: what is damaged, forged or absurd is refused with one error, and a package is written whole or not."""

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.runtime.errors import PackageError, SignatureError
from edgeinfer.runtime.manifest import AnomalyPost, ClassifyPost, ImagePre, TensorPre, WindowPre
from edgeinfer.runtime.package import MANIFEST, SIGNATURES, PackageFile, parse_manifest, write_package
from edgeinfer.runtime.store import Store
from edgeinfer.runtime.trust import SigningKey, verify
from packages import linear_model, make_package


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    model = linear_model(folder / "m.onnx")
    make_package(folder / "m.edgepkg", model, name="m", labels=["a", "b", "c"], golden=2, key=SigningKey(bytes(32)))
    return folder / "m.edgepkg"


def check(path: Path) -> None:
    """All that a device does with a package before it trusts it."""
    with PackageFile(path) as opened:
        opened.verify_files()
        opened.labels()


def test_a_good_package_says_what_it_is(package: Path, tmp_path: Path) -> None:
    with PackageFile(package) as opened:
        opened.verify_files()
        assert opened.manifest.name == "m"
        assert opened.labels() == ("a", "b", "c")
        assert opened.digest == hashlib.sha256(opened.manifest_bytes).hexdigest()
        assert set(opened.files()) == {"m.onnx", "labels.txt", "golden.npz"}
        opened.extract_to(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {MANIFEST, "m.onnx", "labels.txt", "golden.npz"}
    with zipfile.ZipFile(package) as archive:  # an independent reader
        assert archive.testzip() is None


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.edgepkg", tmp_path):
        with pytest.raises(PackageError):
            PackageFile(path)


def test_every_truncation_is_refused(package: Path, tmp_path: Path) -> None:
    content = package.read_bytes()
    target = tmp_path / "cut.edgepkg"
    for length in [*range(0, len(content) - 60, 97), *range(len(content) - 60, len(content))]:
        target.write_bytes(content[:length])
        with pytest.raises(PackageError):
            check(target)


def test_a_changed_byte_changes_nothing_that_counts_or_is_refused(package: Path, tmp_path: Path) -> None:
    """ZIP has bytes that say nothing (times, versions): the content and the digest must be the same then."""
    content = package.read_bytes()
    with PackageFile(package) as opened:
        digest = opened.digest
    target = tmp_path / "changed.edgepkg"
    refused = 0
    for position in range(0, len(content), 7):
        changed = bytearray(content)
        changed[position] ^= 0x20 | (position % 31 + 1)
        target.write_bytes(changed)
        try:
            with PackageFile(target) as opened:
                opened.verify_files()
                same = opened.digest == digest
        except PackageError:
            refused += 1
            continue
        # A manifest that was changed is another package: its signature must not fit.
        if not same:
            with PackageFile(target) as opened, pytest.raises(SignatureError):
                verify(opened.manifest_bytes, opened.signatures, [SigningKey(bytes(32)).public])
    assert refused > len(content) // 7 * 0.8


@settings(max_examples=200, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=4), data=st.binary()
)
def test_any_damage_raises_the_one_error(
    package: Path, tmp_path: Path, changes: list[tuple[int, int]], data: bytes
) -> None:
    content = bytearray(package.read_bytes())
    directory = content.rindex(b"PK\x01\x02") - 200  # most damage where the structure is
    for position, value in changes:
        content[directory + position % (len(content) - directory)] = value
    for damaged in (bytes(content), data, b"PK\x05\x06" + data):
        (tmp_path / "x.edgepkg").write_bytes(damaged)
        with contextlib.suppress(PackageError):
            check(tmp_path / "x.edgepkg")


def rewrite(package: Path, target: Path, edit: Callable[[dict[str, bytes]], None], **options: int) -> Path:
    """A copy of `package` with its files edited."""
    with zipfile.ZipFile(package) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    edit(files)
    with zipfile.ZipFile(target, "w", options.get("compression", zipfile.ZIP_STORED)) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return target


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "a/b", "..\\evil", ".hidden", "..", "C:\\evil", "m.onnx/../../x", "folder/"]
)
def test_names_that_leave_the_package_are_refused(package: Path, tmp_path: Path, name: str) -> None:
    bad = rewrite(package, tmp_path / "p.edgepkg", lambda files: files.update({name: b"x"}))
    with pytest.raises(PackageError, match="plain file names"):
        PackageFile(bad)
    with pytest.raises(PackageError):
        Store(tmp_path / "state").install(bad)
    assert not list((tmp_path / "state" / "models" / "packages").iterdir())


def test_compressed_entries_are_refused(package: Path, tmp_path: Path) -> None:
    bad = rewrite(package, tmp_path / "p.edgepkg", lambda _: None, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(PackageError, match="compressed"):
        PackageFile(bad)


def test_a_file_held_twice_is_refused(package: Path, tmp_path: Path) -> None:
    target = rewrite(package, tmp_path / "p.edgepkg", lambda _: None)
    with zipfile.ZipFile(target, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("m.onnx", b"other")
    with pytest.raises(PackageError, match="twice"):
        PackageFile(target)


def test_a_file_too_many_or_missing_is_refused(package: Path, tmp_path: Path) -> None:
    extra = rewrite(package, tmp_path / "extra.edgepkg", lambda files: files.update({"extra.bin": b"x"}))
    with pytest.raises(PackageError, match=r"holds extra\.bin"):
        check(extra)
    missing = rewrite(package, tmp_path / "missing.edgepkg", lambda files: files.__delitem__("golden.npz"))
    with pytest.raises(PackageError, match=r"golden\.npz is missing"):
        check(missing)
    empty = rewrite(package, tmp_path / "empty.edgepkg", lambda files: files.clear())
    with pytest.raises(PackageError, match=r"no manifest\.json"):
        check(empty)
    many = rewrite(package, tmp_path / "many.edgepkg", lambda files: files.update({f"f{i}": b"" for i in range(70)}))
    with pytest.raises(PackageError, match="at most 64 files"):
        check(many)


def test_a_claim_of_an_absurd_size_is_refused(package: Path, tmp_path: Path) -> None:
    content = bytearray(package.read_bytes())
    entry = content.rindex(MANIFEST.encode()) - 46  # its record in the central directory
    content[entry + 20 : entry + 28] = b"\xf0\xff\xff\xff" * 2  # compressed and plain size
    (tmp_path / "p.edgepkg").write_bytes(content)
    with pytest.raises(PackageError, match="at most"):
        PackageFile(tmp_path / "p.edgepkg")


def test_a_large_manifest_is_refused(package: Path, tmp_path: Path) -> None:
    bad = rewrite(package, tmp_path / "p.edgepkg", lambda files: files.update({MANIFEST: b" " * (5 << 20)}))
    with pytest.raises(PackageError, match="larger than"):
        PackageFile(bad)


def edit_manifest(package: Path, change: Callable[[dict[str, Any]], None]) -> bytes:
    with PackageFile(package) as opened:
        document = json.loads(opened.manifest_bytes)
    change(document)
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda m: m.update(schema_version=2), "schema version 1, found 2"),
        (lambda m: m.update(schema_version="1"), "schema version"),
        (lambda m: m.pop("schema_version"), "schema version"),
        (lambda m: m.update(name="../x"), "name"),
        (lambda m: m.update(name="m\n"), "name"),
        (lambda m: m.update(version="1.0"), "version"),
        (lambda m: m.update(version="1.0.0\n"), "version"),
        (lambda m: m.update(task="dance"), "task"),
        (lambda m: m.update(variants=[]), "no variant"),
        (lambda m: m["variants"].append(m["variants"][0]), "twice"),
        (lambda m: m["variants"][0].update(file="../../etc/passwd"), "file"),
        (lambda m: m["variants"][0].update(file=".hidden"), "file"),
        (lambda m: m["variants"][0].update(sha256="00"), "sha256"),
        (lambda m: m["variants"][0].update(engine="cuda"), "engine"),
        (lambda m: m["variants"][0].update(bytes=-1), "bytes"),
        (lambda m: m["golden"].update(tolerance={}), "tolerance"),
        (lambda m: m["preprocess"].update(kind="image"), "width"),
        (lambda m: m["preprocess"].update(kind="image", width=0, height=1), "width"),
        (lambda m: m["preprocess"].update(kind="image", width=1 << 30, height=1), "width"),
        (lambda m: m["preprocess"].update(kind="image", width=1, height=1, std=[0.0]), "std"),
        (lambda m: m["preprocess"].update(kind="image", width=1, height=1, mean=[]), "mean"),
        (lambda m: m["preprocess"].update(kind="image", width=1, height=1, crop=1.5), "crop"),
        (lambda m: m["preprocess"].update(kind="window", length=0), "length"),
        (lambda m: m["postprocess"].update(top_k=0), "top_k"),
        (lambda m: m["postprocess"].update(output=-1), "output"),
        (lambda m: m.update(postprocess={"kind": "detection", "max_boxes": 0}), "max_boxes"),
        (lambda m: m.update(postprocess={"kind": "detection", "format": "other"}), "format"),
        (lambda m: m.update(postprocess={"kind": "anomaly"}), "threshold"),
        (lambda m: m.pop("postprocess"), "postprocess"),
    ],
)
def test_a_manifest_that_is_wrong_is_refused(
    package: Path, change: Callable[[dict[str, Any]], None], part: str
) -> None:
    with pytest.raises(PackageError, match=part):
        parse_manifest(edit_manifest(package, change))


def test_a_newer_minor_version_is_read(package: Path) -> None:
    manifest = parse_manifest(edit_manifest(package, lambda m: m.update(new_field={"x": 1})))
    assert manifest.name == "m"


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"3", b"null", b"\xff\xfe", b"[" * 200_000, b'{"a":' * 200_000])
def test_what_is_no_manifest_is_refused(raw: bytes) -> None:
    with pytest.raises(PackageError):
        parse_manifest(raw)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_json_is_no_manifest(document: object) -> None:
    with pytest.raises(PackageError):
        parse_manifest(json.dumps(document).encode())


class TestWriting:
    def test_a_failure_leaves_nothing(self, package: Path, tmp_path: Path) -> None:
        with PackageFile(package) as opened:
            manifest = opened.manifest_bytes
        target = tmp_path / "out.edgepkg"
        with pytest.raises(FileNotFoundError):
            write_package(target, manifest, {"m.onnx": tmp_path / "none.onnx"})
        assert list(tmp_path.iterdir()) == []
        target.write_bytes(b"the old one")
        with pytest.raises(FileNotFoundError):
            write_package(target, manifest, {"m.onnx": tmp_path / "none.onnx"})
        assert target.read_bytes() == b"the old one"
        assert os.listdir(tmp_path) == ["out.edgepkg"]  # noqa: PTH208 - hidden files too

    def test_a_wrong_manifest_is_not_written(self, tmp_path: Path) -> None:
        with pytest.raises(PackageError):
            write_package(tmp_path / "out.edgepkg", b"{}", {})
        assert list(tmp_path.iterdir()) == []

    def test_the_same_content_gives_the_same_bytes(self, tmp_path: Path) -> None:
        model = linear_model(tmp_path / "m.onnx")
        for name in ("a", "b"):
            make_package(tmp_path / name, model, name="m")
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    def test_signing_changes_no_digest(self, tmp_path: Path) -> None:
        model = linear_model(tmp_path / "m.onnx")
        key = SigningKey.generate()
        plain = make_package(tmp_path / "plain", model, name="m")
        assert make_package(tmp_path / "signed", model, name="m", key=key) == plain
        with PackageFile(tmp_path / "plain") as opened, pytest.raises(SignatureError, match="found none"):
            verify(opened.manifest_bytes, opened.signatures, [key.public])
        with PackageFile(tmp_path / "signed") as opened:
            assert opened.digest == plain
            assert verify(opened.manifest_bytes, opened.signatures, [key.public])
            with pytest.raises(SignatureError, match="none of the 1 trusted"):
                verify(opened.manifest_bytes, opened.signatures, [SigningKey.generate().public])
            with pytest.raises(SignatureError, match="none of the 0 trusted"):
                verify(opened.manifest_bytes, opened.signatures, [])
            with pytest.raises(SignatureError, match="does not fit"):
                verify(opened.manifest_bytes + b" ", opened.signatures, [key.public])

    @pytest.mark.parametrize("raw", [b"", b"{}", b"[1]", b'[{"keyid":"a"}]', b"[" * 60_000, b" " * (1 << 17)])
    def test_signatures_that_cannot_be_read_are_refused(self, package: Path, tmp_path: Path, raw: bytes) -> None:
        bad = rewrite(package, tmp_path / "p.edgepkg", lambda files: files.update({SIGNATURES: raw}))
        with pytest.raises(PackageError):
            PackageFile(bad)


class TestStore:
    def test_a_bad_package_leaves_nothing(self, package: Path, tmp_path: Path) -> None:
        bad = rewrite(package, tmp_path / "p.edgepkg", lambda files: files.update({"m.onnx": b"other"}))
        store = Store(tmp_path / "state")
        with pytest.raises(PackageError, match=r"m\.onnx was changed"):
            store.install(bad)
        assert not any((tmp_path / "state" / "models" / "packages").iterdir())

    @pytest.mark.parametrize("name", ["m.onnx", "labels.txt", "golden.npz", MANIFEST])
    @pytest.mark.parametrize("damage", ["change", "remove"])
    def test_damage_on_disk_is_found_and_mended_by_installing_again(
        self, package: Path, tmp_path: Path, name: str, damage: str
    ) -> None:
        store = Store(tmp_path)
        installed = store.install(package)
        assert store.open(installed.digest) == installed
        victim = installed.folder / name
        if damage == "change":
            content = bytearray(victim.read_bytes())
            content[len(content) // 2] ^= 1
            victim.write_bytes(content)
        else:
            victim.unlink()
        with pytest.raises(PackageError):
            store.open(installed.digest)
        assert not store.holds(installed.digest)
        assert store.install(package) == installed
        assert store.holds(installed.digest)

    def test_prune_keeps_what_is_named(self, package: Path, tmp_path: Path) -> None:
        store = Store(tmp_path)
        digest = store.install(package).digest
        store.prune({digest})
        assert store.holds(digest)
        store.prune(set())
        with pytest.raises(PackageError, match="is not installed"):
            store.open(digest)


def test_the_declarations_of_a_manifest_round_trip(tmp_path: Path) -> None:
    model = linear_model(tmp_path / "m.onnx")
    for pre in (TensorPre(), WindowPre(4, ("a",), (1.5,), (2.0,)), ImagePre(3, 2, mean=(1.0, 2.0, 3.0))):
        for post in (ClassifyPost(top_k=2), AnomalyPost(0.5)):
            make_package(tmp_path / "p", model, name="m", pre=pre, post=post)
            with PackageFile(tmp_path / "p") as opened:
                assert (opened.manifest.preprocess, opened.manifest.postprocess) == (pre, post)


def test_one_changed_byte_between_the_files_is_found(package: Path, tmp_path: Path) -> None:
    """Headers, directory and ends: the layout leaves no choice, so no bit of it can differ."""
    whole = package.read_bytes()
    target = tmp_path / "p.edgepkg"
    places = [*range(64), *range(whole.rindex(b"PK\x01\x02") - 200, len(whole))]
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1 << (place % 8)
        target.write_bytes(changed)
        with pytest.raises(PackageError):
            check(target)
    for around in (b"#!/bin/sh\n" + whole, whole + b"x"):
        target.write_bytes(around)
        with pytest.raises(PackageError):
            check(target)
    target.write_bytes(whole)
    check(target)
    with zipfile.ZipFile(target) as archive:
        assert archive.testzip() is None


def test_text_that_is_no_utf8_is_refused(package: Path, tmp_path: Path) -> None:
    bad = rewrite(package, tmp_path / "p.edgepkg", lambda files: files.update({MANIFEST: b'{"name": "\xff"}'}))
    with pytest.raises(PackageError, match="not JSON"):
        PackageFile(bad)
