# The demo page on a CPU:
#   docker build -t paddle-vitae .
#   docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/RUN:/model:ro" paddle-vitae
# RUN is a run's folder. More flags, or another command, stand behind the image's name; see
# docs/serve.md.
FROM python:3.11-slim

# gcc builds the kernels when a processor is met for the first time; libgomp1 is Paddle's
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev libgomp1 \
    && rm -rf /var/lib/apt/lists/*

COPY . /src
RUN pip install --no-cache-dir "/src[cpu,serve]" && rm -rf /src

RUN useradd --create-home --uid 1000 vitae
USER vitae
WORKDIR /home/vitae

# All free cores compute; `docker run --cpus` and -e OMP_NUM_THREADS=N take fewer.
ENV PYTHONUNBUFFERED=1
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/api/model', timeout=9)"]

ENTRYPOINT ["paddle-vitae"]
CMD ["serve", "-pretrained", "/model", "-host", "0.0.0.0"]
