#!/bin/sh
# Starts a plane in a container: `serve PLANE`, `run`, or any other command of doorward's.
#
# The data folder must belong to the user that runs this, which the folder of a mount often does not. So it is one below the mount,
# and the secrets are linked into it: the links keep pointing at what the platform puts there when secrets are rotated.
#
#   DOORWARD_CONFIG    configuration file or folder (/etc/doorward/config/doorward.yaml)
#   DOORWARD_STATE     writable mount (/var/lib/doorward)
#   DOORWARD_SECRETS   read-only mount with keys/ and planes/PLANE/ (/etc/doorward/secrets)
#   DOORWARD_HEALTH    HOST:PORT for probes and metrics (0.0.0.0:9180)
set -eu

config=${DOORWARD_CONFIG:-/etc/doorward/config/doorward.yaml}
state=${DOORWARD_STATE:-/var/lib/doorward}
secrets=${DOORWARD_SECRETS:-/etc/doorward/secrets}
health=${DOORWARD_HEALTH:-0.0.0.0:9180}
data=$state/data

umask 077
mkdir -p "$data"
chmod 0700 "$data"
for part in keys planes; do
  if [ -d "$secrets/$part" ]; then
    ln -sfn "$secrets/$part" "$data/$part"
  fi
done

case "${1:-}" in
  serve)
    shift
    exec doorward serve "$@" --config "$config" --data "$data" --health "$health"
    ;;
  run)
    shift
    exec doorward run "$@" --config "$config" --data "$data"
    ;;
  *)
    exec doorward "$@"
    ;;
esac
