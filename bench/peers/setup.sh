#!/usr/bin/env bash
# Installs what the benchmark runs beside Studio: the load generator (a Debian package) and the peers (npm).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
missing=()
for program in wrk curl; do
    command -v "$program" >/dev/null || missing+=("$program")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "installing Debian packages: ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
if ! cmp -s "$here/package-lock.json" "$here/node_modules/.synced" 2>/dev/null; then
    echo "installing the peers from npm (0.6 GB)"
    # DBHub wants a newer Node than Debian's npm runs on; the one it gets is among the packages.
    npm ci --prefix "$here" --silent --no-audit --no-fund --engine-strict=false --ignore-scripts
    cp "$here/package-lock.json" "$here/node_modules/.synced"
fi
