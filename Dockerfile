# `transferline serve` and what it imports, without torch, MLflow or CUDA. See docs/deploy.md, "A container".
#   docker build -t transferline-serve .
#   docker run --rm --read-only --tmpfs /tmp -p 8000:8000 -v "$PWD/models/onnx:/model:ro" transferline-serve

FROM python:3.11-slim AS build
RUN pip install --no-cache-dir uv
WORKDIR /build
ENV UV_COMPILE_BYTECODE=1 UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never VIRTUAL_ENV=/opt/transferline
RUN uv venv "$VIRTUAL_ENV"
# What is installed is what uv.lock pins, by its hashes; this layer is rebuilt when they change, not with the source.
COPY pyproject.toml uv.lock ./
RUN uv export --frozen --only-group image --no-emit-project --output-file requirements.txt \
    && uv pip install --require-hashes --requirement requirements.txt
COPY README.md LICENSE NOTICE ./
COPY src src
RUN uv pip install --no-deps .

FROM python:3.11-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin transferline
COPY --from=build /opt/transferline /opt/transferline
ENV PATH=/opt/transferline/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 8000
# urllib raises where the answer is 503, as while it starts or stops.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/readyz', timeout=4).read()"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["transferline", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["/model/model.onnx"]
