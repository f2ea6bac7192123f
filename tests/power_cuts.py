"""What a power cut may leave of files whose every write was logged (`disk_log.py`).

The rules are those that POSIX gives, and no more: what was written before an fsync or fdatasync of the file that
succeeded is there; a name that was made, changed or removed before an fsync of its folder is so. All else may be
there or not, sector by sector (512 or 4096 bytes) and name by name, in any order, and where a file grew before its
content came there may be zeros or what others have left. A sync that failed makes nothing durable, nor does the next
one for what was written before it. Only a single sector is never torn, and a rename is one step.

    medium = Medium(log.watched)                  # as it is before the process begins
    subprocess.run(...)
    for cut in cuts_at_random(log, medium, times=20, chance=random.Random(1)):
        medium.after_cut(folder, cut)             # what is left; medium.notes: what had been promised
"""

import random
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Self

import msgspec

from disk_log import DiskLog, Operation, Record

__all__ = ["Cut", "Medium", "cuts_at_random"]


class Cut(msgspec.Struct, frozen=True):
    """How much of what was not synced has come to the medium.

    `sector` is what the medium writes at once, in bytes; `data` and `names` are shares of sectors and of changes of
    names; `in_order`: what has come is what came first, as far as `data` says; `garbage`: what was never written in a
    file that grew is not zeros.
    """

    sector: int
    data: float
    names: float
    in_order: bool
    garbage: bool

    @classmethod
    def nothing_lost(cls) -> Self:
        """What a reader sees at that moment; as after kill -9."""
        return cls(sector=4096, data=1.0, names=1.0, in_order=False, garbage=False)

    @classmethod
    def draw(cls, chance: random.Random) -> Self:
        """Mostly the extremes: nothing came, all came, names without data, data without names."""
        return cls(
            sector=chance.choice((512, 4096)),
            data=chance.choice((0.0, 0.1, 0.5, 0.9, 1.0)),
            names=chance.choice((0.0, 0.5, 1.0)),
            in_order=chance.random() < 0.25,
            garbage=chance.random() < 0.5,
        )


