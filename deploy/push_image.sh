#!/usr/bin/env bash
# Push the image that was checked under the name of the tag v1.2.3, from the workflow: `make push-image`
set -euo pipefail
[[ "${GITHUB_REF_NAME:-}" =~ ^v([0-9]+\.[0-9]+\.[0-9]+)$ ]] || { echo 'An image is pushed for a tag such as v1.2.3.'; exit 1; }
version=${BASH_REMATCH[1]}
name=ghcr.io/${GITHUB_REPOSITORY,,}
docker login ghcr.io --username "$GITHUB_ACTOR" --password-stdin <<< "$TOKEN"
trap 'docker logout ghcr.io > /dev/null' EXIT
for tag in "$version" latest; do
    docker tag imgclf-serve "$name:$tag"
    docker push "$name:$tag"
done
