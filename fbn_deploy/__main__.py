"""``python -m fbn_deploy`` is ``fbn``."""

from fbn_deploy.cli import main

main()
