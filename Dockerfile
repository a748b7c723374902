# One image for every process of a deployment; docker-compose.yml says which is which.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

RUN useradd --create-home --uid 10001 pooltasks \
    && install --directory --owner=pooltasks --group=pooltasks /srv/pooltasks /data

# The dependencies change less often than the code: a layer of their own.
WORKDIR /build
COPY requirements.lock ./
RUN pip install --require-hashes -r requirements.lock

COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY pooltasks ./pooltasks
RUN pip install --no-deps --no-build-isolation .

# The deployment's own code; its settings are mounted at /srv/pooltasks/config.
WORKDIR /srv/pooltasks
COPY workers ./workers

USER pooltasks
CMD ["celery", "-A", "pooltasks", "worker", "-Q", "pool.control", "-n", "control@%h", "-l", "info"]
