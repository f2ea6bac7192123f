"""A database of an earlier schema is brought to the present one with everything that it holds."""

import sqlite3
from pathlib import Path

from edgeinfer.console.repository import SqliteRepository
from edgeinfer.console.repository.schema import STEPS


def test_a_file_of_the_first_schema_keeps_its_epochs(tmp_path: Path) -> None:
    path = tmp_path / "console.db"
    old = sqlite3.connect(path)
    old.executescript(STEPS[0])
    old.execute("INSERT INTO device (id, name, first_seen_ns, last_seen_ns) VALUES (1, 'dev-1', 1, 1)")
    old.execute("INSERT INTO pipeline (id, device, name) VALUES (1, 1, 'door')")
    for epoch in (900, 400):
        old.execute("INSERT INTO progress VALUES (1, ?, 2, '[]', 2, 0, 0, 0)", (epoch,))
        for seq in (1, 2):
            old.execute("INSERT INTO result VALUES (1, ?, ?, 1, 1, 5, 0, 0, 0, NULL, NULL)", (epoch, seq))
    old.execute("PRAGMA user_version = 1")
    old.commit()
    old.close()
    opened = SqliteRepository(path)
    assert {epoch: ledger.stored for epoch, ledger in opened.ledgers("dev-1").items()} == {400: 2, 900: 2}
    places = [(r.epoch, r.seq) for r in opened.results("dev-1", after=(0, 0), limit=9)]
    assert places == [(400, 1), (400, 2), (900, 1), (900, 2)]
    opened.close()
