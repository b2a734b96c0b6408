"""What client, replica and operator do alike about a connection: PEM files that are checked before
gRPC sees them (`pem`), channels that outlive a certificate (`channel`), and the name of a TLS
handshake's failure (`handshake`). Knows nothing of the services, nor of its users."""
