"""Makes what is committed and derived: `python -m dev.generate`. Each part writes into a folder."""
