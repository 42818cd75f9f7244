# The planner on a CPU: analyze, plan, rewrite, diff, check. Engines are built where the GPU is, in NVIDIA's containers.
#   docker build -t planner . && docker run --rm -v "$PWD:/work" planner analyze model.onnx
FROM python:3.12-slim
COPY . /src
RUN pip install --no-cache-dir "/src[cpu]" && rm -rf /src && useradd --create-home --uid 10001 planner
USER 10001
WORKDIR /work
ENTRYPOINT ["planner"]
CMD ["--help"]
