#!/usr/bin/env bash
# Records the state directory of the code that is checked out, for tests/e2e/test_older_state.py.
#
#   git worktree add /opt/engineshed v0.1.0 && cd /opt/engineshed && make setup
#   unshare --uts bash -c 'hostname recorded && bash <this file> <path>/0.1.0.tar.xz'
#
# The neutral folder and host name are there because both are recorded. Weights are left out: the
# sample's are in the package. Engines, logs and Triton's copy are made again.
set -euo pipefail
archive=$(realpath -m "$1")
mkdir -p "${archive%/*}"
state=/var/lib/engineshed
test ! -e "$state" || { echo "$state exists; move it away" >&2; exit 1; }
export ENGINESHED_STATE_DIR=$state PATH="${SHED_BIN:-$PWD/.venv/bin}:$PATH"

shed up --state-dir "$state" --http-port 8190 &
stack=$!
until curl --silent --fail --output /dev/null http://127.0.0.1:8190/healthz; do sleep 0.5; done
for name in kept halted gone; do shed deploy engineshed/sample --name "$name" --wait; done
shed chat kept 'What is an engine shed?'
shed endpoints stop halted
shed endpoints delete gone --yes
shed orgs create acme
shed token create reader --org acme --scope endpoints:read --output json > "$state/reader.json"
until shed endpoints get halted --output json | grep --quiet '"stopped"'; do sleep 0.5; done
kill -TERM "$stack"
wait "$stack"

tar --create --xz --file "$archive" --directory "$state" --sort=name --owner=0 --group=0 \
  --exclude='*.safetensors' --exclude='*ENGINESHED_LOGS*' --exclude=./logs --exclude=./lock \
  --exclude=./agent/engines --exclude='./agent/triton*' \
  --exclude='./agent/replicas/*/*.log' --exclude='./agent/replicas/*/models' .
rm -r "$state"
