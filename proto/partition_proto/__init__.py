"""The gRPC services and their messages; `v1` is generated from the .proto files beside it."""
