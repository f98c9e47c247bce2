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
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=${TARGETOS} GOARCH=${TARGETARCH} \
    go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=${VERSION}" -o /host-firewall-agent ./agent

FROM scratch
ARG VERSION=dev
LABEL org.opencontainers.image.title="host-firewall-agent"
LABEL org.opencontainers.image.description="Keeps a node's Calico host endpoint present, right and armed"
LABEL org.opencontainers.image.licenses="Apache-2.0"
LABEL org.opencontainers.image.version="${VERSION}"
COPY --from=build /host-firewall-agent /host-firewall-agent
USER 65532:65532
ENTRYPOINT ["/host-firewall-agent"]
