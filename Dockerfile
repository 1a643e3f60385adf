# The program with ONNX Runtime's library for processors, and the demo model.
FROM rust:1-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        cmake nasm pkg-config libssl-dev python3 python3-pip \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /tagstream
# What `tagstream --version` says where the context has no .git.
ARG TAGSTREAM_REVISION=
COPY . .
RUN export TAGSTREAM_CACHE=/opt/tagstream \
    && scripts/onnxruntime.sh \
    && TAGSTREAM_REVISION="$TAGSTREAM_REVISION" cargo build --release --locked \
    && PREFIX=/dist scripts/install.sh

# scripts/compose_test.sh builds what follows without what stands above.
FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libssl3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --create-home tagstream
COPY --from=build /dist/ /usr/local/
USER tagstream
ENTRYPOINT ["tagstream"]
CMD ["run", "--config", "/etc/tagstream/stage.toml"]
