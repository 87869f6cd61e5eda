"""One file a command: it defines ``command``, or ``app`` where it has commands of its own."""
