-- A claim walks past nothing that is due later, such as all apps of a node that is gone, and past no queue of kinds that the
-- claimer doesn't know, such as a newer engine's. What is left to walk past: turns that somebody holds, and what is due by
-- now, or was left behind, of unknown kinds.
DROP INDEX workflows_first;
CREATE INDEX workflows_ready ON workflows (kind, kind_version, place) WHERE first AND not_before IS NULL;
CREATE INDEX workflows_ripe  ON workflows (not_before)                WHERE first AND not_before IS NOT NULL;

-- Claims a workflow of one of these kinds (name, space, version), if one is due. It waits for nobody: what another one
-- holds at this moment is passed over, and whoever holds it tells when it is done. So a few of each kind are enough.
CREATE OR REPLACE FUNCTION claim(claimer text, ttl bigint, kinds text[]) RETURNS SETOF workflows LANGUAGE plpgsql AS $$
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
            SELECT ready.key, ready.subject, ready.place
            FROM unnest(kinds) AS known CROSS JOIN LATERAL (
                SELECT w.key, w.subject, w.place FROM workflows AS w
                WHERE w.first AND w.not_before IS NULL
                    AND w.kind = split_part(known, ' ', 1) AND w.kind_version = split_part(known, ' ', 2)::bigint
                    AND NOT EXISTS (SELECT FROM leases AS held
                        WHERE held.name = 'turn/' || w.subject AND held.until > at AND held.owner IS DISTINCT FROM w.turn)
                ORDER BY w.place LIMIT 16) AS ready
            UNION ALL
            SELECT w.key, w.subject, w.place FROM workflows AS w
            WHERE w.first AND w.not_before <= at AND w.kind || ' ' || w.kind_version = ANY (kinds)
                AND NOT EXISTS (SELECT FROM leases AS held
                    WHERE held.name = 'turn/' || w.subject AND held.until > at AND held.owner IS DISTINCT FROM w.turn)
            ORDER BY place
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
