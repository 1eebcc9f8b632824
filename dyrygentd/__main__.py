"""``python -m dyrygentd`` is `dyrygentd`."""

from dyrygentd.cli.serve import main

main(prog_name="dyrygentd")
