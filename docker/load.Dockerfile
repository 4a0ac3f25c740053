# The load generator. See docker/README.md.
FROM python:3.11-slim-bookworm AS packages
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_NO_INDEX
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python -m venv --without-pip /venv
COPY constraints.txt ./
RUN python -m pip --python /venv/bin/python install -q --only-binary=:all: \
    -c constraints.txt httpx msgspec numpy
WORKDIR /srv
COPY app app/
COPY tests/__init__.py tests/
COPY tests/load tests/load/
RUN python -m compileall -q --invalidation-mode unchecked-hash .

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin ctr \
    && install -d -o ctr -g ctr /bundles
COPY --from=packages /venv /venv
COPY --from=packages /srv /srv
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /srv
USER 10001:10001
STOPSIGNAL SIGINT
HEALTHCHECK NONE
ENTRYPOINT ["python", "-m", "tests.load"]
