-- Texts are compared by their bytes, so that every database lists keys in the same order.
-- Bodies are JSON that only the engine reads. Times are microseconds since 1970.
-- Some room is left on each page, so that a write which touches no indexed column touches no index either.
CREATE TABLE rows (
    kind   text COLLATE "C" NOT NULL,
    key    text COLLATE "C" NOT NULL,
    parent text COLLATE "C" NOT NULL,
    rev    bigint NOT NULL,
    body   text NOT NULL,
    PRIMARY KEY (kind, key)
) WITH (fillfactor = 80);

CREATE INDEX rows_by_parent ON rows (kind, parent, key);

CREATE TABLE workflows (
    key          text COLLATE "C" NOT NULL PRIMARY KEY,
    parent       text COLLATE "C" NOT NULL,
    rev          bigint NOT NULL,
    body         text NOT NULL,
    subject      text COLLATE "C" NOT NULL,
    kind         text COLLATE "C" NOT NULL,
    kind_version bigint NOT NULL,
    state        text COLLATE "C" NOT NULL CHECK (state IN ('queued', 'active', 'parked', 'ended')),
    not_before   bigint,
    turn         text COLLATE "C",
    place        bigint NOT NULL,
    owner        text COLLATE "C",
    fence        bigint NOT NULL,
    lease_until  bigint,
    -- It is queued, the first of its subject, and none of its subject is active. Kept by `line_up` and `claim`, under
    -- the subject's lock, so that a claim walks past nothing that only waits for its turn.
    first        boolean NOT NULL DEFAULT false
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.1);

CREATE INDEX workflows_by_parent ON workflows (parent, key);

-- What has ended is in none of these, so their cost doesn't grow with history.
CREATE INDEX workflows_open           ON workflows (key)            WHERE state <> 'ended';
CREATE INDEX workflows_open_by_parent ON workflows (parent, key)    WHERE state <> 'ended';
CREATE INDEX workflows_first          ON workflows (place)          WHERE first;
CREATE INDEX workflows_first_of       ON workflows (subject)        WHERE first;
CREATE INDEX workflows_waiting        ON workflows (subject, place) WHERE state = 'queued';
CREATE INDEX workflows_later          ON workflows (not_before)     WHERE state = 'queued' AND not_before IS NOT NULL;
CREATE INDEX workflows_running        ON workflows (subject)        WHERE state = 'active';
-- By the time from which somebody else may claim them.
CREATE INDEX workflows_active ON workflows (greatest(lease_until, not_before, 0)) WHERE state = 'active';

CREATE TABLE leases (
    name  text COLLATE "C" NOT NULL PRIMARY KEY,
    owner text COLLATE "C" NOT NULL,
    until bigint NOT NULL
) WITH (fillfactor = 70);

CREATE INDEX turns_by_end ON leases (until) WHERE name >= 'turn/' AND name < 'turn0';

CREATE TABLE events (
    seq     bigint NOT NULL PRIMARY KEY,
    subject text COLLATE "C" NOT NULL,
    body    text NOT NULL
);

CREATE INDEX events_by_subject ON events (subject, seq);

-- The last place and the last event's place. One row, written in every commit that takes one.
CREATE TABLE counters (place bigint NOT NULL, event bigint NOT NULL) WITH (fillfactor = 10);
INSERT INTO counters VALUES (0, 0);

-- The time that leases and due times are measured by: of the database, not of whoever asks.
CREATE FUNCTION clock() RETURNS bigint LANGUAGE sql AS $$
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
$$;

