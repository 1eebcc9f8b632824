-- From version 1, where a number was a user of the host that had the database: it is one of the host that brings it up to date.
DROP VIEW v_workflows;
ALTER TABLE workflows ALTER owner TYPE text USING owner || '@' || current_setting('dyrygentd.host');
UPDATE workflows SET
    key = owner || substr(key, strpos(key, ':')),
    control = regexp_replace(control, '"owner": [0-9]+', '"owner": "' || owner || '"')
WHERE owner IS NOT NULL;
CREATE VIEW v_workflows AS
    SELECT id, name, state, split_part(owner, '@', 1)::bigint AS owner_uid, labels, substr(key, strpos(key, ':') + 1) AS key,
        to_timestamp(created_at) AS created, to_timestamp(finished_at) AS finished,
        round((finished_at - created_at)::numeric, 3) AS seconds, tasks, counts, error,
        coalesce(control::json ->> 'owner_name', split_part(owner, '@', 1)) || substr(owner, strpos(owner || '@', '@')) AS owner
    FROM workflows;
