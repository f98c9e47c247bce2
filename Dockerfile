# The agent's image: one static binary and nothing else.
#
#   docker buildx build --platform linux/amd64,linux/arm64 -t REPOSITORY/host-firewall-agent:TAG .
#
# The builder runs on the machine's own platform and cross-compiles, so that no emulation is needed.
ARG GO_VERSION=1.26
FROM --platform=$BUILDPLATFORM golang:${GO_VERSION} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY agent agent
ARG TARGETOS=linux
ARG TARGETARCH=amd64
ARG VERSION=dev
# Smaller: client-go brings its own HTTP/2, so the one of net/http is left out, and the linker may drop the maps of k8s.io/api
# that nobody reads, which are documentation, however small each is. What is generated for protobuf there is never called,
# Prometheus' library with its own works when it is asked only, and an agent does little: of all that is not ours nothing is
# worth inlining, nor of what Go brings for networks and texts.
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/var/cache/go-build \
    GOCACHE=/var/cache/go-build CGO_ENABLED=0 GOOS=${TARGETOS} GOARCH=${TARGETARCH} \
    go build -trimpath -buildvcs=false -tags nethttpomithttp2 \
    -gcflags "k8s.io/api/...=-l -d=wrapglobalmapctl=2" -gcflags github.com/...=-l -gcflags google.golang.org/...=-l \
    -gcflags k8s.io/client-go/...=-l -gcflags k8s.io/apimachinery/...=-l -gcflags golang.org/...=-l \
    -gcflags go.yaml.in/...=-l -gcflags sigs.k8s.io/...=-l -gcflags vendor/golang.org/...=-l -gcflags net/...=-l \
    -gcflags encoding/...=-l -gcflags mime/...=-l -gcflags regexp/...=-l -gcflags log/...=-l -gcflags flag=-l -gcflags fmt=-l -gcflags go/...=-l \
    -ldflags "-s -w -X main.version=${VERSION}" -o /host-firewall-agent ./agent

FROM scratch
ARG VERSION=dev
LABEL org.opencontainers.image.title="host-firewall-agent"
LABEL org.opencontainers.image.description="Keeps a node's Calico host endpoint present, right and armed"
LABEL org.opencontainers.image.licenses="Apache-2.0"
LABEL org.opencontainers.image.version="${VERSION}"
# The agent has one thing to do at a time, and little more than a megabyte in use. What the runtime is told before it starts
# also holds for what packages do at their start, and for the memory that it has for each of a big node's processors.
# Without a depth of stacks it does not keep, page by page, a profile of its own locks that nobody can read.
ENV GOMAXPROCS=1 GOGC=25 GODEBUG=profstackdepth=0
COPY --from=build /host-firewall-agent /host-firewall-agent
USER 65532:65532
ENTRYPOINT ["/host-firewall-agent"]
