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
RUN TAGSTREAM_CACHE=/opt/tagstream scripts/onnxruntime.sh \
    && TAGSTREAM_REVISION="$TAGSTREAM_REVISION" cargo build --release --locked

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libssl3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --create-home tagstream
COPY --from=build /tagstream/target/release/tagstream /usr/local/bin/tagstream
COPY --from=build /opt/tagstream/onnxruntime-1.31.1/ /usr/local/lib/tagstream/
COPY --from=build /tagstream/models/demo-clip/ /usr/local/share/tagstream/models/demo-clip/
ENV ORT_DYLIB_PATH=/usr/local/lib/tagstream/libonnxruntime.so.1.31.1
USER tagstream
ENTRYPOINT ["tagstream"]
CMD ["run", "--config", "/etc/tagstream/stage.toml"]
