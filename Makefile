# Two commands are enough: `make demo` and `make test`.
.DEFAULT_GOAL := help
SHELL := /bin/bash

export GOFLAGS += -buildvcs=false

RUN     := go run ./tests/cluster/cmd/cluster
CHARTS  := charts
HELM_DOCS := go tool -modfile=tools/go.mod helm-docs --chart-search-root=$(CHARTS) --sort-values-order=file --log-level=warning
CHART_TESTING := github.com/helm/chart-testing/v3
VERSION ?= dev
ARCH    ?= $(shell go env GOARCH)

.PHONY: help
help: ## show this help
	@awk 'BEGIN {FS = ":.*## "; print "host-firewall: make TARGET\n"} /^[a-z0-9-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## start a real cluster, protect it, measure who reaches what, take it all away (root; KEEP=1 keeps it)
	@go run ./tests/cluster/cmd/demo

.PHONY: test
test: lint unit ## every check and every test (root)
	@# The tests on clusters wait more than they work, so a release is tried meanwhile, by what they leave of the machine.
	@mkdir -p dist; jobs=$(E2E_JOBS); \
	  nice -n 19 $(MAKE) --no-print-directory test-release >dist/test-release.log 2>&1 & release=$$!; \
	  $(MAKE) --no-print-directory e2e E2E_JOBS=$$jobs; failed=$$?; \
	  wait $$release && echo "test-release passed" || { failed=$$?; cat dist/test-release.log; }; exit $$failed

.PHONY: check
check: lint unit ## what to run before each commit: all of make test, but of the tests on a cluster one (root; uses the cluster that is up)
	go test -count=1 -run='^TestInstallProtectsAndUninstallLeavesNothing$$' ./tests/kind

