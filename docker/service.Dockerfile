# The service, on the CPU or, with --build-arg ENGINE=gpu, on CUDA. See docker/README.md.
FROM python:3.11-slim-bookworm AS requirements
WORKDIR /build
ARG ENGINE=cpu
COPY docker/requirements.py pyproject.toml ./
RUN python requirements.py "$ENGINE" >requirements.txt

FROM python:3.11-slim-bookworm AS packages
# Where pip looks, for builders that do not reach the public index. No part of the final image.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_NO_INDEX
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python -m venv --without-pip /venv
COPY constraints.txt docker/gpu-constraints.txt ./
# As long as these files stay as they are, so does the layer.
COPY --from=requirements /build/requirements.txt ./
RUN python -m pip --python /venv/bin/python install -q --only-binary=:all: \
    -c constraints.txt -c gpu-constraints.txt -r requirements.txt
WORKDIR /srv
COPY app app/
COPY docker/healthcheck.py ./
# Nothing can be compiled later: the root file system is read-only.
RUN python -m compileall -q --invalidation-mode unchecked-hash .

FROM python:3.11-slim-bookworm
# A new volume takes its owner from this directory, whichever image mounts it first.
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin ctr \
    && install -d -o ctr -g ctr /bundles
COPY --from=packages /venv /venv
COPY --from=packages /srv /srv
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 CTR_HOST=0.0.0.0 CTR_BUNDLE=/bundles
WORKDIR /srv
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-IS", "healthcheck.py"]
ENTRYPOINT ["python", "-m", "app"]
