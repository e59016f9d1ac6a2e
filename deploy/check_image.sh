#!/usr/bin/env bash
# Train and export a miniature, serve it from the image on a read-only disk, ask, and stop: `make check-image`
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${VENV:-.venv}/bin
folder=$(mktemp -d)
name=imgclf-check-$$
trap 'docker rm --force "$name" > /dev/null 2>&1 || true; rm -rf "$folder"' EXIT

export IMGCLF_RUNS=$folder/runs IMGCLF_RECORDS=$folder/records HF_HUB_OFFLINE=1
mkdir "$IMGCLF_RUNS" "$IMGCLF_RECORDS"
"$bin"/imgclf_run pc_parts_mini --run check
"$bin"/imgclf_export check
"$bin"/python -c 'from imgclf_nb.data import get_items; print(get_items("pc_parts_mini").path[0])' | tail -n 1 > "$folder/image"
head -c 24 /dev/urandom | base64 > "$folder/api_key"
chmod -R a+rX "$folder"

docker run --detach --name "$name" --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges \
    --publish 127.0.0.1:8000:8000 --volume "$IMGCLF_RUNS:/runs:ro" --volume "$folder/api_key:/api_key:ro" --tmpfs /records:uid=10001 \
    imgclf-serve check --api-key-file=/api_key > /dev/null
"$bin"/python deploy/smoke.py http://127.0.0.1:8000 "$(cat "$folder/image")" "$folder/api_key" || { docker logs "$name"; exit 1; }
docker exec "$name" python -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is not None)'
docker stop --time 30 "$name" > /dev/null
code=$(docker inspect --format '{{.State.ExitCode}}' "$name")
[ "$code" = 0 ] || { echo "It ended with exit code $code when it was stopped."; docker logs "$name"; exit 1; }
docker image inspect --format '{{.Size}} bytes' imgclf-serve
