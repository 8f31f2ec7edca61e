-- One table for each kind of rows, all of one shape; bodies are JSON that only the engine reads.
CREATE TABLE apps      (key TEXT NOT NULL PRIMARY KEY, parent TEXT NOT NULL, rev INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
CREATE TABLE releases  (key TEXT NOT NULL PRIMARY KEY, parent TEXT NOT NULL, rev INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
CREATE TABLE addons    (key TEXT NOT NULL PRIMARY KEY, parent TEXT NOT NULL, rev INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
CREATE TABLE routes    (key TEXT NOT NULL PRIMARY KEY, parent TEXT NOT NULL, rev INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
CREATE TABLE artifacts (key TEXT NOT NULL PRIMARY KEY, parent TEXT NOT NULL, rev INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
CREATE TABLE domains   (key TEXT NOT NULL PRIMARY KEY, parent TEXT NOT NULL, rev INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
CREATE TABLE platform  (key TEXT NOT NULL PRIMARY KEY, parent TEXT NOT NULL, rev INTEGER NOT NULL, body TEXT NOT NULL) STRICT;

CREATE INDEX apps_by_parent      ON apps      (parent, key);
CREATE INDEX releases_by_parent  ON releases  (parent, key);
CREATE INDEX addons_by_parent    ON addons    (parent, key);
CREATE INDEX routes_by_parent    ON routes    (parent, key);
CREATE INDEX artifacts_by_parent ON artifacts (parent, key);
CREATE INDEX domains_by_parent   ON domains   (parent, key);
CREATE INDEX platform_by_parent  ON platform  (parent, key);

-- Times are microseconds since 1970.
CREATE TABLE workflows (
    key          TEXT NOT NULL PRIMARY KEY,
    parent       TEXT NOT NULL,
    rev          INTEGER NOT NULL,
    body         TEXT NOT NULL,
    subject      TEXT NOT NULL,
    kind         TEXT NOT NULL,
    kind_version INTEGER NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('queued', 'active', 'parked', 'ended')),
    not_before   INTEGER,
    turn         TEXT,
    place        INTEGER NOT NULL,
    owner        TEXT,
    fence        INTEGER NOT NULL,
    lease_until  INTEGER
) STRICT;

CREATE INDEX workflows_by_parent ON workflows (parent, key);

-- What has ended is in none of these, so their cost doesn't grow with history.
CREATE INDEX workflows_open           ON workflows (key)             WHERE state <> 'ended';
CREATE INDEX workflows_open_by_parent ON workflows (parent, key)     WHERE state <> 'ended';
CREATE INDEX workflows_queued         ON workflows (place)           WHERE state = 'queued';
CREATE INDEX workflows_waiting        ON workflows (subject, place)  WHERE state = 'queued';
CREATE INDEX workflows_later          ON workflows (not_before)      WHERE state = 'queued' AND not_before IS NOT NULL;
CREATE INDEX workflows_running        ON workflows (subject)         WHERE state = 'active';
-- By the time from which somebody else may claim them.
CREATE INDEX workflows_active         ON workflows (max(coalesce(lease_until, 0), coalesce(not_before, 0))) WHERE state = 'active';

CREATE TABLE leases (name TEXT NOT NULL PRIMARY KEY, owner TEXT NOT NULL, until INTEGER NOT NULL) STRICT;
CREATE INDEX turns_by_end ON leases (until) WHERE name >= 'turn/' AND name < 'turn0';

-- The newest event is never deleted, so no place is given twice.
CREATE TABLE events (seq INTEGER NOT NULL PRIMARY KEY, subject TEXT NOT NULL, body TEXT NOT NULL) STRICT;
CREATE INDEX events_by_subject ON events (subject, seq);

CREATE TABLE counters (name TEXT NOT NULL PRIMARY KEY, value INTEGER NOT NULL) STRICT;
INSERT INTO counters VALUES ('place', 0);