class _Change(msgspec.Struct):
    """Bytes written at `offset`, or, without bytes, a file cut or lengthened to `offset`."""

    number: int  # its place in the log
    offset: int
    data: bytes | None

    def pieces(self, sector: int) -> Iterable["_Change"]:
        """Itself, in parts that the medium writes at once."""
        if self.data is None:
            yield self
            return
        at = 0
        while at < len(self.data):
            end = min(len(self.data), (self.offset + at) // sector * sector + sector - self.offset)
            yield _Change(self.number, self.offset + at, self.data[at:end])
            at = end


class _File:
    """`disk` is on the medium; `pending` has been written since."""

    def __init__(self, content: bytes = b"") -> None:
        self.disk = bytearray(content)
        self.pending: list[_Change] = []

    def sync(self) -> None:
        for change in self.pending:
            _write(self.disk, change, b"\0")
        self.pending.clear()

    def lose(self, cut: Cut, chance: random.Random) -> None:
        """A sync failed: what has not come to the medium by now never will."""
        self.disk, self.pending = self.after(cut, chance), []

    def after(self, cut: Cut, chance: random.Random, *, last: int = 0) -> bytearray:
        """What is left of it; `last`, where changes come in order, is the place in the log of the last that came,
        perhaps in part."""
        content = bytearray(self.disk)
        fill = chance.randbytes(1) if cut.garbage else b"\0"
        for change in self.pending:
            for piece in change.pieces(cut.sector):
                share = cut.data if not last else 1.0 if change.number < last else 0.5 if change.number == last else 0.0
                if chance.random() < share:
                    _write(content, piece, fill)
        return content


class _Folder:
    """Names as every process sees them, and as they are on the medium."""

    def __init__(self) -> None:
        self.live: dict[str, _Node] = {}
        self.disk: dict[str, _Node] = {}


_Node = _File | _Folder


class _Renaming(msgspec.Struct):
    """Names that change in one step: (folder, name, what it stands for now; None: nothing)."""

    changes: list[tuple[_Folder, str, _Node | None]]

    def apply(self) -> None:
        _set_names((folder.disk, name, node) for folder, name, node in self.changes)


class Medium:
    """Files below `root`, as they are there now, and then as the records of a log change them.

    With `lies`, no sync makes anything durable: a medium that says it did what it did not. Files whose name ends in
    `.promise` are not on it: what is written to them is in `notes`, as is what was noted in the log.
    """

    def __init__(self, root: Path, *, lies: bool = False, seed: int = 0) -> None:
        self.notes: list[bytes] = []
        self._prefix = f"{root.resolve()}"
        self._lies = lies
        self._chance = random.Random(seed)
        self._number = 0
        self._root = _load(root)
        self._inodes: dict[int, _File] = {}
        self._promises: set[int] = set()
        self._renamings: list[_Renaming] = []

    def apply(self, record: Record) -> None:
        self._number += 1
        _STEPS[record.operation](self, record)

    def after_cut(self, target: Path, cut: Cut, *, only: Collection[str] = ()) -> None:
        """Write to the folder `target` what this cut leaves, of all or of the folders in `only`; that depends on the
        seed and on earlier cuts."""
        changes = [change.number for file in _files_of(self._root) for change in file.pending]
        last = 0
        if cut.in_order and changes:
            last = sorted(changes)[int(cut.data * (len(changes) - 1))]
        names = self._names_after(cut)
        left = {
            name: node for name, node in names.get(id(self._root), self._root.disk).items() if not only or name in only
        }
        self._write(left, names, target, lambda file: file.after(cut, self._chance, last=last))

    # -- what the records say -------------------------------------------------------------------------------------

    def _open(self, record: Record) -> None:
        if self._is_promise(record):
            return
        folder, name = self._place(record.path)
        node = folder.live.get(name)
        if record.operation is Operation.CREATE or not isinstance(node, _File):
            node = _File()
            self._rename([(folder, name, node)])
        self._inodes[record.inode] = node

    def _change(self, record: Record) -> None:
        data = record.data if record.operation is Operation.WRITE else None
        if record.inode in self._promises:
            if data is not None:
                self.notes.append(data)
            return
        self._inodes[record.inode].pending.append(_Change(self._number, record.offset, data))

    def _sync(self, record: Record) -> None:
        if not self._lies and record.inode not in self._promises:
            self._inodes[record.inode].sync()

    def _fail_to_sync(self, record: Record) -> None:
        if record.inode not in self._promises:
            self._inodes[record.inode].lose(Cut.draw(self._chance), self._chance)

    def _sync_folder(self, record: Record) -> None:
        if self._lies:
            return
        folder = self._folder(record.path)
        synced: list[_Renaming] = []
        waiting: list[_Renaming] = []
        names: set[tuple[int, str]] = set()
        for renaming in reversed(self._renamings):
            # What came before under the same name comes with it, in another folder, too.
            own = {(id(changed), name) for changed, name, _ in renaming.changes}
            if any(changed is folder for changed, _, _ in renaming.changes) or own & names:
                names |= own
                synced.append(renaming)
            else:
                waiting.append(renaming)
        for renaming in reversed(synced):
            renaming.apply()
        self._renamings = waiting[::-1]

    def _remove(self, record: Record) -> None:
        folder, name = self._place(record.path)
        if not record.path.endswith(".promise"):
            self._rename([(folder, name, None)])

    def _move(self, record: Record) -> None:
        folder, name = self._place(record.path)
        target, new_name = self._place(record.data.decode())
        node = folder.live[name]
        self._rename([(folder, name, None), (target, new_name, node)])

    def _link(self, record: Record) -> None:
        folder, name = self._place(record.path)
        target, new_name = self._place(record.data.decode())
        self._rename([(target, new_name, folder.live[name])])

    def _make_folder(self, record: Record) -> None:
        folder, name = self._place(record.path)
        self._rename([(folder, name, _Folder())])

    def _note(self, record: Record) -> None:
        self.notes.append(record.data)

    # -- names ----------------------------------------------------------------------------------------------------

    def _is_promise(self, record: Record) -> bool:
        if record.path.endswith(".promise"):
            self._promises.add(record.inode)
        else:
            self._promises.discard(record.inode)
        return record.inode in self._promises

    def _rename(self, changes: list[tuple[_Folder, str, _Node | None]]) -> None:
        _set_names((folder.live, name, node) for folder, name, node in changes)
        self._renamings.append(_Renaming(changes))

    def _names_after(self, cut: Cut) -> dict[int, dict[str, _Node]]:
        """By folder, the names that are left; without an entry, those on the medium are."""
        left: dict[int, dict[str, _Node]] = {}
        count = int(cut.names * len(self._renamings))
        for number, renaming in enumerate(self._renamings):
            if (number < count) if cut.in_order else (self._chance.random() < cut.names):
                for folder, name, node in renaming.changes:
                    names = left.setdefault(id(folder), dict(folder.disk))
                    _set_names([(names, name, node)])
        return left

    def _write(
        self,
        nodes: dict[str, _Node],
        names: dict[int, dict[str, _Node]],
        target: Path,
        content: Callable[[_File], bytearray],
    ) -> None:
        target.mkdir(exist_ok=True)
        for name, node in nodes.items():
            if isinstance(node, _File):
                (target / name).write_bytes(content(node))
            else:
                self._write(names.get(id(node), node.disk), names, target / name, content)

    def _place(self, path: str) -> tuple[_Folder, str]:
        parent, _, name = path.rpartition("/")
        return self._folder(parent), name

    def _folder(self, path: str) -> _Folder:
        node: _Node = self._root
        for name in filter(None, path.removeprefix(self._prefix).split("/")):
            assert isinstance(node, _Folder), path
            node = node.live[name]
        assert isinstance(node, _Folder), path
        return node


_STEPS: dict[Operation, Callable[[Medium, Record], None]] = {
    Operation.OPEN: Medium._open,
    Operation.CREATE: Medium._open,
    Operation.WRITE: Medium._change,
    Operation.TRUNCATE: Medium._change,
    Operation.SYNC: Medium._sync,
    Operation.SYNC_FAILED: Medium._fail_to_sync,
    Operation.SYNC_FOLDER: Medium._sync_folder,
    Operation.UNLINK: Medium._remove,
    Operation.RENAME: Medium._move,
    Operation.MKDIR: Medium._make_folder,
    Operation.RMDIR: Medium._remove,
    Operation.LINK: Medium._link,
    Operation.NOTE: Medium._note,
}


def cuts_at_random(log: DiskLog, medium: Medium, *, times: int, chance: random.Random) -> Iterator[Cut]:
    """Replay a log and stop at `times` random places of it, each time with a cut to make there."""
    records = list(log.records())
    moments = sorted((chance.randrange(len(records)) for _ in range(times)), reverse=True)
    for number, record in enumerate(records):
        medium.apply(record)
        while moments and moments[-1] == number:
            moments.pop()
            yield Cut.draw(chance)


def _write(content: bytearray, change: _Change, fill: bytes) -> None:
    if change.data is None:
        del content[change.offset :]
        content.extend(b"\0" * (change.offset - len(content)))
        return
    if change.offset > len(content):
        content.extend(fill * (change.offset - len(content)))
    content[change.offset : change.offset + len(change.data)] = change.data


def _set_names(changes: Iterable[tuple[dict[str, _Node], str, _Node | None]]) -> None:
    for names, name, node in changes:
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def _files_of(folder: _Folder) -> list[_File]:
    """Every file that has a name now."""
    found: list[_File] = []
    for node in folder.live.values():
        found += [node] if isinstance(node, _File) else _files_of(node)
    return found


def _load(path: Path) -> _Folder:
    folder = _Folder()
    for entry in path.iterdir():
        if not entry.name.endswith(".promise"):
            folder.live[entry.name] = _load(entry) if entry.is_dir() else _File(entry.read_bytes())
    folder.disk = dict(folder.live)
    return folder
