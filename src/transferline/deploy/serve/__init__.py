"""The HTTP service: `transferline serve MODEL`. Needs the extra `transferline[serve]`."""
