-- What the tables of `schema.sql` are changed by, where it has to be one step of the server's. Made anew with each version.

-- Raises DY001 unless the caller is the one who writes; then nothing of the transaction is kept.
CREATE OR REPLACE FUNCTION take_turn(my_session bigint, my_turn bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE owner SET turn = turn + 1, written_at = extract(epoch FROM clock_timestamp()),
            until = extract(epoch FROM clock_timestamp()) + ttl
        WHERE session = my_session AND turn = my_turn;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'DY001', MESSAGE = 'somebody else has taken the database over';
    END IF;
END $$;

-- Returns how it was found if the lease was free, over, or of this process, which has it from then on; else nothing. Whoever had it
-- takes no turn any more. The lock is had by tools that work on a database without a daemon.
CREATE OR REPLACE FUNCTION take_lease(my_process text, my_holder text, my_words text, my_ttl double precision, my_lock bigint)
    RETURNS TABLE (was_in_use boolean, was_written_at double precision, earlier text) LANGUAGE plpgsql AS $$
DECLARE
    found owner%ROWTYPE;
    at double precision;
BEGIN
    IF NOT pg_try_advisory_xact_lock_shared(my_lock) THEN
        RETURN;
    END IF;
    SELECT * INTO STRICT found FROM owner FOR UPDATE;
    at := extract(epoch FROM clock_timestamp());
    IF found.in_use AND found.process <> my_process AND found.until > at THEN
        -- No lease is longer: the clock was set back, and whoever led may be gone.
        IF found.until > at + found.ttl THEN
            UPDATE owner SET until = at + found.ttl;
        END IF;
        RETURN;
    END IF;
    UPDATE owner SET session = session + 1, process = my_process, led_by = my_holder, holder = my_words, in_use = true,
        until = at + my_ttl, ttl = my_ttl;
    RETURN QUERY SELECT found.in_use, found.written_at, found.place;
END $$;