.PHONY: lint
lint: lint-chart ## formatting, vet, static checks, the chart and its README
	@test -z "$$(gofmt -l agent tests)" || { echo "not formatted:"; gofmt -l agent tests; exit 1; }
	go vet ./... && go -C tests/alerts vet ./...
	go tool -modfile=tools/go.mod staticcheck ./...
	go tool -modfile=tools/go.mod actionlint .github/workflows/*.yml
	@$(HELM_DOCS) --dry-run | diff charts/host-firewall/README.md - || { echo "the chart's README is not what its values say: make docs"; exit 1; }

# The rules are chart-testing's own. What checks Chart.yaml against its schema, yamale, is no package of Debian's: CI has it.
.PHONY: lint-chart
lint-chart: ## what chart-testing says to the chart with each of its example values
	@command -v yamllint >/dev/null || { \
	  echo "installing Debian package: yamllint"; \
	  apt-get update >/dev/null && apt-get install --yes --no-install-recommends yamllint >/dev/null; }
	go build -modfile=tools/go.mod -o dist/tools/ helm.sh/helm/v3/cmd/helm $(CHART_TESTING)/ct
	@PATH=$(CURDIR)/dist/tools:$$PATH ct lint --config=ct.yaml --all --validate-chart-schema=false \
	  --lint-conf=$$(go list -modfile=tools/go.mod -m -f '{{.Dir}}' $(CHART_TESTING))/etc/lintconf.yaml >dist/ct-lint.log 2>&1 || { cat dist/ct-lint.log; exit 1; }

.PHONY: docs
docs: ## write the chart's README anew, from README.md.gotmpl and values.yaml
	@$(HELM_DOCS)

.PHONY: name-image
name-image: ## let the chart name another image wherever it names one (IMAGE=registry/name DIGEST=sha256:...); what a release does
	sed --in-place 's|^    repository: host-firewall/agent$$|    repository: $(IMAGE)|; s|^    digest: ""$$|    digest: $(DIGEST)|' $(CHARTS)/host-firewall/values.yaml
	sed --in-place 's|image: host-firewall/agent:.*|image: $(IMAGE)@$(DIGEST)|' $(CHARTS)/host-firewall/Chart.yaml
	@$(HELM_DOCS)

.PHONY: unit
unit: compiler ## tests that need neither root nor a cluster; those of concurrent code with the race detector
	go test -race ./agent/... ./tests/cluster/...
	go test ./tests/helm/... ./tests/pages
	go -C tests/alerts test ./...

.PHONY: test-release
test-release: ## make release and make verify-release, with a registry that is run for it
	go test -count=1 -timeout=30m ./tests/release

# The race detector links C.
.PHONY: compiler
compiler:
	@command -v $$(go env CC) >/dev/null || { \
	  echo "installing Debian packages: gcc libc6-dev"; \
	  apt-get update >/dev/null && apt-get install --yes --no-install-recommends gcc libc6-dev >/dev/null; }

.PHONY: e2e
e2e: ## packets and lifecycle on real clusters that are started for it (root; CLUSTER=kind: on one in Docker containers)
ifeq ($(CLUSTER),kind)
	go test -count=1 -timeout=90m -v ./tests/kind
else
	@$(RUN) build
	@$(MAKE) --no-print-directory image # once, so that all parts find it built
	go test -c -o dist/kind.test ./tests/kind
	@rm -f dist/e2e-*.log
	@jobs=$(E2E_JOBS); [ $$jobs = 1 ] && parts=e2e-all || parts="e2e-a e2e-b e2e-c"; \
	  $(MAKE) --no-print-directory --jobs=$$jobs --keep-going $$parts || { \
	  echo "failed (all that was said: dist/e2e-*.log):"; \
	  grep --no-filename --extended-regexp --after-context=3 -e '--- FAIL' -e 'Error Trace:' -e '^panic' dist/e2e-*.log \
	    | tr --squeeze-repeats '[:blank:]' ' ' | cut --characters=-200 | tail --lines=20; exit 1; }
endif

# The tests wait more than they work, so three parts of them run beside each other, each on a cluster of its own. A cluster starts programs
# all the time. Where that takes more than two milliseconds, as in some virtual machines, the parts would only keep each other from working:
# there all is one part. What has to happen within some time gets three times as long either way: `go test ./tests/kind` alone is strict.
E2E_JOBS ?= $(shell start=$$(date +%s%N); for i in $$(seq 100); do /bin/true; done; \
  [ $$(( $$(date +%s%N) - start )) -lt 200000000 ] && echo 3 || echo 1)
E2E_A := ^Test(Every|ReleaseIs|ReleaseWaits|ReleaseGoes|Upgrade|ChartTesting|Agent)
E2E_B := ^Test(Promises|Calico|ReleaseMoves|Matrix|Node|Open|Endpoints|Who|Preview|Packets|Flux|Faults|Argo)
.PHONY: e2e-all e2e-a e2e-b e2e-c
e2e-a: E2E_SHARE := -test.run='$(E2E_A)'
e2e-b: E2E_SHARE := -test.run='$(E2E_B)'
e2e-c: E2E_SHARE := -test.skip='$(E2E_A)|$(E2E_B)'
e2e-all e2e-a e2e-b e2e-c:
	@CLUSTER_NAME=$@ $(RUN) down >/dev/null
	@set -o pipefail; CLUSTER_NAME=$@ E2E_PARTS=3 dist/kind.test -test.v -test.timeout=90m $(E2E_SHARE) 2>&1 | tee dist/$@.log | sed --unbuffered 's/^/$@: /'

.PHONY: upgrades
upgrades: ## upgrade from each values file in the chart's ci to each other one and back, and kill upgrades at many moments, on a real cluster (root, hours)
	UPGRADES=all go test -count=1 -timeout=10h -v -run='TestEveryValuesFile|Killed' ./tests/kind

.PHONY: values
values: ## measure 100 random values against what verdict says of them, and upgrade a release through them, on a real cluster (root, an hour)
	VALUES=100 go test -count=1 -timeout=3h -v -run='RandomValues|AnyValues' ./tests/kind

.PHONY: bench
bench: ## measure agent and alternatives, write docs/benchmarks.* (root, 1 hour; quick: BENCH_IDLE=30s BENCH_ROUNDS=20 SCALE=200)
	@go run ./tests/cluster/cmd/bench

.PHONY: image
image: ## build the agent's image as dist/host-firewall-agent-$(ARCH).tar (ARCH=arm64 cross-compiles)
	@go run ./tests/cluster/cmd/image host-firewall/agent:$(VERSION) dist/host-firewall-agent-$(ARCH).tar $(ARCH)

.PHONY: release
release: ## publish image (amd64, arm64, SBOMs) and chart, signed (VERSION=0.1.0 REGISTRY=registry.example.org/somebody KEY=cosign.key; no KEY: as the workflow)
	@tools/release/publish

.PHONY: verify-release
verify-release: ## verify what was published (VERSION=0.1.0 REGISTRY=registry.example.org/somebody, KEY=cosign.pub or WORKFLOW=https://...)
	@tools/release/verify

.PHONY: cluster-up
cluster-up: ## start the test cluster (root); KUBECONFIG=.cluster/kubeconfig (CALICO_API=v3: with Calico's aggregated API server)
	@$(RUN) up $(if $(CALICO_API),--calico-api)

.PHONY: cluster-status
cluster-status: ## show the test cluster's hosts and nodes
	@$(RUN) status

.PHONY: cluster-down
cluster-down: ## remove the test cluster, also one that was cut off
	@$(RUN) down

.PHONY: kind-up
kind-up: ## start a cluster of the kind project with Calico (root, docker, kind, kubectl; KUBERNETES_VERSION=, CALICO_VERSION=)
	@go run ./tests/cluster/cmd/kind up

.PHONY: kind-down
kind-down: ## remove the cluster of kind-up
	@go run ./tests/cluster/cmd/kind down
