#!/bin/sh
# Begins as the official image does: makes the data with POSTGRES_USER, POSTGRES_PASSWORD and POSTGRES_DB where there is
# none, hands it to the user `postgres`, and becomes the server.
set -eu
[ "${1:-}" = postgres ] || exec "$@"
if [ "$(id -u)" = 0 ]; then
	mkdir -p "$PGDATA"
	chown -R postgres "$PGDATA"
	chmod 700 "$PGDATA"
	exec /usr/local/bin/setpriv --reuid=postgres --regid=postgres --clear-groups "$0" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
	[ -n "${POSTGRES_PASSWORD:-}" ] || { echo "Error: no POSTGRES_PASSWORD is given" >&2; exit 1; }
	printf '%s' "$POSTGRES_PASSWORD" > /tmp/password
	# The arguments are words.
	# shellcheck disable=SC2086
	initdb --username="${POSTGRES_USER:-postgres}" --pwfile=/tmp/password ${POSTGRES_INITDB_ARGS:-}
	rm /tmp/password
	echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
	echo "listen_addresses = '*'" >> "$PGDATA/postgresql.conf"
fi
exec "$@"
