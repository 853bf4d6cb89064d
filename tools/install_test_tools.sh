#!/usr/bin/env bash
# Installs the servers and the browser that the tests drive, when they are missing.
set -euo pipefail

declare -A packages=(
  [redis-server]=redis-server
  [chromium]=chromium
  [slapd]=slapd
  [nghttpd]=nghttp2-server
  [h2load]=nghttp2-client
  [systemd-analyze]=systemd
  [promtool]=prometheus
  [wrk]=wrk
  [ip]=iproute2
  [cc]=gcc
  [/usr/include/stdio.h]=libc6-dev
)
missing=()
for program in "${!packages[@]}"; do
  command -v "$program" >/dev/null || [ -x "/usr/sbin/$program" ] || [ -e "$program" ] || missing+=("${packages[$program]}")
done
[ "${#missing[@]}" -eq 0 ] && exit 0

if ! command -v apt-get >/dev/null; then
  echo "the tests need: ${missing[*]} (this machine has no apt-get; install them by hand)" >&2
  exit 1
fi
become=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "the tests need: ${missing[*]} (run as root: apt-get install ${missing[*]})" >&2
    exit 1
  fi
  become=(sudo)
fi
echo "installing ${missing[*]}"
"${become[@]}" apt-get update -qq
DEBIAN_FRONTEND=noninteractive "${become[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
