-- Version 4, for PostgreSQL 13 and newer. Times are Unix seconds, states are words, JSON is text: it may hold what jsonb refuses.
-- Columns that SQLite's schema has are the same here; the search path has the schema.

CREATE TABLE about (
    version integer NOT NULL              -- of this schema; that the table is there tells that the schema is ours
);

-- One row: who writes. Each transaction takes the next turn, and only for the session that it was begun for.
CREATE TABLE owner (
    only_one   boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    session    bigint NOT NULL,           -- rises with each process that opens the database, and each time it connects anew
    turn       bigint NOT NULL,           -- transactions so far
    process    text NOT NULL,             -- tells the process that has opened it from every other one
    holder     text NOT NULL,             -- the same for people
    term       text NOT NULL,             -- number, process id, time and host of who has taken it over, as the broker has them, too
    in_use     boolean NOT NULL,          -- false once it was closed
    written_at double precision NOT NULL, -- by the server's clock
    place      text NOT NULL,             -- where the schema was then; another one after a restore or a failover
    led_by     text NOT NULL DEFAULT '',  -- process id, time and host of who leads, or led last
    until      double precision NOT NULL DEFAULT 0, -- when another process may take it over, by the server's clock
    ttl        double precision NOT NULL DEFAULT 0  -- seconds by which each transaction prolongs that
) WITH (fillfactor = 10);

INSERT INTO owner (session, turn, process, holder, term, in_use, written_at, place)
    VALUES (0, 0, '', '', '', false, 0, '');

-- Which machines call themselves what: two of one name would have each other's users.
CREATE TABLE hosts (
    name    text NOT NULL,                -- as owners of workflows have it
    machine text NOT NULL,                -- tells it from every other one, until it is started again
    holder  text NOT NULL,                -- the process that was seen last, for people
    since   double precision NOT NULL,    -- by the server's clock, as the next one
    seen_at double precision NOT NULL,
    PRIMARY KEY (name, machine)
);

-- Processes that wait to lead.
CREATE TABLE standbys (
    process text PRIMARY KEY,
    holder  text NOT NULL,                -- for people
    seen_at double precision NOT NULL     -- by the server's clock
);

CREATE TABLE workflows (
    seq         bigint PRIMARY KEY,       -- order of submission; the cursor of listings
    id          text COLLATE "C" NOT NULL UNIQUE,
    name        text NOT NULL,
    key         text UNIQUE,              -- 'owner:key', given by the client, so that repeating a submission creates nothing
    labels      text NOT NULL,            -- {"label": "value"}
    state       text NOT NULL,
    created_at  double precision NOT NULL,
    finished_at double precision,         -- NULL until the end
    tasks       bigint NOT NULL,
    counts      text,                     -- {"node state": number of tasks}, at the end
    error       text NOT NULL,
    control     text,                     -- {"priority", "run", "ids", "digest", "routes" …} as far as they are not 0
    result      bytea,                    -- JSON text of the output's value
    document    bytea NOT NULL,           -- the definition as JSON, deflated
    -- For listings: ["label", "value"] as JSON, and three fields of `control`.
    label_pairs text[] NOT NULL,
    owner       text,                     -- number@host, and what the host calls them in `control`
    parent_task text,
    parent      text,                     -- id of the workflow whose node this one is the work of
    root        text,                     -- and of the uppermost one, with which it is deleted
    series      text
);

ALTER TABLE workflows ALTER document SET STORAGE EXTERNAL;
CREATE INDEX workflows_by_name ON workflows (name);
CREATE INDEX workflows_by_series ON workflows (series, seq) WHERE series IS NOT NULL;
CREATE INDEX workflows_unfinished ON workflows (seq) WHERE finished_at IS NULL;
-- Those that somebody submitted, of which the newest are listed, and the others by what is above them.
CREATE INDEX workflows_roots ON workflows (seq) WHERE parent IS NULL;
CREATE INDEX workflows_by_parent ON workflows (parent, seq) WHERE parent IS NOT NULL;
CREATE INDEX workflows_by_root ON workflows (root, finished_at) WHERE root IS NOT NULL;
CREATE INDEX workflows_by_end ON workflows (finished_at) WHERE finished_at IS NOT NULL AND root IS NULL;

