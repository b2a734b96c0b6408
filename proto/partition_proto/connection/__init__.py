"""TLS for the connections that client, replica and operator open.

`pem` checks PEM files before gRPC reads them. `renewed` reads them again when they change.
`channel` keeps a channel usable after such a change. `handshake` finds the reason of a failed TLS
handshake. `contexts` makes SSL contexts for connections without gRPC.
This package imports neither the gRPC services nor the programs that use it."""
