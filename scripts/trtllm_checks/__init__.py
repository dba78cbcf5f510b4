"""The checks of `scripts/verify_trtllm.py`: what the server relies on, proved on the real TensorRT-LLM."""
