"""State and payloads between members: copies of the running state, the leader that sends one, the
follower that installs it, and payloads that travel before the entries that name them."""
