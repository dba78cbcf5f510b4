"""`python -m trtllm_openai` is the command `trtllm-openai`."""

import sys

from trtllm_openai.cli import main

if __name__ == "__main__":
    sys.exit(main())
