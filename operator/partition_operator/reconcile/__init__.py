"""What is to be done: (what was asked for, what is seen) in, one safe step out. Pure; a file a
concern. `plan` puts the concerns in order."""
