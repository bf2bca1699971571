# The server as an image: Python packages by hash, jemalloc, and speech models with compiled graphs. It runs as an ordinary
# user, needs no writable root, and keeps what it finds out about models in /var/cache/trio-stt. docs/deploy.md has the use.
#
#   docker build --tag trio-stt .                                with the English model
#   docker build --build-arg MODELS="en de" --tag trio-stt .     with more languages
#   docker build --build-arg MODELS= --tag trio-stt .            with none: mount a folder on /opt/trio-stt/models

FROM debian:bookworm-slim AS base
# No versions: each build takes the distribution's security updates.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates libjemalloc2 python3 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/trio-stt

FROM base AS build
ENV PIP_NO_CACHE_DIR=1
COPY pyproject.toml ./
COPY requirements requirements
COPY scripts scripts
# The package's metadata wants a README; the real one would have all packages installed anew at each change of it.
# Which packages: of the server, or of the LiveKit agent, too.
ARG PACKAGES=server
RUN touch README.md && mkdir trio_stt agent && touch trio_stt/__init__.py agent/__init__.py \
    && case "${PACKAGES}" in \
        server) ./scripts/setup.sh --skip-models ;; \
        agent) ./scripts/setup.sh --skip-models --agent ;; \
        *) echo "PACKAGES is server or agent" >&2; exit 1 ;; \
    esac
# What `trio-stt models` needs: a change elsewhere in the source does not compile the graphs anew.
COPY trio_stt/__init__.py trio_stt/__main__.py trio_stt/redis_address.py trio_stt/settings.py trio_stt/
COPY trio_stt/models trio_stt/models
COPY trio_stt/operations trio_stt/operations
ARG MODELS=en
RUN mkdir --parents models \
    && for language in ${MODELS}; do LANGUAGE="${language}" ./scripts/setup.sh || exit 1; done \
    && rm -rf models/.[!.]*
COPY trio_stt trio_stt
COPY agent agent
# The checkout's own permissions may be narrower than the server's user needs.
RUN .venv/bin/python -m compileall -q trio_stt agent && chmod --recursive a+rX .venv models trio_stt agent

FROM base AS server
RUN groupadd --gid 10001 trio-stt \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin trio-stt \
    && install --directory --owner=10001 --group=10001 /var/cache/trio-stt
COPY --from=build /opt/trio-stt/.venv .venv
COPY --from=build /opt/trio-stt/models models
COPY --from=build /opt/trio-stt/trio_stt trio_stt
COPY --from=build /opt/trio-stt/agent agent
ENV PATH=/opt/trio-stt/.venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    SERVER_HOST=0.0.0.0 \
    CACHE_DIR=/var/cache/trio-stt
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# Not through a proxy of the environment, and in the image's own Python: there is no curl.
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python3", "-ISc", "import http.client, os, sys\nserver = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('SERVER_PORT') or 8000), timeout=2)\nserver.request('GET', '/health/simple')\nsys.exit(server.getresponse().status != 200)"]
# Process 1 is the server itself, so it is what SIGTERM drains.
ENTRYPOINT ["python", "-m", "trio_stt"]
CMD ["serve"]
