#!/bin/sh
# Deploys the stack, after `make secrets`: PENSTOCK_IMAGE=registry.example/penstock:1.2 docker/swarm/deploy.sh [NAME]
#
# `docker stack` reads no .env, takes quotes in a file of variables for part of the value, and refuses empty secrets.
set -eu
export SECRETS_DIR="${SECRETS_DIR:-.secrets}"
for secret in "$SECRETS_DIR"/*_password "$SECRETS_DIR"/*_key "$SECRETS_DIR"/*_token; do
  [ -s "$secret" ] || echo > "$secret"
done
sed -e "s/^\([A-Z0-9_]*\)='\(.*\)'\$/\1=\2/" -e 's/^\([A-Z0-9_]*\)="\(.*\)"$/\1=\2/' \
  "$SECRETS_DIR/settings.env" > "$SECRETS_DIR/stack.env"
while IFS= read -r line; do export "${line?}"; done < "$SECRETS_DIR/stack.env"
exec docker stack deploy --with-registry-auth -c docker/swarm/stack.yaml "${1:-penstock}"
