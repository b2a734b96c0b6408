# The operator's and the replicas' image:
#
#   make site && docker build -t partition-operator .
#
# The base needs Python 3.11: dist/site holds its bytecode, and a module that is built for it.
ARG BASE_IMAGE=python:3.11-slim-bookworm
FROM ${BASE_IMAGE}
# The official images come without the bytecode of Python's own library, and a container can't write it.
RUN python -c "import compileall, sysconfig; compileall.compile_dir(sysconfig.get_path('stdlib'), quiet=2)"
COPY dist/site /opt/partition
ENV PYTHONPATH=/opt/partition \
    PATH=/opt/partition/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
