"""The tables of the SQLite repository, as the steps that lead to the present schema.

A step is never changed once released: `PRAGMA user_version` says how many of them a file has been through.
"""

import sqlite3
from collections.abc import Callable

from edgeinfer.console.repository.conversion import rows_into_chunks

__all__ = ["STEPS", "Step"]

_FIRST = """
CREATE TABLE device (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,
    first_seen_ns INTEGER NOT NULL, last_seen_ns INTEGER NOT NULL,
    online INTEGER NOT NULL DEFAULT 0, session TEXT NOT NULL DEFAULT '', agent_version TEXT NOT NULL DEFAULT '',
    groups TEXT NOT NULL DEFAULT '[]', profile TEXT NOT NULL DEFAULT '{}', engines TEXT NOT NULL DEFAULT '{}',
    reported TEXT NOT NULL DEFAULT '{}', telemetry TEXT NOT NULL DEFAULT '{}', refused INTEGER NOT NULL DEFAULT 0
) STRICT;

-- One row per device and epoch: what `edgeinfer.console.ledger` keeps; `ranges` is JSON, nearly always [].
CREATE TABLE progress (
    device INTEGER NOT NULL, epoch INTEGER NOT NULL, contiguous INTEGER NOT NULL, ranges TEXT NOT NULL,
    stored INTEGER NOT NULL, duplicates INTEGER NOT NULL, evicted INTEGER NOT NULL, missing INTEGER NOT NULL,
    PRIMARY KEY (device, epoch)
) STRICT, WITHOUT ROWID;

CREATE TABLE absent (
    id INTEGER PRIMARY KEY, device INTEGER NOT NULL, epoch INTEGER NOT NULL,
    first INTEGER NOT NULL, last INTEGER NOT NULL, cause TEXT NOT NULL, reason TEXT NOT NULL
) STRICT;
CREATE INDEX absent_by_device ON absent (device, id);

CREATE TABLE refusal (
    id INTEGER PRIMARY KEY, t_ns INTEGER NOT NULL, device TEXT NOT NULL, topic TEXT NOT NULL,
    reason TEXT NOT NULL, bytes INTEGER NOT NULL
) STRICT;
CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE pipeline (
    id INTEGER PRIMARY KEY, device INTEGER NOT NULL, name TEXT NOT NULL,
    results INTEGER NOT NULL DEFAULT 0, events INTEGER NOT NULL DEFAULT 0, last_t_ns INTEGER NOT NULL DEFAULT 0,
    UNIQUE (device, name)
) STRICT;

-- items and extra are msgpack: scores may be no number, which JSON cannot say.
CREATE TABLE result (
    device INTEGER NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, pipeline INTEGER NOT NULL,
    kind INTEGER NOT NULL, t_ns INTEGER NOT NULL, frame INTEGER NOT NULL, latency_us INTEGER NOT NULL,
    age_us INTEGER NOT NULL, items BLOB, extra BLOB,
    PRIMARY KEY (device, epoch, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE bucket (
    resolution_s INTEGER NOT NULL, t_s INTEGER NOT NULL, pipeline INTEGER NOT NULL,
    n INTEGER NOT NULL, latencies BLOB NOT NULL,
    PRIMARY KEY (resolution_s, t_s, pipeline)
) STRICT, WITHOUT ROWID;

CREATE TABLE package (
    digest TEXT PRIMARY KEY, name TEXT NOT NULL, version TEXT NOT NULL, task TEXT NOT NULL,
    blob_sha256 TEXT NOT NULL, blob_bytes INTEGER NOT NULL, added_ns INTEGER NOT NULL,
    labels TEXT NOT NULL, label_offset INTEGER NOT NULL, variants TEXT NOT NULL, signed_by TEXT NOT NULL
) STRICT;

-- Every file that ever carried a package: a device may still be pulling an older signature's.
CREATE TABLE blob (sha256 TEXT PRIMARY KEY, bytes INTEGER NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE rollout (
    id INTEGER PRIMARY KEY AUTOINCREMENT, digest TEXT NOT NULL, target TEXT NOT NULL, state TEXT NOT NULL,
    created_ns INTEGER NOT NULL, finished_ns INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE deployment (
    rollout INTEGER NOT NULL, device TEXT NOT NULL, job TEXT NOT NULL, digest TEXT NOT NULL, model TEXT NOT NULL,
    state TEXT NOT NULL, desired_version INTEGER NOT NULL, created_ns INTEGER NOT NULL, changed_ns INTEGER NOT NULL,
    reason TEXT NOT NULL, "offset" INTEGER NOT NULL, bytes INTEGER NOT NULL, swap_ms REAL NOT NULL,
    PRIMARY KEY (rollout, device)
) STRICT, WITHOUT ROWID;
CREATE INDEX deployment_by_device ON deployment (device, rollout);

CREATE TABLE desired (
    device TEXT PRIMARY KEY, version INTEGER NOT NULL, envelope BLOB NOT NULL
) STRICT, WITHOUT ROWID;
"""

