#!/usr/bin/env bash
# Makes the virtual environment from the lock file. Needs python3.11 and pip, nothing else.
set -euo pipefail
venv=$1
python=$(command -v python3.11 || command -v python3)
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check "uv==0.13.9"
VIRTUAL_ENV="$PWD/$venv" UV_PROJECT_ENVIRONMENT="$PWD/$venv" "$venv/bin/uv" sync --quiet --locked --inexact
