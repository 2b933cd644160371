#!/bin/sh
# In the virtual machine (and in the tree of a new box): the project's Python environment in /opt/sri-libvirt/venv, with
# this checkout installed as editable. Quick when the project's packages have not changed, and offline when there is an
# environment. Root.
set -eu

checkout=$(cd "$(dirname "$0")/.." && pwd)
home=/opt/sri-libvirt
python=$home/venv/bin/python

# `make VENV=/opt/sri-libvirt/venv` takes it as it is: the stamp is the Makefile's.
stamp_for_make() {
    cd "$checkout"
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    stamp=$({ cat pyproject.toml; echo "$version"; pwd; } | sha256sum | cut -c -16)
    rm -f "$home"/venv/installed*
    touch "$home/venv/installed-$stamp" "$home/venv/installed[dev]-$stamp"
}

project=$(sed -n '/^\[build-system\]/,/^\[tool\./{s/ *#.*//;/./p}' "$checkout/pyproject.toml")
digest=$(echo "$checkout" "$project" | sha256sum | cut -c -16)
if [ "$(cat "$home/installed" 2>/dev/null)" = "$digest" ]; then
    stamp_for_make
    exit 0
fi

pip() { "$python" -m pip --disable-pip-version-check "$@"; }

mkdir -p "$home"
if [ ! -x "$python" ]; then
    python3 -m venv "$home/venv"
    pip install -q -e "${checkout}[dev]" hatchling editables
else
    pip install -q --no-deps --no-build-isolation --no-index -e "$checkout"
    if ! pip check; then
        echo "refresh: the dependencies in pyproject.toml are newer than this machine: make box, vm-destroy, vm" >&2
        exit 1
    fi
fi
echo "$digest" >"$home/installed"
stamp_for_make