# An epoch's number is random; `ordinal` counts a device's epochs as they are first seen. `retired_seq` is up to
# where an epoch was settled whose row in `progress` has been added to the device's in `retired`.
_EPOCHS_IN_ORDER = """
ALTER TABLE progress ADD COLUMN undecodable INTEGER NOT NULL DEFAULT 0;
CREATE TABLE epoch (
    device INTEGER NOT NULL, epoch INTEGER NOT NULL, ordinal INTEGER NOT NULL, retired_seq INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (device, epoch)
) STRICT, WITHOUT ROWID;
INSERT INTO epoch (device, epoch, ordinal)
    SELECT device, epoch, row_number() OVER (PARTITION BY device ORDER BY epoch) FROM progress;
CREATE UNIQUE INDEX epoch_in_order ON epoch (device, ordinal);
CREATE TABLE retired (
    device INTEGER PRIMARY KEY, stored INTEGER NOT NULL, duplicates INTEGER NOT NULL, evicted INTEGER NOT NULL,
    missing INTEGER NOT NULL, undecodable INTEGER NOT NULL
) STRICT;
"""

# Chunks are kept as they came. `kinds` has bit k set where there is a result of kind k. The trigger is the proof that
# no number is stored twice, whatever the code above it believes.
_CHUNKS = """
CREATE TABLE chunk (
    device INTEGER NOT NULL, epoch INTEGER NOT NULL, first_seq INTEGER NOT NULL, n INTEGER NOT NULL CHECK (n > 0),
    t_min_ns INTEGER NOT NULL, t_max_ns INTEGER NOT NULL, pipeline INTEGER NOT NULL, kinds INTEGER NOT NULL,
    codec INTEGER NOT NULL, whole INTEGER NOT NULL, link BLOB NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (device, epoch, first_seq)
) STRICT;
CREATE INDEX chunk_by_time ON chunk (device, t_max_ns, t_min_ns, epoch, first_seq, n);
CREATE INDEX chunk_by_pipeline ON chunk (pipeline, epoch, first_seq);
CREATE INDEX chunk_with_events ON chunk (device, epoch, first_seq) WHERE kinds & 32;
CREATE TRIGGER chunk_once BEFORE INSERT ON chunk BEGIN
    SELECT RAISE(ABORT, 'a result is stored already') WHERE NEW.first_seq <= (
        SELECT first_seq + n - 1 FROM chunk WHERE device = NEW.device AND epoch = NEW.epoch
            AND first_seq <= NEW.first_seq + NEW.n - 1 ORDER BY first_seq DESC LIMIT 1);
END;

ALTER TABLE progress ADD COLUMN conflicts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE retired ADD COLUMN conflicts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE absent ADD COLUMN t_ns INTEGER NOT NULL DEFAULT 0;
ALTER TABLE absent ADD COLUMN link BLOB NOT NULL DEFAULT x'';
CREATE INDEX absent_by_end ON absent (device, epoch, last);

CREATE TABLE conflict (
    device INTEGER NOT NULL, epoch INTEGER NOT NULL, first_seq INTEGER NOT NULL, n INTEGER NOT NULL,
    reason TEXT NOT NULL, first_ns INTEGER NOT NULL, last_ns INTEGER NOT NULL, times INTEGER NOT NULL,
    PRIMARY KEY (device, epoch, first_seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE device_blob (
    device INTEGER NOT NULL, sha256 TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, pipeline TEXT NOT NULL,
    t_ns INTEGER NOT NULL, total_bytes INTEGER NOT NULL, received_ns INTEGER NOT NULL, done INTEGER NOT NULL,
    PRIMARY KEY (device, sha256)
) STRICT, WITHOUT ROWID;
CREATE INDEX device_blob_by_age ON device_blob (device, received_ns);
"""

# Chunks that were settled as undecodable, as they came: a newer console may know how to read them.
_UNREAD = """
CREATE TABLE unread (
    id INTEGER PRIMARY KEY, device INTEGER NOT NULL, epoch INTEGER NOT NULL, first_seq INTEGER NOT NULL,
    n INTEGER NOT NULL, pipeline TEXT NOT NULL, codec INTEGER NOT NULL, link BLOB NOT NULL, crc INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX unread_by_device ON unread (device);
CREATE INDEX unread_by_place ON unread (device, epoch, first_seq);
ALTER TABLE progress ADD COLUMN made INTEGER NOT NULL DEFAULT 0;
"""

Step = str | Callable[[sqlite3.Connection, int], None]
"""SQL, run in one transaction with the new number; or what is given the connection and its own number, and sets that
when it is done."""

STEPS: tuple[Step, ...] = (_FIRST, _EPOCHS_IN_ORDER, _CHUNKS, rows_into_chunks, _UNREAD)
