# The trainer: torch, the network, export and publishing; with EXTRAS=cluster on a Ray cluster,
# too. See docker/README.md.
FROM python:3.11-slim-bookworm AS requirements
WORKDIR /build
ARG EXTRAS=
COPY docker/requirements.py pyproject.toml ./
# Several extras are several words.
# hadolint ignore=SC2086
RUN python requirements.py cpu train $EXTRAS >requirements.txt

FROM python:3.11-slim-bookworm AS packages
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_NO_INDEX
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
# With pip: `python -m model fetch` downloads through it.
RUN python -m venv /venv
COPY constraints.txt ./
# As long as these two stay as they are, so does the layer.
COPY --from=requirements /build/requirements.txt ./
RUN /venv/bin/python -m pip install -q --only-binary=:all: -c constraints.txt -r requirements.txt
WORKDIR /srv
COPY app app/
COPY model model/
COPY docker/first-bundle docker/daily-bundle ./
RUN python -m compileall -q --invalidation-mode unchecked-hash .

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin ctr \
    && install -d -o ctr -g ctr /bundles /data /encoded
COPY --from=packages /venv /venv
COPY --from=packages /srv /srv
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /srv
USER 10001:10001
STOPSIGNAL SIGTERM
# Commands that end; Compose waits for their exit code.
HEALTHCHECK NONE
ENTRYPOINT ["python", "-m", "model"]
