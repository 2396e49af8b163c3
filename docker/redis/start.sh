#!/bin/sh
# Starts Redis with docker/redis/redis.conf and the password from its file, so that neither the
# environment nor the process list shows it. Arguments win over the file.
set -eu
password=$(sed 's/[\\"]/\\&/g' "${REDIS_PASSWORD_FILE:-/run/secrets/redis_password}")
exec "${REDIS_SERVER:-redis-server}" - "$@" <<EOF
include "${REDIS_CONF:-/usr/local/etc/redis/redis.conf}"
requirepass "$password"
EOF
