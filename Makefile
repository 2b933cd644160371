# Two commands for a fresh Debian or Ubuntu host: `make demo` and `make test`. `make help` lists all.
# Settings: SUDO (how to become root), PYTHON, VENV, PYTEST_ARGS, SERVE_ARGS, BENCH_ARGS; of virtual machines RELEASE
# (bookworm, trixie), KEEP=1, VM_ARGS (pytest's, such as -k).

SHELL = /bin/sh
.DEFAULT_GOAL = help
MAKEFLAGS += --no-print-directory

SUDO ?= $(if $(filter 0,$(shell id -u)),,sudo)
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PYTEST_ARGS ?= -n auto --maxprocesses 4 --dist worksteal
SERVE_ARGS ?=
BENCH_ARGS ?=
RELEASE ?= trixie
VM_ARGS ?=
VM = $(SUDO) env KEEP="$(KEEP)" vagrant/vm.sh

# $(call install,EXTRAS): the project and its extras in .venv, quickly when neither pyproject.toml nor Python changed.
define install
@set -eu; \
version=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
stamp="$(VENV)/installed$(1)-$$({ cat pyproject.toml; echo "$$version"; pwd; } | sha256sum | cut -c -16)"; \
[ ! -e "$$stamp" ] || exit 0; \
[ -x $(BIN)/python ] && [ -e $(VENV)/lib/python$$version ] || $(PYTHON) -m venv --clear $(VENV); \
echo "installing sri-libvirt$(1) into $(VENV)"; \
$(BIN)/python -m pip install -q --disable-pip-version-check -e '.$(1)'; \
touch "$$stamp"
endef

.PHONY: help setup setup-test setup-vm demo run test test-all box vm vm-ssh vm-destroy test-vm bench lint proto clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

setup: ## Install packages and make .venv: all that `demo` and `run` need
	@$(SUDO) vagrant/provision.sh runtime
	$(call install)

setup-test: ## The same, with what the test suite needs
	@$(SUDO) vagrant/provision.sh test
	$(call install,[dev])

demo: setup ## Boot a machine through the SRI, power it off and on, delete it, prove that nothing is left
	@$(SUDO) $(BIN)/python -m deploy.demo

run: setup ## Serve in the foreground (SERVE_ARGS="--image-dir DIR")
	@$(SUDO) vagrant/provision.sh start >/dev/null
	$(SUDO) $(BIN)/sri-libvirt serve $(SERVE_ARGS)

test: setup-test ## The whole suite: style, types, stubs, unit, contract and real guests
	@$(MAKE) lint
	$(SUDO) $(BIN)/python -m pytest $(PYTEST_ARGS)

test-all: setup-test ## The whole suite, and every failpoint on real guests: hours
	@$(MAKE) lint
	$(SUDO) $(BIN)/python -m pytest $(PYTEST_ARGS) --matrix

setup-vm: # what the targets below need on this host
	@$(SUDO) vagrant/provision.sh vm

box: setup-vm ## Build the box of RELEASE (bookworm, trixie) for virtual machines without the network
	@$(SUDO) vagrant/box.sh $(RELEASE)

vm: setup-vm ## Make and start a virtual machine of RELEASE that is a whole host, with KVM in it; or bring this tree into it
	@$(VM) up $(RELEASE)

vm-ssh: ## A shell in it
	@$(VM) ssh $(RELEASE)

vm-destroy: ## End and forget it
	@$(VM) destroy $(RELEASE)

test-vm: setup-test setup-vm ## Run tests/vm on a whole host of RELEASE: systemd, KVM, AppArmor, reboots (KEEP=1 keeps it)
	@$(VM) test $(RELEASE) $(VM_ARGS)

bench: setup-test ## Measure the provider, some minutes; the table also goes to build/bench.txt and bench.json
	$(SUDO) $(BIN)/python -m bench $(BENCH_ARGS)

lint: ## Style, types, and whether the generated stubs are fresh
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	sh proto/generate.sh --check

proto: ## Generate sri_libvirt/api from proto/
	sh proto/generate.sh

clean: ## Remove what was built; .venv and virtual machines too
	@for release in bookworm trixie; do [ ! -e build/vm/$$release/driver ] || $(VM) destroy $$release; done
	[ ! -e build/box ] || $(SUDO) rm -rf build/box build/vm
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find sri_libvirt tests deploy bench -name __pycache__ -type d -prune -exec rm -rf {} +
