"""The next step of a Partition. Pure; a module for each concern. `plan` puts the concerns in
order."""
