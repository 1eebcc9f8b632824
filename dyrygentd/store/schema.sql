-- Version 8. Times are Unix seconds, states are words, JSON is text.

CREATE TABLE workflows (
    seq         INTEGER PRIMARY KEY,      -- order of submission; the cursor of listings
    id          TEXT NOT NULL UNIQUE,
    name        TEXT NOT NULL,
    key         TEXT UNIQUE,              -- 'owner:key', given by the client, so that repeating a submission creates nothing
    labels      TEXT NOT NULL,            -- {"label": "value"}
    state       TEXT NOT NULL,
    created_at  REAL NOT NULL,
    finished_at REAL,                     -- NULL until the end
    tasks       INTEGER NOT NULL,
    counts      TEXT,                     -- {"node state": number of tasks}, at the end
    error       TEXT NOT NULL,
    result      BLOB,                     -- JSON text of the output's value
    document    BLOB NOT NULL,            -- the definition as JSON, deflated; listings skip its pages
    control     TEXT,                     -- {"priority", "run", "ids", "digest", "routes" …} as far as they are not 0
    parent      TEXT,                     -- id of the workflow whose node this one is the work of
    root        TEXT,                     -- and of the uppermost one, with which it is deleted
    series      TEXT GENERATED ALWAYS AS (CASE WHEN json_valid(control) THEN json_extract(control, '$.series') END) VIRTUAL
) STRICT;

CREATE INDEX workflows_by_name ON workflows (name);
CREATE INDEX workflows_by_series ON workflows (series, seq) WHERE series IS NOT NULL;
CREATE INDEX workflows_unfinished ON workflows (seq) WHERE finished_at IS NULL;
-- Of those that somebody submitted, too, which have neither: the newest are listed by the first, and the ends found by the second.
CREATE INDEX workflows_by_parent ON workflows (parent);
CREATE INDEX workflows_by_root ON workflows (root, finished_at);

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
    detail        TEXT,                   -- what few nodes have, as JSON: why it is held, failures, earlier attempts, the cause …
    PRIMARY KEY (workflow, node)
) STRICT, WITHOUT ROWID;

-- For the views: ["name"] of all nodes of a workflow, in the order of their positions.
CREATE TABLE node_names (
    workflow INTEGER PRIMARY KEY REFERENCES workflows (seq) ON DELETE CASCADE,
    names    TEXT NOT NULL
) STRICT;

-- What somebody did to a workflow: who, when and why.
CREATE TABLE journal (
    seq      INTEGER PRIMARY KEY,
    workflow INTEGER NOT NULL REFERENCES workflows (seq) ON DELETE CASCADE,
    at       REAL NOT NULL,
    verb     TEXT NOT NULL,
    by       TEXT NOT NULL,
    why      TEXT NOT NULL,
    nodes    TEXT NOT NULL,               -- ["name"], the first few
    count    INTEGER NOT NULL,            -- how many it changed
    detail   TEXT NOT NULL
) STRICT;

CREATE INDEX journal_by_workflow ON journal (workflow, seq);

-- What the daemon notes about the world outside, such as how far it has read. `identity` tells this database from every other one.
CREATE TABLE notes (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO notes (name, value) VALUES ('identity', lower(hex(randomblob(16))));

-- For people with `sqlite3`: times are UTC as text. These names and columns stay; the tables above may change with a version.
CREATE VIEW v_workflows AS
    SELECT id, name, state, json_extract(control, '$.owner') AS owner_uid, labels,
        substr(key, instr(key, ':') + 1) AS key,
        datetime(created_at, 'unixepoch') AS created, datetime(finished_at, 'unixepoch') AS finished,
        round(finished_at - created_at, 3) AS seconds, tasks, counts, error, parent, series
    FROM workflows;

CREATE VIEW v_nodes AS
    SELECT w.id AS workflow, w.name AS workflow_name, n.node, m.value AS node_name, n.state, n.attempt,
        datetime(nullif(n.dispatched_at, 0), 'unixepoch') AS dispatched,
        datetime(nullif(n.finished_at, 0), 'unixepoch') AS finished,
        round(nullif(n.finished_at, 0) - nullif(n.dispatched_at, 0), 3) AS seconds, n.error,
        json_extract(n.detail, '$.cause') AS cause, json_extract(n.detail, '$.late') AS late
    FROM workflows AS w JOIN node_names AS g ON g.workflow = w.seq
        -- The names are gone through once for each workflow, and not once for each node.
        CROSS JOIN json_each(g.names) AS m JOIN nodes AS n ON n.workflow = w.seq AND n.node = m.key
    UNION ALL
    SELECT w.id, w.name, n.node, NULL, n.state, n.attempt,
        datetime(nullif(n.dispatched_at, 0), 'unixepoch') AS dispatched,
        datetime(nullif(n.finished_at, 0), 'unixepoch') AS finished,
        round(nullif(n.finished_at, 0) - nullif(n.dispatched_at, 0), 3) AS seconds, n.error,
        json_extract(n.detail, '$.cause') AS cause, json_extract(n.detail, '$.late') AS late
    FROM nodes AS n JOIN workflows AS w ON w.seq = n.workflow
    WHERE w.seq NOT IN (SELECT workflow FROM node_names);

-- Attempts before the present or last one, the last few of each node.
CREATE VIEW v_attempts AS
    SELECT w.id AS workflow, w.name AS workflow_name, n.node, m.value AS node_name,
        json_extract(a.value, '$[0]') AS attempt,
        datetime(json_extract(a.value, '$[1]'), 'unixepoch') AS dispatched,
        datetime(nullif(json_extract(a.value, '$[5]'), 0), 'unixepoch') AS started,
        datetime(json_extract(a.value, '$[2]'), 'unixepoch') AS ended,
        round(json_extract(a.value, '$[2]') - json_extract(a.value, '$[1]'), 3) AS seconds,
        json_extract(a.value, '$[3]') AS how,
        json_extract(a.value, '$[6]') AS worker, json_extract(a.value, '$[7]') AS error
    FROM workflows AS w JOIN node_names AS g ON g.workflow = w.seq
        CROSS JOIN json_each(g.names) AS m JOIN nodes AS n ON n.workflow = w.seq AND n.node = m.key
        CROSS JOIN json_each(n.detail, '$.earlier') AS a;

CREATE VIEW v_journal AS
    SELECT datetime(j.at, 'unixepoch') AS at, w.id AS workflow, w.name AS workflow_name, j.verb, j.by, j.why, j.nodes,
        j.count, j.detail
    FROM journal AS j JOIN workflows AS w ON w.seq = j.workflow;
