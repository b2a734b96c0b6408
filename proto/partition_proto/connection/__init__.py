"""TLS of the connections that client, replica and operator open. `pem` checks PEM files before gRPC
reads them, `channel` keeps a channel usable when its certificate changes, and `handshake` names the
reason of a failed TLS handshake. Imports neither the services nor its users."""
