-- A claim looks only at what can be claimed, however much else is open.

-- 1 for the first of a subject of which none is active.
ALTER TABLE workflows ADD COLUMN first INTEGER NOT NULL DEFAULT 0;
-- From when on it can be claimed; NULL once a claim has found that this is past.
ALTER TABLE workflows ADD COLUMN later INTEGER;

UPDATE workflows SET first = 1
    WHERE state = 'queued'
    AND NOT EXISTS (SELECT 1 FROM workflows AS other WHERE other.state = 'active' AND other.subject = workflows.subject)
    AND NOT EXISTS (SELECT 1 FROM workflows AS other
        WHERE other.state = 'queued' AND other.subject = workflows.subject AND other.place < workflows.place);
UPDATE workflows SET later = nullif(max(coalesce(lease_until, 0), coalesce(not_before, 0)), 0)
    WHERE state IN ('queued', 'active');

DROP INDEX workflows_queued;
CREATE INDEX workflows_first  ON workflows (subject) WHERE first = 1;
CREATE INDEX workflows_ready  ON workflows (state, kind, kind_version, place) WHERE later IS NULL AND (state = 'active' OR first = 1);
CREATE INDEX workflows_unripe ON workflows (later)   WHERE later IS NOT NULL;
