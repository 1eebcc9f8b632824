-- Version 1. Times are Unix seconds, states are words, JSON is text.

CREATE TABLE workflows (
    seq         INTEGER PRIMARY KEY,      -- order of submission; the cursor of listings
    id          TEXT NOT NULL UNIQUE,
    name        TEXT NOT NULL,
    key         TEXT UNIQUE,              -- given by the client, so that repeating a submission creates nothing
    labels      TEXT NOT NULL,            -- {"label": "value"}
    state       TEXT NOT NULL,
    created_at  REAL NOT NULL,
    finished_at REAL,                     -- NULL until the end
    tasks       INTEGER NOT NULL,
    counts      TEXT,                     -- {"node state": number of tasks}, at the end
    error       TEXT NOT NULL,
    result      BLOB,                     -- JSON text of the output's value
    document    BLOB NOT NULL             -- the definition as JSON, deflated; last, so that listings skip its pages
) STRICT;

CREATE INDEX workflows_by_name ON workflows (name);
CREATE INDEX workflows_unfinished ON workflows (seq) WHERE finished_at IS NULL;
CREATE INDEX workflows_by_end ON workflows (finished_at) WHERE finished_at IS NOT NULL;

-- A node has a row from the moment it is held or dispatched; one that waits or is ready has none.
CREATE TABLE nodes (
    workflow      INTEGER NOT NULL REFERENCES workflows (seq) ON DELETE CASCADE,
    node          INTEGER NOT NULL,       -- position in the definition, from 0
    state         TEXT NOT NULL,
    attempt       INTEGER NOT NULL,
    dispatched_at REAL NOT NULL,
    finished_at   REAL NOT NULL,
    held_until    REAL NOT NULL,
    blocked_by    INTEGER,                -- the node to blame
    error         TEXT NOT NULL,
    value         BLOB,                   -- JSON text, while another node may need it
    PRIMARY KEY (workflow, node)
) STRICT, WITHOUT ROWID;
