# The image with Berth: two static programs, and the pages by which a browser shows a screen.
#
#     docker build -t berth .
#
# Programs that are built already are taken from elsewhere by naming a stage, or an image that holds
# them in /programs:
#
#     docker build -t berth --build-arg PROGRAMS=IMAGE .

ARG DEBIAN=bookworm
ARG RUST=1.95
ARG PROGRAMS=build

FROM rust:${RUST}-slim-${DEBIAN} AS build
RUN rustup target add x86_64-unknown-linux-musl
WORKDIR /src
COPY . .
RUN cargo build --locked --release --target x86_64-unknown-linux-musl \
        --package berth-launcher --package berth-device-plugin \
    && install -D --target-directory=/programs \
        target/x86_64-unknown-linux-musl/release/berth \
        target/x86_64-unknown-linux-musl/release/berth-device-plugin

FROM ${PROGRAMS} AS programs

FROM debian:${DEBIAN}-slim AS files
# noVNC's package wants a server for its pages. Berth is one, so only its files are taken.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates libcap2-bin \
    && cd /tmp \
    && apt-get download novnc \
    && dpkg-deb --extract novnc_*.deb /tmp/novnc \
    && mkdir -p /files/usr/bin /files/usr/share/doc/novnc /files/etc/ssl/certs \
    && cp -a /tmp/novnc/usr/share/novnc /files/usr/share/ \
    && cp /tmp/novnc/usr/share/doc/novnc/copyright /files/usr/share/doc/novnc/ \
    && cp /etc/ssl/certs/ca-certificates.crt /files/etc/ssl/certs/ \
    && install --directory --owner=65532 --group=65532 /files/image
COPY --from=programs /programs/ /files/usr/bin/
COPY LICENSE /files/usr/share/doc/berth/copyright
# A user that is not root has a capability of its container only through the file that it runs.
# Permitted, not effective: without NET_ADMIN the program has to start all the same.
RUN setcap cap_net_admin=p /files/usr/bin/berth

FROM debian:${DEBIAN}-slim
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="Berth" \
      org.opencontainers.image.description="Runs one virtual machine per pod, on KVM" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=files /files/ /
# Not every runtime leaves a trace by which a program knows that it is in a container.
ENV container=oci
USER 65532:65532
EXPOSE 5900
ENTRYPOINT ["/usr/bin/berth"]
CMD ["run"]