-- The end of a lease that is taken at this time; `ttl` may be for ever.
CREATE FUNCTION lease_end(at bigint, ttl bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT at + least(ttl, 9223372036854775807 - at)
$$;

-- Ends the transaction unless what it was made from still holds.
CREATE FUNCTION must(holds boolean) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF NOT holds THEN
        RAISE serialization_failure USING MESSAGE = 'a row was changed meanwhile';
    END IF;
END
$$;

-- The key of a subject's lock, which is the schema's own.
CREATE FUNCTION subject_lock(subject text) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT hashtextextended(subject, current_schema()::regnamespace::oid::bigint)
$$;

-- Takes or prolongs a lease; false when another owner holds it.
CREATE FUNCTION take_lease(wanted text, claimer text, ttl bigint) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    at       CONSTANT bigint := clock();
    new_end  CONSTANT bigint := lease_end(at, ttl);
BEGIN
    INSERT INTO leases AS lease VALUES (wanted, claimer, new_end)
    ON CONFLICT (name) DO UPDATE SET owner = claimer,
        until = CASE WHEN lease.owner = claimer THEN greatest(lease.until, new_end) ELSE new_end END
    WHERE lease.owner = claimer OR lease.until <= at;
    RETURN FOUND;
END
$$;

-- Marks the first of these subjects' queues anew. The caller holds the subjects' locks, taken in a statement before.
CREATE FUNCTION line_up(subjects text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    one  text;
    head text;
BEGIN
    FOREACH one IN ARRAY subjects LOOP
        head := NULL;
        IF NOT EXISTS (SELECT FROM workflows WHERE state = 'active' AND subject = one) THEN
            SELECT key INTO head FROM workflows WHERE state = 'queued' AND subject = one ORDER BY place LIMIT 1;
        END IF;
        UPDATE workflows SET first = false WHERE first AND subject = one AND key IS DISTINCT FROM head;
        UPDATE workflows SET first = true WHERE key = head AND NOT first;
    END LOOP;
END
$$;

-- Claims a workflow of one of these kinds (name, space, version), if one is due. It waits for nobody: what another one
-- holds at this moment is passed over, and whoever holds it tells when it is done.
CREATE FUNCTION claim(claimer text, ttl bigint, kinds text[]) RETURNS SETOF workflows LANGUAGE plpgsql AS $$
DECLARE
    at        CONSTANT bigint := clock();
    candidate record;
    claimed   workflows;
BEGIN
    -- What an engine left behind comes first.
    SELECT * INTO claimed FROM workflows AS w
    WHERE w.state = 'active' AND greatest(w.lease_until, w.not_before, 0) <= at
        AND w.kind || ' ' || w.kind_version = ANY (kinds)
        AND NOT EXISTS (SELECT FROM leases AS held
            WHERE held.name = 'turn/' || w.subject AND held.until > at AND held.owner IS DISTINCT FROM w.turn)
    ORDER BY w.place LIMIT 1 FOR UPDATE OF w SKIP LOCKED;
    IF NOT FOUND THEN
        FOR candidate IN
            SELECT w.key, w.subject FROM workflows AS w
            WHERE w.first AND coalesce(w.not_before, 0) <= at AND w.kind || ' ' || w.kind_version = ANY (kinds)
                AND NOT EXISTS (SELECT FROM leases AS held
                    WHERE held.name = 'turn/' || w.subject AND held.until > at AND held.owner IS DISTINCT FROM w.turn)
            ORDER BY w.place
        LOOP
            CONTINUE WHEN NOT pg_try_advisory_xact_lock(subject_lock(candidate.subject));
            -- A statement of its own: what it sees is newer than the lock.
            SELECT * INTO claimed FROM workflows AS w
            WHERE w.key = candidate.key AND w.subject = candidate.subject AND w.first
                AND coalesce(w.not_before, 0) <= at AND w.kind || ' ' || w.kind_version = ANY (kinds)
                AND NOT EXISTS (SELECT FROM leases AS held
                    WHERE held.name = 'turn/' || w.subject AND held.until > at AND held.owner IS DISTINCT FROM w.turn)
            FOR UPDATE OF w SKIP LOCKED;
            CONTINUE WHEN NOT FOUND;
            EXIT WHEN claimed.turn IS NULL OR take_lease('turn/' || claimed.subject, claimed.turn, ttl);
            claimed := NULL;
        END LOOP;
    END IF;
    RETURN QUERY UPDATE workflows AS w
        SET rev = w.rev + 1, state = 'active', not_before = NULL, owner = claimer, fence = w.fence + 1,
            lease_until = lease_end(at, ttl), first = false
        WHERE w.key = claimed.key
        RETURNING w.*;
END
$$;
