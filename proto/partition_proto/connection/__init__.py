"""TLS of the connections that client, replica and operator open. `pem` checks PEM files before gRPC
reads them, `renewed` reads them again when they change, `channel` keeps a channel usable then, and
`handshake` names the reason of a failed TLS handshake. Imports neither services nor users."""
