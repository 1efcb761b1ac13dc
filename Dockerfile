# One image for both halves of offbeat: `docker run IMAGE train ...` is a trainer's job, and `docker run IMAGE work ...`
# the worker, which is also what runs without arguments (`--entrypoint python IMAGE -m worker` is the same).
# It holds no secret and no model: settings come from OFFBEAT_* variables or a mounted file, models from a volume.

ARG PYTHON_IMAGE=python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS build

# torch's CPU-only wheels; an index with CUDA makes an image for GPUs, several GB larger.
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/offbeat
ENV PATH=/opt/offbeat/bin:$PATH
WORKDIR /src

# What changes least comes first: a change of our own code downloads nothing again.
RUN pip install --index-url "${TORCH_INDEX_URL}" torch torchvision
COPY pyproject.toml ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > requirements.txt \
    && pip install --requirement requirements.txt
COPY README.md LICENSE offbeat.py ./
COPY detector ./detector
COPY transport ./transport
COPY trainer ./trainer
COPY worker ./worker
COPY demo ./demo
RUN pip install --no-deps .


FROM ${PYTHON_IMAGE}

# A fixed id, so that volumes keep their owner when the image is built again.
RUN groupadd --gid 10001 offbeat \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /work offbeat \
    && mkdir -p /work /models /data \
    && chown offbeat:offbeat /work /models /data
COPY --from=build /opt/offbeat /opt/offbeat
# What numba compiles for histories is gone with the container: a volume at NUMBA_CACHE_DIR saves each start half a minute.
ENV PATH=/opt/offbeat/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    NUMBA_CACHE_DIR=/tmp/numba \
    OFFBEAT_MODELS=/models
USER 10001:10001
WORKDIR /work
EXPOSE 9464

# Of the worker. A trainer's job serves no HTTP: run it with --no-healthcheck.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ.get('OFFBEAT_HTTP__PORT', '9464') + '/livez', timeout=4)"]

STOPSIGNAL SIGTERM
ENTRYPOINT ["offbeat"]
CMD ["work"]
