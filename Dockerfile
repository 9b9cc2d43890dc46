# docker build -t bifocal .
# docker run -p 8080:8080 -e BIFOCAL_API_KEY=… -v $PWD/photos:/photos:ro -v $PWD/store:/store -v $PWD/models:/models:ro bifocal
#
# The store names its pictures by path: index inside the container too, with the same mounts:
#   docker run … bifocal index --model /models/my-model --store /store /photos
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# --build-arg FEATURES=postgres: for stores in PostgreSQL
ARG FEATURES=""
RUN cargo build --release --locked --features "$FEATURES" && cp target/release/bifocal /bifocal

FROM debian:bookworm-slim
# uid 10001 has to be able to write where the store is
RUN useradd --system --uid 10001 --home-dir /store bifocal && mkdir /store && chown bifocal /store
COPY --from=build /bifocal /usr/local/bin/bifocal
COPY LICENSE-APACHE LICENSE-MIT /usr/share/doc/bifocal/
USER bifocal
WORKDIR /store
VOLUME /store
ENV BIFOCAL_MODELS=/models
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/bifocal"]
CMD ["serve", "--store", "/store", "--listen", "0.0.0.0:8080"]
