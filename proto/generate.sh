#!/bin/sh
# Generates sri_libvirt/api from proto/. With --check: fails when the committed stubs are stale.
# protoc writes imports by top-level names ("machine", "meta"); they are rewritten into the package.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
"$python" -m grpc_tools.protoc -Iproto --python_out="$out" --pyi_out="$out" --grpc_python_out="$out" \
    proto/meta/v1alpha1/api.proto proto/machine/v1alpha1/api.proto
rm "$out/meta/v1alpha1/api_pb2_grpc.py"  # meta has no service
for dir in . meta meta/v1alpha1 machine machine/v1alpha1; do
    printf '"""Generated from proto/ by `make proto`; do not edit."""\n' >"$out/$dir/__init__.py"
done
find "$out" -name '*.py' -o -name '*.pyi' | xargs sed -i -E \
    's/^from (machine|meta)\.v1alpha1 import/from sri_libvirt.api.\1.v1alpha1 import/'
if [ "${1:-}" = --check ]; then
    diff -r -x __pycache__ "$out" sri_libvirt/api || { echo "sri_libvirt/api is stale: run 'make proto'" >&2; exit 1; }
else
    rm -rf sri_libvirt/api
    cp -r "$out" sri_libvirt/api
fi
