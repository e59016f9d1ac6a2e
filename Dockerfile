# One file, two images:
#   docker build --target serve --tag imgclf-serve .                            answers over HTTP, without PyTorch
#   docker build --target train --build-arg DEVICE=cuda --tag imgclf-train .    runs notebooks by papermill
# The base image is pinned by its tag. A tag can be moved to another image: where that matters, append
# @sha256:… as `docker buildx imagetools inspect python:TAG` prints it.
ARG PYTHON=3.11.14-slim-bookworm

# A user with a fixed number, so that volumes can be given to it, and folders that volumes cover
FROM python:${PYTHON} AS base
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
ENV ORT_DISABLE_TELEMETRY=1 HF_HUB_DISABLE_TELEMETRY=1
ENV IMGCLF_HOME=/app IMGCLF_RUNS=/runs IMGCLF_RECORDS=/records IMGCLF_CACHE=/cache
RUN groupadd --gid 10001 imgclf \
    && useradd --uid 10001 --gid imgclf --create-home --shell /usr/sbin/nologin imgclf \
    && install --directory --owner=imgclf --group=imgclf /app /runs /records /cache
WORKDIR /app

# What serving needs, in the versions that were tested, and the package without its own requirements.
# --only-binary: nothing is compiled, so no stage has a compiler
FROM base AS build
COPY deploy/requirements.py settings.ini requirements.lock ./
RUN python requirements.py serve > serve.txt \
    && python requirements.py versions > versions.txt \
    && python -m venv --without-pip /venv \
    && pip --python /venv/bin/python install --only-binary :all: --constraint versions.txt --requirement serve.txt
COPY README.md setup.py pyproject.toml ./
COPY imgclf_nb imgclf_nb
RUN pip --python /venv/bin/python install --no-deps .

# Training: PyTorch for DEVICE, papermill, the notebooks
FROM base AS train
ARG DEVICE=cpu
COPY deploy/requirements.py settings.ini requirements.lock README.md setup.py pyproject.toml ./
COPY imgclf_nb imgclf_nb
RUN case "$DEVICE" in \
        cpu) index=https://download.pytorch.org/whl/cpu ;; \
        cuda) index=https://pypi.org/simple ;; \
        *) echo "DEVICE is cpu or cuda, not $DEVICE." >&2; exit 1 ;; \
    esac \
    && python requirements.py versions > versions.txt \
    && pip install --extra-index-url "$index" --constraint versions.txt --editable .
COPY nbs nbs
ENV JUPYTER_PREFER_ENV_PATH=1
USER 10001:10001
ENTRYPOINT ["papermill"]
CMD ["nbs/04_train.ipynb", "/runs/train.ipynb"]

# Serving, which is what a build without --target makes
FROM base AS serve
ARG DEVICE=cpu
RUN if [ "$DEVICE" != cpu ]; then \
        echo "Serving computes on the processor: DEVICE=$DEVICE is for --target train." >&2; exit 1; \
    fi \
    && pip uninstall --yes pip setuptools wheel
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["imgclf_serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["--help"]
