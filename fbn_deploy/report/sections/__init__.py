"""One file a section: its ``TITLE``, and ``section(run)``, what stands below it."""
