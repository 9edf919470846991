#!/bin/sh
# Users of the records with as few rights as their work needs. The image runs this once, when the volume is new;
# after a password in .env has changed:
#   docker compose up -d mysql && docker compose exec mysql sh /docker-entrypoint-initdb.d/users.sh
# Passwords come by the environment and leave by standard input: neither a log nor a list of processes has them.
set -eu
MYSQL_PWD=$MYSQL_ROOT_PASSWORD mysql --protocol=socket --user=root <<SQL
CREATE USER IF NOT EXISTS marquee_owner, marquee, marquee_reader;
ALTER USER marquee_owner IDENTIFIED BY '$MARQUEE_MYSQL_OWNER_PASSWORD',
           marquee IDENTIFIED BY '$MARQUEE_MYSQL_APP_PASSWORD',
           marquee_reader IDENTIFIED BY '$MARQUEE_MYSQL_READER_PASSWORD';
REVOKE ALL PRIVILEGES, GRANT OPTION FROM marquee_owner, marquee, marquee_reader;
-- Migrations change tables, and now and then the rows in them.
GRANT CREATE, ALTER, DROP, INDEX, REFERENCES, SELECT, INSERT, UPDATE, DELETE ON records.* TO marquee_owner;
-- Recorder, releases, housekeeping.
GRANT SELECT, INSERT, UPDATE, DELETE ON records.* TO marquee;
-- The page of receipts.
GRANT SELECT ON records.* TO marquee_reader;
SQL
echo "users of the records: marquee_owner, marquee, marquee_reader"
