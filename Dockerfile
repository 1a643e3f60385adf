# The program with ONNX Runtime's library for processors, and the demo model. It runs as nobody in
# particular and writes below /tmp and $TAGSTREAM_CACHE alone: its root file system can be read-only
# (`docker run --read-only --tmpfs /tmp`).
#
#   docker build -t tagstream .                              from the sources
#   make dist && docker build --build-arg FROM=archive -t tagstream .     from the archive in dist/
#
# HEIC is decoded by libde265 of the distribution. The same for GPUs: Dockerfile.cuda.
ARG FROM=sources

FROM rust:1-bookworm AS sources
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        binutils cmake nasm pkg-config libssl-dev python3 python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /tagstream
# What `tagstream --version` says where the context has no .git.
ARG TAGSTREAM_REVISION=
COPY . .
RUN export TAGSTREAM_CACHE=/opt/tagstream TAGSTREAM_REVISION SOURCE_DATE_EPOCH=0 DIST=/out \
    && scripts/dist.sh build && scripts/dist.sh pack \
    && mkdir /unpacked && tar -xzf /out/tagstream-*.tar.gz -C /unpacked --strip-components=1

FROM debian:bookworm-slim AS archive
ADD dist/tagstream-*.tar.gz /packed/
RUN mv /packed/tagstream-* /unpacked

FROM ${FROM} AS made

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libde265-0 libstdc++6 \
    && rm -rf /var/lib/apt/lists/* /var/log/* /var/cache/* \
    && useradd --system --uid 10001 --home-dir /nonexistent tagstream \
    && install -d -o tagstream /var/cache/tagstream
COPY --from=made /unpacked/ /usr/local/
# Models of the registry, features and checkpoints. A volume at /var/cache/tagstream keeps them.
ENV TAGSTREAM_CACHE=/tmp/tagstream
USER 10001
ENTRYPOINT ["tagstream"]
CMD ["run", "--config", "/etc/tagstream/stage.toml"]
