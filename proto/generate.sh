#!/bin/sh
# Regenerates the committed Python code of the services. `make generate` calls it.
set -eu
cd "$(dirname "$0")"
python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. --grpc_python_out=. partition_proto/v1/*.proto
