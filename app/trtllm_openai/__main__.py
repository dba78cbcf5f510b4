"""`python -m trtllm_openai` is the command `trtllm-openai`."""

import os
import sys


def leave_working_directory() -> None:
    """Take the working directory off the path, where `python -m` puts it first.

    A `json.py` there would be imported for the library's. It stays if this package is in it.
    """
    package_root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if not sys.flags.safe_path and os.path.abspath(sys.path[0]) == os.getcwd() != package_root:
        del sys.path[0]


if __name__ == "__main__":
    leave_working_directory()
    from trtllm_openai.cli import main

    sys.exit(main())