-- A node has a row from the moment it is held or dispatched; one that waits or is ready has none. Room in each page lets the updates
-- of a node stay in it, without a new entry in the index. No foreign key, which costs as much as the row: rows go with their workflow's.
CREATE TABLE nodes (
    workflow      bigint NOT NULL,
    node          integer NOT NULL,       -- position in the definition, from 0
    state         text NOT NULL,
    attempt       bigint NOT NULL,
    dispatched_at double precision NOT NULL,
    finished_at   double precision NOT NULL,
    held_until    double precision NOT NULL,
    blocked_by    integer,                -- the node to blame
    error         text NOT NULL,
    value         bytea,                  -- JSON text, while another node may need it
    detail        text,                   -- what few nodes have, as JSON: why it is held, failed attempts, the cause of failure …
    PRIMARY KEY (workflow, node)
) WITH (fillfactor = 60);

-- For the views: ["name"] of all nodes of a workflow, in the order of their positions.
CREATE TABLE node_names (
    workflow bigint PRIMARY KEY REFERENCES workflows (seq) ON DELETE CASCADE,
    names    text NOT NULL
);

-- What somebody did to a workflow: who, when and why.
CREATE TABLE journal (
    seq      bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    workflow bigint NOT NULL REFERENCES workflows (seq) ON DELETE CASCADE,
    at       double precision NOT NULL,
    verb     text NOT NULL,
    by       text NOT NULL,
    why      text NOT NULL,
    nodes    text NOT NULL,               -- ["name"], the first few
    count    bigint NOT NULL,             -- how many it changed
    detail   text NOT NULL
);

CREATE INDEX journal_by_workflow ON journal (workflow, seq);

-- What the daemon notes about the world outside, such as how far it has read. `identity` tells this database from every other one.
CREATE TABLE notes (
    name  text PRIMARY KEY,
    value text NOT NULL
);

INSERT INTO notes (name, value) VALUES ('identity', replace(gen_random_uuid()::text, '-', ''));

-- For people with `psql`. These names and columns stay; the tables above may change with a version.
CREATE VIEW v_workflows AS
    SELECT id, name, state, split_part(owner, '@', 1)::bigint AS owner_uid, labels, substr(key, strpos(key, ':') + 1) AS key,
        to_timestamp(created_at) AS created, to_timestamp(finished_at) AS finished,
        round((finished_at - created_at)::numeric, 3) AS seconds, tasks, counts, error,
        coalesce(control::json ->> 'owner_name', split_part(owner, '@', 1)) || substr(owner, strpos(owner || '@', '@')) AS owner,
        parent, series
    FROM workflows;

CREATE VIEW v_nodes AS
    SELECT w.id AS workflow, w.name AS workflow_name, n.node, m.node_name, n.state, n.attempt,
        to_timestamp(nullif(n.dispatched_at, 0)) AS dispatched, to_timestamp(nullif(n.finished_at, 0)) AS finished,
        round((nullif(n.finished_at, 0) - nullif(n.dispatched_at, 0))::numeric, 3) AS seconds, n.error,
        n.detail::json ->> 'cause' AS cause, n.detail::json ->> 'late' AS late
    FROM workflows AS w JOIN nodes AS n ON n.workflow = w.seq
        LEFT JOIN (
            SELECT g.workflow, (named.place - 1) AS node, named.node_name
            FROM node_names AS g, json_array_elements_text(g.names::json) WITH ORDINALITY AS named (node_name, place)
        ) AS m ON m.workflow = n.workflow AND m.node = n.node;

CREATE VIEW v_journal AS
    SELECT to_timestamp(j.at) AS at, w.id AS workflow, w.name AS workflow_name, j.verb, j.by, j.why, j.nodes, j.count, j.detail
    FROM journal AS j JOIN workflows AS w ON w.seq = j.workflow;
